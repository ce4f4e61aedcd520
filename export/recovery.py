"""Compact networks after pruning: how much is still to go, and their training."""

import shutil
from dataclasses import replace

from safetensors.torch import load_file, save

from gems_edge.errors import UserError
from gems_edge.export.source import ExportOptions, MetaModel, Reports, Source
from gems_edge.files import write_atomic
from gems_edge.meta.run import Run
from gems_edge.meta.settings.kept import Kept
from gems_edge.meta.settings.run import WHOLE, TrainConfig, write_config
from gems_edge.meta.settings.ticket import TicketConfig
from gems_edge.meta.train import train
from gems_edge.models.fewshot import FewShotModel
from gems_edge.models.spec import ModelSpec
from gems_edge.models.tensor_names import ADAPTER
from gems_edge.tickets.channels import TOLERANCE, Pruned
from gems_edge.wording import accuracy_text


def remaining_ratio(dense: ModelSpec, trained: ModelSpec, ratio: float) -> float:
    """The share of the trained network's weights that is still to go, so that `ratio` of the dense one's are gone.

    0 where a channel ticket has removed as much (within the tolerance of pruning) or more.
    """
    if not 0 <= ratio < 1 or trained.widths == dense.widths:
        return ratio
    left = trained.backbone_weights / dense.backbone_weights
    return 0.0 if 1 - left >= ratio - TOLERANCE else 1 - (1 - ratio) / left


def recover(source: Source, pruned: Pruned, options: ExportOptions, reports: Reports) -> MetaModel:
    """Meta-train the compact network from its pruned weights, as a run inside the run: it resumes and can be evaluated.

    Returns it, with the pruned weights where nothing is to be trained.
    """
    run, config = source.run, source.config
    iterations = config.iterations // 4 if options.recover_iterations is None else options.recover_iterations
    compact = MetaModel(FewShotModel(pruned.spec), pruned.weights, source.trained.rule)
    if not iterations:
        return compact
    decides = any(name.startswith(ADAPTER) for name in pruned.weights)
    training = replace(
        config,
        widths=pruned.spec.widths,
        iterations=iterations,
        seed=config.seed + 1,
        init_seed=-1,
        keep=Kept(),
        ticket=TicketConfig(),
        keep_general=0.0,  # pruned weights are no place to be drawn back to
        # Channels went below the run's cut, too; but φ decides of the layers above it.
        learn_from=config.learn_from if decides else WHOLE,
    )
    name = f"{options.ratio:g}-{options.round_to}-{iterations}"
    name += f"-{config.steps}" if config.steps != run.config().steps else ""
    inner = Run(run.directory / "compact" / name)
    start = save({name: tensor.contiguous() for name, tensor in pruned.weights.items()})
    if inner.directory.exists() and not _continues(inner, training, start):
        shutil.rmtree(inner.directory)
    if not inner.config_path.exists():
        inner.directory.mkdir(parents=True, exist_ok=True)
        write_atomic(inner.initial_path, start)
        write_config(inner.config_path, training)
    reports.say(f"recover: {iterations} iterations of the compact network ({inner.directory})")
    with reports.training() as progress:
        best = train(
            inner, training, resume=True, initial=load_file(inner.initial_path), progress=progress, root=options.root
        )
    reports.say(f"recovered to {accuracy_text(best)} on validation")
    return replace(compact, weights=inner.model()[1])


def _continues(inner: Run, training: TrainConfig, start: bytes) -> bool:
    """Whether the compact run in `inner` is the same recovery, begun or finished."""
    try:
        return (
            replace(inner.config(), compute=training.compute) == training and inner.initial_path.read_bytes() == start
        )
    except (UserError, OSError):
        return False
