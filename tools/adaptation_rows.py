"""The networks that `tools/bench_adaptation.py` compares, and their bundles."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from adaptation_peers import Plain
from memory_bundles import untrained, write_untrained
from networks import Network, read_label

import gems_edge
import gems_edge.export
from gems_edge.device.bundle import Bundle, read_bundle
from gems_edge.meta.rules.maml import Descent
from gems_edge.models.backbones.registry import BACKBONES
from gems_edge.models.fewshot import FewShotModel, Weights
from gems_edge.models.spec import ModelSpec
from gems_edge.tickets.channels import prune

# What is measured unless others are named: every backbone of the registry, and Conv-4 as MAML has it on larger images.
LABELS = ("conv4@0.5", *BACKBONES)
METHODS = ("maml", "anil", "boil")
WAYS = 5
# `gems-edge train`'s own; large enough that a float32 step is not lost in the rounding of the weights.
INNER_LR = 0.05
# The default of `gems-edge export --round-to`; finer where the ratio cannot be met.
ROUND_TO = 16
# What decides a graph: bundles that were made by other sources are made again.
_SOURCES = (
    "models",
    "graphs",
    "meta/inner.py",
    "meta/rules",
    "tickets/channels.py",
    "device/runtime.py",
    "device/adapting.py",
    "device/learner.py",
    "device/steps.py",
)


@dataclass(frozen=True)
class Row:
    """A network, its images, and what a step of it moves."""

    network: Network  # before pruning
    shots: int
    ratio: float
    method: str
    memory: str

    @property
    def family(self) -> str:
        """What is the same for every ratio."""
        return f"{self.network.name}-{self.shots}shot-{self.method}-{self.memory}"

    @property
    def name(self) -> str:
        return f"{self.family}-{self.ratio:g}"

    @property
    def images(self) -> int:
        return WAYS * self.shots

    @property
    def dense(self) -> ModelSpec:
        # A head of different rows: from equal ones, as a shared head begins, the backbone's first gradient is zero.
        return self.network.spec("per-class", WAYS)

    @cached_property
    def rule(self) -> Descent:
        return Descent(self.method, INNER_LR)

    @cached_property
    def start(self) -> tuple[FewShotModel, Weights]:
        """The untrained model and its weights, compacted as `gems-edge export --ratio` does it."""
        model, weights = untrained(self.dense)
        pruned = prune(model, weights, self.ratio, ROUND_TO)
        return FewShotModel(pruned.spec), {name: weight.detach() for name, weight in pruned.weights.items()}

    def plain(self, dtype: torch.dtype = torch.float32) -> Plain:
        """The same network as its author wrote it, with the same weights."""
        weights = {name: weight.to(dtype) for name, weight in self.start[1].items()}
        return Plain(self.network.backbone, self.network.channels, self.network.size).load(weights)

    def path(self, directory: Path) -> Path:
        return directory / f"{self.name}-{sources()}.gems"

    def bundle(self, directory: Path) -> Bundle:
        """The row's bundle, made where it is not there yet."""
        path = self.path(directory)
        if not path.exists():
            write_untrained(*self.start, self.rule, {(self.shots, self.memory): path})
        return read_bundle(path)

    def images_of(self, seed: int) -> torch.Tensor:
        """[N, C, S, S] in 0…1: noise, as kernels take the same time for any content."""
        shape = (self.images, self.network.channels, self.network.size, self.network.size)
        return torch.from_numpy(np.random.default_rng(seed).random(shape, dtype=np.float32))

    @property
    def labels(self) -> torch.Tensor:
        return torch.arange(self.images) % WAYS


def families_of(
    labels: Sequence[str], sizes: Sequence[int], shots: Sequence[int], methods: Sequence[str], every: bool,
    ratios: Sequence[float], memory: str,
) -> list[list[Row]]:  # fmt: skip
    """Rows in families that differ in the ratio alone.

    Without `methods`: MAML, and all methods of Conv-4 or, if `every`, of all networks.
    """
    families = []
    for label, size, count, method in itertools.product(labels, sizes, shots, methods or METHODS):
        if methods or every or method == "maml" or label == "conv4":
            network = Network(*read_label(label), size)
            families.append([Row(network, count, ratio, method, memory) for ratio in ratios])
    return families


def make_bundles(rows: Sequence[Row], directory: Path) -> None:
    """The bundles of all rows; a graph is traced once for all its numbers of shots."""
    directory.mkdir(parents=True, exist_ok=True)
    traced: dict[tuple, list[Row]] = {}
    for row in rows:
        if not row.path(directory).exists():
            traced.setdefault((row.network.name, row.ratio, row.method), []).append(row)
    for alike in traced.values():
        paths = {(row.shots, row.memory): row.path(directory) for row in alike}
        write_untrained(*alike[0].start, alike[0].rule, paths)


def sources() -> str:
    """A digest of the code that makes graphs and runs them."""
    package = Path(gems_edge.__file__).parent
    places = [Path(gems_edge.export.__file__).parent, *(package / name for name in _SOURCES)]
    digest = hashlib.sha256()
    for place in places:
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:10]
