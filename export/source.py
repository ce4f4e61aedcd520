"""What an export starts from: a run, its model, and the episodes that it is measured on."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gems_edge.data.episodes import EpisodeSampler
from gems_edge.data.mixture import Mixture, MixtureSampler, load_mixture, mixture_sampler
from gems_edge.data.shots import Shots
from gems_edge.data.specs import distribution_name, own_specs
from gems_edge.data.tensors import Episodes, EpisodeTensors, episode_tensors
from gems_edge.device.bundle import IMAGES
from gems_edge.errors import UserError
from gems_edge.export.graphs import CLASSES
from gems_edge.meta.features import episodes_of
from gems_edge.meta.meta_model import MetaModel as MetaModel
from gems_edge.meta.meta_model import halves
from gems_edge.meta.processes import alone, single_process, start_processes
from gems_edge.meta.rules.registry import rule_of
from gems_edge.meta.run import Run
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.models.fewshot import FewShotModel
from gems_edge.models.normalization import Normalization
from gems_edge.models.ticket import Ticket
from gems_edge.progress import Phase, no_display


@dataclass(frozen=True)
class ExportOptions:
    ratio: float
    recover_iterations: int | None  # None: as recovery.py has it
    round_to: int
    episodes: int  # for the accuracies in the manifest
    seed: int
    compute: str = "auto"  # for recovery and evaluation
    root: Path | None = None
    for_data: str | None = None  # the distribution to freeze a GEMS run's choices for
    tasks: int = 100  # validation tasks that decide what is frozen
    int8: bool | None = None  # write predict.int8.onnx too; None: for boards, of a network that has such a form
    for_boards: bool = False  # boards were named, all of which are Arm's, that onnxruntime runs on
    memory: str = "balanced"  # how much adapt.onnx may take: passes.stream.MEMORY
    steps: int | None = None  # gradient steps on the board; None: chosen on validation episodes
    sign: Path | None = None  # OpenSSH's private key, or public where an agent holds it
    product: str | None = None  # None: the bundle's name, where it is signed
    release: int | None = None  # None: the time, where it is signed


@dataclass(frozen=True)
class Reports:
    """How the pipeline tells what it is doing; a display is open only while its phase runs."""

    say: Callable[[str], None]
    training: Callable[[], AbstractContextManager[Callable[[dict[str, Any]], None] | None]] = nullcontext
    evaluation: Phase = no_display


@dataclass(frozen=True)
class Source:
    run: Run
    config: TrainConfig  # as the board runs it
    device: torch.device  # to recover and evaluate on
    trained: MetaModel
    dense: FewShotModel  # the network before any channel went
    ticket: Ticket | None
    images: Mixture
    tensors: EpisodeTensors
    sampler: MixtureSampler  # test episodes, with the shots that the run was trained with
    tests: tuple[MixtureSampler, ...]  # … and with their least and most alone; accuracies are of these
    validating: tuple[MixtureSampler, ...]  # … of validation, on which steps are chosen; none where there is no choice
    choosing: EpisodeSampler | None  # validation episodes that decide what --for-data freezes
    calibrating: MixtureSampler | None  # validation episodes that int8 is calibrated on

    @property
    def sizes(self) -> dict[str, int]:
        """The support set that adapt.onnx is planned for."""
        return {IMAGES: self.config.shots.images(self.config.ways), CLASSES: self.config.ways}


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
    device = start_processes(options.compute).device
    model, weights = run.model(config)
    images = load_mixture(
        (options.for_data,) if options.for_data else config.data,
        image_size=config.image_size,
        channels=config.channels,
        root=options.root,
        skip_bad=config.skip_bad,
    )
    if options.int8:
        check_quantisable(model)
    int8 = options.for_boards and is_quantisable(model) if options.int8 is None else options.int8

    def sampler(split: str, shots: Shots = config.shots) -> MixtureSampler:
        return mixture_sampler(images, split, config.ways, shots, config.queries, options.seed)

    return Source(
        run=run,
        config=config,
        device=device,
        trained=MetaModel(model, weights, rule_of(config)),
        dense=FewShotModel(config.model_spec()),
        ticket=run.ticket(config),
        images=images,
        tensors=episode_tensors(images, device),
        sampler=sampler("test"),
        tests=tuple(sampler("test", shots) for shots in config.shots.ends),
        # Made here, so that images that cannot give them are refused before anything is trained.
        validating=tuple(sampler("val", shots) for shots in config.shots.ends if options.steps is None),
        choosing=sampler("val").samplers[0] if options.for_data else None,
        calibrating=sampler("val") if int8 else None,
    )


@dataclass(frozen=True)
class Read:
    """What episodes run through: a network, or what of it lies above its cut, and the images or features it reads."""

    learned: MetaModel
    episodes: Episodes


def read_by(learned: MetaModel, source: Source, split: str, phase: Phase = no_display) -> Read:
    """What episodes of `split` run through: above the run's cut, where it has one."""
    cut = learned.model.spec.cut
    if cut is None:
        return Read(learned, source.tensors)
    parts = halves(learned, cut)
    return Read(parts.learned, episodes_of(parts, source.images, (split,), alone(source.device), phase))


def is_quantisable(model: FewShotModel) -> bool:
    return not any(isinstance(module, Normalization) and module.groups for module in model.modules())


def check_quantisable(model: FewShotModel) -> None:
    """UserError for a network with a normalisation that cannot be folded into convolutions."""
    if not is_quantisable(model):
        raise UserError(
            "--int8 needs normalisation that folds into the convolutions: mode group, as GroupNorm, computes it from "
            "every image, and between quantised convolutions that is slower than float32; export without --int8, or "
            "train a network of batch normalisations with --normalization support"
        )


def _own_run(run: Run, options: ExportOptions, reports: Reports) -> Run:
    """`run`, or of a multi-maml run the one of the distribution that the bundle is for."""
    parts = run.distributions()
    if not parts:
        return run
    name = distribution_name(options.for_data) if options.for_data else None
    if name not in parts:
        raise UserError(
            f"{run.directory} holds one model for each distribution; choose one with --for-data {'|'.join(parts)}"
        )
    reports.say(f"{run.directory}: the model of {name}")
    return parts[name]


def board_config(config: TrainConfig) -> TrainConfig:
    """A board sees one image at a time, so a transductive run is exported in mode "support"."""
    return replace(config, normalization="support") if config.normalization == "transductive" else config
