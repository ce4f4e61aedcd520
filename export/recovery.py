"""Compact networks after pruning: how much is still to go, and their training."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save as save_arrays
from safetensors.torch import save

from gems_edge.errors import UserError
from gems_edge.export.distil import distil, lesson
from gems_edge.export.reconstruct import IMAGES, reconstruct
from gems_edge.export.source import ExportOptions, MetaModel, Reports, Source
from gems_edge.files import sha256_bytes, write_atomic
from gems_edge.meta.precision import matrix_precision
from gems_edge.meta.run import Run
from gems_edge.meta.settings.kept import Kept
from gems_edge.meta.settings.run import WHOLE, TrainConfig, write_config
from gems_edge.meta.settings.ticket import TicketConfig
from gems_edge.meta.train import train
from gems_edge.models.fewshot import FewShotModel, Weights
from gems_edge.models.spec import ModelSpec
from gems_edge.models.tensor_names import ADAPTER
from gems_edge.tickets.channels import TOLERANCE, Pruned
from gems_edge.wording import accuracy_text

# Iterations that teach a pretrained body's features to a pruned one.
DISTILLING = 240
# Of the run inside the run: which channels of the dense network it keeps.
CHANNELS = "channels.safetensors"


def remaining_ratio(dense: ModelSpec, trained: ModelSpec, ratio: float) -> float:
    """The share of the trained network's weights that is still to go, so that `ratio` of the dense one's are gone.

    0 where a channel ticket has removed as much (within the tolerance of pruning) or more.
    """
    if not 0 <= ratio < 1 or trained.widths == dense.widths:
        return ratio
    left = trained.backbone_weights / dense.backbone_weights
    return 0.0 if 1 - left >= ratio - TOLERANCE else 1 - (1 - ratio) / left


def recover(source: Source, pruned: Pruned, options: ExportOptions, reports: Reports) -> MetaModel:
    """The compact network trained on from its pruned weights, as a run inside the run, which can be evaluated.

    A pretrained body (mode "frozen") is taught the dense one's features, and then meta-trained half as long, as a run
    that was trained so long itself; any other network is meta-trained alone. Meta-training resumes. The run keeps which
    channels stayed. Returns the pruned weights where nothing is to be trained.
    """
    config, frozen = source.config, source.trained.model.spec.normalization == "frozen"
    decides = any(name.startswith(ADAPTER) for name in pruned.weights)
    compact = MetaModel(FewShotModel(pruned.spec), pruned.weights, source.trained.rule)
    iterations = options.recover_iterations
    if iterations is None:
        iterations = DISTILLING if frozen else config.iterations // 4
    if not iterations:
        return compact
    training = replace(
        config,
        widths=pruned.spec.widths,
        iterations=min(iterations, config.iterations) // 2 if frozen else iterations,
        seed=config.seed + 1,
        init_seed=-1,
        keep=Kept(),
        ticket=TicketConfig(),
        keep_features=config.keep_features if frozen else 0.0,  # those of pruned weights are none to keep
        keep_general=0.0,  # … and no place to be drawn back to
        # Channels went below the run's cut, too, and must learn; but φ decides of the layers above it.
        learn_from=config.learn_from if frozen or decides else WHOLE,
    )
    recovery = _Recovery(_directory(source, options, iterations), training, pruned)
    if not recovery.begun():
        recovery.begin(_taught(source, pruned, iterations, reports) if frozen else pruned.weights)
    inner = recovery.run
    if not frozen:
        reports.say(f"recover: {iterations} iterations of the compact network ({inner.directory})")
    with reports.training() as progress:
        best = train(inner, training, resume=True, initial=inner.initial(), progress=progress, root=options.root)
    reports.say(f"recovered to {accuracy_text(best)} on validation")
    return replace(compact, weights=inner.model()[1])


def _directory(source: Source, options: ExportOptions, iterations: int) -> Path:
    steps = source.config.steps
    name = f"{options.ratio:g}-{options.round_to}-{iterations}"
    return source.run.directory / "compact" / (name + (f"-{steps}" if steps != source.run.config().steps else ""))


def _taught(source: Source, pruned: Pruned, iterations: int, reports: Reports) -> Weights:
    """The pruned network's weights after its filters were fitted to the dense network's maps, and its features to the
    dense network's, on the images of the training classes."""
    model, weights = source.trained.model.to(source.device), source.trained.weights
    weights = {name: weight.to(source.device) for name, weight in weights.items()}
    numbers = source.images.numbers("train")
    reports.say(f"recover: {iterations} iterations of the dense network's features on {len(numbers)} images")
    with matrix_precision("fp32"):
        some = np.random.default_rng(source.config.seed).permutation(numbers)[:IMAGES]
        fitted = reconstruct(model, weights, pruned, source.tensors.taken(some, torch.float32))
        given = lesson(model, weights, pruned, source.tensors, numbers, reports.evaluation)
        taught = distil(fitted, given, iterations, source.config.seed, reports.evaluation)
    reports.say(
        f"mean squared distance from the dense network's features: {taught.first:.3f} → {taught.last:.3f} "
        "(of vectors of length 1)"
    )
    return {name: weight.cpu() for name, weight in taught.weights.items()}


@dataclass(frozen=True)
class _Recovery:
    """The run inside a run, and what it was begun with."""

    directory: Path
    training: TrainConfig
    pruned: Pruned

    @property
    def run(self) -> Run:
        return Run(self.directory)

    @property
    def _channels(self) -> bytes:
        """Which channels of the dense network stayed, a mask for each width, and of what weights."""
        masks = {f"{number:03}": mask.astype(np.uint8) for number, mask in enumerate(self.pruned.kept)}
        weights = save({name: tensor.contiguous() for name, tensor in self.pruned.weights.items()})
        content: bytes = save_arrays(masks, {"pruned": sha256_bytes(weights)})
        return content

    def begun(self) -> bool:
        """Whether the directory holds the same recovery, begun or finished."""
        try:
            stored = replace(self.run.config(), compute=self.training.compute)
            return stored == self.training and (self.directory / CHANNELS).read_bytes() == self._channels
        except (UserError, OSError):
            return False

    def begin(self, start: Weights) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        write_atomic(self.directory / CHANNELS, self._channels)
        self.run.save_initial(start)
        write_config(self.run.config_path, self.training)  # last: a directory without it is begun anew
