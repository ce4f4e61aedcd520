"""gems-edge train: meta-train a few-shot model into a run directory."""

import os
from pathlib import Path

import click

from gems_edge.cli.common import data_root_option, emit, json_option, refuse_device, say
from gems_edge.cli.options import config_options, given_config
from gems_edge.data.specs import specs_text
from gems_edge.errors import UserError
from gems_edge.wording import accuracy_text


@click.command(context_settings={"show_default": False})
@click.option(
    "-o", "--output", "output", type=click.Path(path_type=Path), required=True, help="Run directory to write."
)
@click.option("--resume", is_flag=True, help="Go on with the run in --output from its last checkpoint.")
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="Start from the config.toml of another run."
)
@data_root_option
@click.option(
    "--ticket-file", type=click.Path(path_type=Path), help="Train the ticket in this file instead of finding one."
)
@config_options
@refuse_device
@json_option
def command(output, resume, config_file, root, ticket_file, as_json, **options):
    """Meta-train a few-shot model; with --ticket, find a sparse network in it and train that.

    \b
    Examples:
      gems-edge train --data glyphs -o runs/glyphs
      gems-edge train --data folder:photos --image-size 84 --steps 5 -o runs/photos
      gems-edge train --resume -o runs/photos
      gems-edge train --data folder:fruit,packed:signs.npz --method bmp -o runs/both
      gems-edge train --data glyphs --ticket pmt --interval 20 --unit channel --ratio 0.8 -o runs/small
      torchrun --nproc-per-node 4 -m gems_edge train --data glyphs -o runs/four
    """
    from gems_edge.meta.settings.run import TrainConfig, read_config

    if resume:
        if not (output / "config.toml").exists():
            raise UserError(
                f"{output} holds no run to go on with; give -o the run's directory, or begin a run without --resume"
            )
        base = read_config(output / "config.toml")
    else:
        base = read_config(config_file) if config_file else TrainConfig()
    config = given_config(base, options)

    from gems_edge.cli.progress import training_progress
    from gems_edge.meta.run import Run
    from gems_edge.meta.train import train

    if config.ticket.method != "none":
        from functools import partial

        from gems_edge.tickets.training import train_ticket

        train = partial(train_ticket, given=ticket_file)
    elif config.rule.one_model_each:
        from gems_edge.meta.multi import train_multi as train
    if ticket_file and config.ticket.method == "none":
        raise UserError("--ticket-file needs --ticket: the method that made the file (see gems-edge ticket show)")
    if remark := config.remark():
        say(remark)
    if os.environ.get("RANK", "0") != "0":  # the first process speaks for all
        train(Run(output), config, resume=resume, root=root)
        return
    with training_progress() as progress:
        best = train(Run(output), config, resume=resume, progress=progress, root=root, say=say)
    if as_json:
        emit({"run": str(output), "best": best, "normalization": config.normalization, "data": specs_text(config.data)})
    else:
        say(
            f"{output}: best validation {accuracy_text(best)} "
            f"({config.ways}-way {config.shots}-shot, {config.normalization}) at iteration {best['iteration']}"
        )
