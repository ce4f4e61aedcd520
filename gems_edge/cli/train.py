"""gems-edge train: meta-train a few-shot model into a run directory."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gems_edge.cli.common import PATH, data_root_option, emit, json_option, refuse_device, say
from gems_edge.cli.options import config_options, given_config
from gems_edge.data.specs import specs_text
from gems_edge.errors import UserError
from gems_edge.meta.settings.pretrained import default_config
from gems_edge.meta.settings.run import TrainConfig, read_config
from gems_edge.wording import accuracy_text

if TYPE_CHECKING:
    from gems_edge.data.shots import Shots


@click.command(context_settings={"show_default": False})
@click.option("-o", "--output", "output", type=PATH, required=True, help="Run directory to write.")
@click.option("--resume", is_flag=True, help="Go on with the run in --output from its last checkpoint.")
@click.option("--config", "config_file", type=PATH, help="Start from the config.toml of another run.")
@data_root_option
@click.option("--ticket-file", type=PATH, help="Train the ticket in this file instead of finding one.")
@config_options
@refuse_device
@json_option
def command(
    output: Path,
    resume: bool,
    config_file: Path | None,
    root: Path | None,
    ticket_file: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Meta-train a few-shot model; with --ticket, find a sparse network in it and train that.

    \b
    Examples:
      gems-edge train --data glyphs -o runs/glyphs
      gems-edge train --data folder:photos --backbone efficientnet-lite0 --init pretrained -o runs/photos
      gems-edge train --resume -o runs/photos
      gems-edge train --data folder:fruit,packed:signs.npz --method bmp -o runs/both
      gems-edge train --data glyphs --ticket pmt --interval 20 --unit channel --ratio 0.8 -o runs/small
      torchrun --nproc-per-node 4 -m gems_edge train --data glyphs -o runs/four
    """
    config = given_config(_base(output, resume, config_file, options), options)
    if ticket_file and config.dense:
        raise UserError("--ticket-file needs --ticket: the method that made the file (see gems-edge ticket show)")
    if remark := config.remark():
        say(remark)
    train = partial(_train, output, config, ticket_file, resume=resume, root=root)
    if os.environ.get("RANK", "0") != "0":  # the first process speaks for all
        train()
        return
    from gems_edge.cli.progress import training_progress

    with training_progress() as progress:
        best = train(progress=progress, say=say)
    if as_json:
        emit({"run": str(output), "best": best, "normalization": config.normalization, "data": specs_text(config.data)})
    else:
        say(
            f"{output}: best validation {accuracy_text(best)} "
            f"({config.ways}-way {_shots_text(config.shots)}, {config.normalization}) at iteration {best['iteration']}"
        )


def _shots_text(shots: "Shots") -> str:
    """ "1-shot", "1 to 5 shots"."""
    return f"{shots}-shot" if shots.least == shots.most else f"{shots.least} to {shots.most} shots"


def _base(output: Path, resume: bool, config_file: Path | None, options: Mapping[str, Any]) -> TrainConfig:
    """The settings that the options change: of the run to go on with, of a file, or the defaults."""
    if not resume:
        return read_config(config_file) if config_file else default_config(options)
    if not (output / "config.toml").exists():
        raise UserError(
            f"{output} holds no run to go on with; give -o the run's directory, or begin a run without --resume"
        )
    return read_config(output / "config.toml")


def _train(output: Path, config: TrainConfig, ticket_file: Path | None, **options: Any) -> dict[str, float]:
    """Train what the settings ask for: a ticket, a model for each distribution, or one for all."""
    from gems_edge.meta.run import Run

    run = Run(output)
    if not config.dense:
        from gems_edge.tickets.training import train_ticket

        return train_ticket(run, config, ticket_file=ticket_file, **options)
    if config.rule.one_model_each:
        from gems_edge.meta.multi import train_multi

        return train_multi(run, config, **options)
    from gems_edge.meta.train import train

    return train(run, config, **options)
