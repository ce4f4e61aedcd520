"""What a training starts from: a resolved config, its images, processes, and a directory that may be written to."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gems_edge.data.mixture import Mixture, MixtureSampler, load_mixture, mixture_sampler
from gems_edge.data.specs import located
from gems_edge.errors import UserError
from gems_edge.meta.allocator import keep_freed_memory
from gems_edge.meta.processes import Processes, start_processes
from gems_edge.meta.run import Run
from gems_edge.meta.settings.base import to_table
from gems_edge.meta.settings.run import WHOLE, TrainConfig, write_config
from gems_edge.meta.settings.stored import CONFIG_SUM_FILE
from gems_edge.meta.settings.ticket import TICKETS
from gems_edge.models.backbones.registry import BACKBONES
from gems_edge.models.network_file import COPY, NetworkFile, read_network_file
from gems_edge.models.pretrained import NO_PRETRAINED, PRETRAINED, RANDOM, Pretrained, read_pretrained
from gems_edge.models.spec import full_widths
from gems_edge.progress import Say, silent


@dataclass(frozen=True)
class Start:
    """What trainings begin with: a resolved config, its images, and the processes that train."""

    config: TrainConfig
    images: Mixture
    processes: Processes

    def training_sampler(self) -> MixtureSampler:
        """Draws the tasks of the meta-batches."""
        config = self.config
        return mixture_sampler(
            self.images, "train", config.training_ways, config.shots, config.queries, config.seed,
            weights=config.data_weights, rotate=config.rotate_classes,
        )  # fmt: skip

    def check(self, run: Run) -> None:
        """UserError if `run` is not this training's, begun or new; writes nothing."""
        check_directory(run, resume=True)
        check_same(run, self.config)

    def begin(self, run: Run) -> None:
        """Write the config of a new run, the first thing written."""
        self.processes.wait()  # until all have looked at the directory
        if self.processes.first:
            if not run.config_path.exists():
                run.directory.mkdir(parents=True, exist_ok=True)
                write_config(run.config_path, self.config)
            run.remove_leftovers()
        self.processes.wait()


@contextmanager
def starting(
    run: Run,
    config: TrainConfig,
    *,
    resume: bool = False,
    root: Path | None = None,
    processes: Processes | None = None,
    say: Say = silent,
) -> Iterator[Start]:
    """Processes (those of the caller, or started and left here) and images for trainings into `run`; writes nothing.

    Raises UserError for a directory that is not empty (without `resume`), and as `resolve`.
    """
    check_directory(run, resume)
    joined = processes or start_processes(config.compute)
    resolved, images = joined.first_of_node(lambda: resolve(config, root, say if joined.first else silent))
    if joined.device.type == "cpu":
        keep_freed_memory()
    yield Start(resolved, images, joined)
    if processes is None:
        joined.leave()


def resolve(config: TrainConfig, root: Path | None = None, say: Say = silent) -> tuple[TrainConfig, Mixture]:
    """The images, and the config with absolute paths, the image size, the channels, every width and what is known of
    pretrained weights filled in.

    `root` and `say`: as load_mixture.
    """
    _check_ticket(config)
    backbone, file = _network(config)
    data = located(config.data, root)
    images = load_mixture(
        data,
        image_size=config.image_size or None,
        channels=config.channels or None,
        root=root,
        skip_bad=config.skip_bad,
        say=say,
    )
    size, channels = images.shape
    widths = full_widths(config.widths, backbone, config.width_multiplier, channels, size, file)
    init, pretrained = _pretrained(config, backbone, channels)
    dense = config.ticket.dense_run
    ticket = replace(config.ticket, dense_run=str(Path(dense).absolute())) if dense else config.ticket
    classes = min(len(each.of_split("train")) for each in images.sets)
    resolved = replace(
        config, data=data, image_size=size, channels=channels, backbone=backbone, backbone_file=file, widths=widths,
        width_multiplier=1.0, ticket=ticket, init=init, pretrained=pretrained,
        train_ways=min(config.train_ways, max(2, classes)),
    )  # fmt: skip
    return replace(resolved, learn_from=_cut_name(resolved)), images


def _check_ticket(config: TrainConfig) -> None:
    """UserError for a ticket that does not go with where weights come from, or with what stays as it is."""
    if config.dense:
        return
    if config.init != RANDOM and TICKETS[config.ticket.method].start == "fresh":
        raise UserError(f"--ticket {config.ticket.method} draws every weight anew; leave --init out")
    if config.splits and config.ticket.unit == "channel":
        raise UserError(
            f"--unit channel with --learn-from {config.learn_from}: what stays as it is would lose channels and never "
            f"learn to do without; add --learn-from {WHOLE}"
        )


def _cut_name(config: TrainConfig) -> str:
    """`learn_from` by the name of its place; UserError for settings that do not fit together."""
    cut = config.model_spec().cut
    if cut is None:
        return config.learn_from
    if not cut.layer and not config.rule.moves_head:
        raise UserError(
            f"--learn-from {config.learn_from} with --method {config.method}, which never moves the head, leaves "
            "nothing to learn; choose a lower place, or --method maml"
        )
    return cut.name


def _pretrained(config: TrainConfig, backbone: str, channels: int) -> tuple[str, Pretrained]:
    """Where pretrained weights come from, and what is known of them, which is read here where no run has before."""
    if config.init == RANDOM:
        if config.normalization == "frozen":
            raise UserError(
                "--normalization frozen uses the statistics of a pretraining, and --init random has none; "
                "add --init pretrained, or use another mode"
            )
        return config.init, NO_PRETRAINED
    init = config.init if config.init == PRETRAINED else str(Path(config.init).absolute())
    about = config.pretrained if config.pretrained.sha256 else read_pretrained(init, backbone).about
    if (len(about.pixels.mean) > 1 and channels != len(about.pixels.mean)) or (init == PRETRAINED and channels != 3):
        raise UserError(f"--init {config.init}: the weights read colour, the images are grey; use --channels 3")
    return init, about


def _network(config: TrainConfig) -> tuple[str, NetworkFile]:
    """The backbone's name and file, which is read here where no run has read it before."""
    if config.backbone in BACKBONES or config.backbone_file.source:
        return config.backbone, config.backbone_file
    return read_network_file(config.backbone)


def check_directory(run: Run, resume: bool) -> None:
    """UserError if training into this directory would touch something that is not this run; writes nothing."""
    directory = run.directory
    for path in (directory, *directory.absolute().parents):
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file; choose another directory")
    if run.config_path.exists():
        if not resume:
            raise UserError(
                f"{directory} holds a run already; add --resume to go on with it, or choose another directory"
            )
    elif directory.exists() and not _only_begun({path.name for path in directory.iterdir()}):
        raise UserError(f"{directory} is not empty and holds no run; choose another directory")


def _only_begun(names: set[str]) -> bool:
    """Whether these files are what a kill leaves of a run that was about to begin."""
    written = {name for name in names if not (name.startswith(".") and name.endswith(".tmp"))}
    return not written or (CONFIG_SUM_FILE in written and written <= {CONFIG_SUM_FILE, COPY})


def check_same(run: Run, config: TrainConfig) -> None:
    """UserError if the run was started with another config than this resolved one."""
    if not run.config_path.exists():
        return
    stored = replace(run.config(), compute=config.compute)  # where it runs does not define a run
    if stored != config:
        name, there, wanted = _first_difference(to_table(stored), to_table(config))
        raise UserError(
            f"{run.directory} was started with {name} = {there!r}, not {wanted!r}; "
            "resume it without that option, or train in another directory"
        )


def _first_difference(stored: dict[str, Any], wanted: dict[str, Any]) -> tuple[str, Any, Any]:
    name = next(n for n in {**stored, **wanted} if stored.get(n) != wanted.get(n))
    there, here = stored.get(name, {}), wanted.get(name, {})
    return _first_difference(there, here) if isinstance(there, dict) and there and here else (name, there, here)
