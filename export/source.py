"""What an export starts from: a run, its model, and the episodes that it is measured on."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gems_edge.data.episodes import EpisodeSampler
from gems_edge.data.mixture import Mixture, MixtureSampler, load_mixture, mixture_sampler
from gems_edge.data.specs import distribution_name, own_specs
from gems_edge.data.tensors import EpisodeTensors, episode_tensors
from gems_edge.errors import UserError
from gems_edge.export.quantise import check_quantisable
from gems_edge.meta.processes import single_process, start_processes
from gems_edge.meta.rules.base import Rule
from gems_edge.meta.rules.registry import rule_of
from gems_edge.meta.run import Run
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.models.fewshot import FewShotModel, Weights
from gems_edge.models.ticket import Ticket


@dataclass(frozen=True)
class ExportOptions:
    ratio: float
    recover_iterations: int | None  # None: a quarter of the run's
    round_to: int
    episodes: int  # for the accuracies in the manifest
    seed: int
    compute: str = "auto"  # for recovery and evaluation
    root: Path | None = None
    for_data: str | None = None  # the distribution to freeze a GEMS run's choices for
    tasks: int = 100  # validation tasks that decide what is frozen
    int8: bool = False  # write predict.int8.onnx too
    memory: str = "balanced"  # how much adapt.onnx may take: streaming.MEMORY
    steps: int | None = None  # gradient steps on the board; None: the run's own number


@dataclass(frozen=True)
class Reports:
    """How the pipeline tells what it is doing; a display is open only while its phase runs."""

    say: Callable[[str], None]
    training: Callable[[], AbstractContextManager] = nullcontext
    evaluation: Callable[[str, int], AbstractContextManager] = lambda label, total: nullcontext()


@dataclass(frozen=True)
class Source:
    run: Run
    config: TrainConfig  # as the board runs it
    place: Any  # the torch device to recover and evaluate on
    model: FewShotModel
    weights: Weights
    rule: Rule
    dense: FewShotModel  # the network before any channel went
    ticket: Ticket | None
    images: Mixture
    tensors: EpisodeTensors
    sampler: MixtureSampler  # test episodes
    choosing: EpisodeSampler | None  # validation episodes that decide what --for-data freezes
    calibrating: MixtureSampler | None  # validation episodes that int8 is calibrated on


def open_source(directory: Path, options: ExportOptions, reports: Reports) -> Source:
    """The run in `directory` with all that an export needs of it.

    Raises UserError for a directory that is no finished run, and for images that cannot give the episodes.
    """
    single_process("export")
    run = Run(directory)
    if options.for_data:
        options = replace(options, for_data=own_specs((options.for_data,), run.config().data)[0])
    run = _own_run(run, options, reports)
    config = replace(board_config(run.config()), compute=options.compute)
    if options.steps is not None:
        config = replace(config, steps=options.steps)
    place = start_processes(options.compute).device
    model, weights = run.model(config)
    images = load_mixture(
        (options.for_data,) if options.for_data else config.data,
        image_size=config.image_size,
        channels=config.channels,
        root=options.root,
    )
    if options.int8:
        check_quantisable(config.normalization)
    protocol = (config.ways, config.shots, config.queries, options.seed)
    return Source(
        run,
        config,
        place,
        model,
        weights,
        rule_of(config),
        FewShotModel(config.model_spec()),
        run.ticket(config),
        images,
        episode_tensors(images, place),
        mixture_sampler(images, "test", *protocol),
        # Made here, so that images that cannot give them are refused before anything is trained.
        mixture_sampler(images, "val", *protocol).samplers[0] if options.for_data else None,
        mixture_sampler(images, "val", *protocol) if options.int8 else None,
    )


def _own_run(run: Run, options: ExportOptions, reports: Reports) -> Run:
    """`run`, or of a multi-maml run the one of the distribution that the bundle is for."""
    parts = run.distributions()
    if not parts:
        return run
    name = options.for_data and distribution_name(options.for_data)
    if name not in parts:
        raise UserError(
            f"{run.directory} holds one model for each distribution; choose one with --for-data {'|'.join(parts)}"
        )
    reports.say(f"{run.directory}: the model of {name}")
    return parts[name]


def board_config(config: TrainConfig) -> TrainConfig:
    """A board sees one image at a time, so a transductive run is exported in mode "support"."""
    return replace(config, normalization="support") if config.normalization == "transductive" else config
