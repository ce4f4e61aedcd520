"""The networks that `tools/bench_adaptation.py` compares, and their bundles."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from adaptation_peers import Network
from memory_bundles import untrained, write_untrained

import gems_edge
import gems_edge.export
from gems_edge.device.bundle import Bundle, read_bundle
from gems_edge.meta.rules.maml import Descent
from gems_edge.models.fewshot import FewShotModel, Weights
from gems_edge.models.spec import ModelSpec, full_widths
from gems_edge.tickets.channels import prune

# name → backbone, width of the first convolution
NETWORKS = {"conv4-32": ("conv4", 32), "conv4-64": ("conv4", 64), "resnet12": ("resnet12", 64)}
METHODS = ("maml", "anil", "boil")
WAYS = 5
# `gems-edge train`'s own; large enough that a float32 step is not lost in the rounding of the weights.
INNER_LR = 0.05
# The default of `gems-edge export --round-to`; finer where the ratio cannot be met.
ROUND_TO = 16
# What decides a graph: bundles that were made by other sources are made again.
_SOURCES = (
    "models",
    "meta/inner.py",
    "meta/rules",
    "tickets/channels.py",
    "device/runtime.py",
    "device/learner.py",
)


@dataclass(frozen=True)
class Row:
    """A network, its images, and what a step of it moves. `width`: channels of the first convolution before pruning."""

    backbone: str
    width: int
    size: int
    shots: int
    ratio: float
    method: str
    memory: str

    @property
    def network(self) -> str:
        name = self.backbone if self.backbone == "resnet12" else f"{self.backbone}-{self.width}"
        return f"{name}-{self.size}"

    @property
    def family(self) -> str:
        """What is the same for every ratio."""
        return f"{self.network}-{self.shots}shot-{self.method}-{self.memory}"

    @property
    def name(self) -> str:
        return f"{self.family}-{self.ratio:g}"

    @property
    def images(self) -> int:
        return WAYS * self.shots

    @property
    def channels(self) -> int:
        return 1 if self.size < 84 else 3

    @property
    def dense(self) -> ModelSpec:
        full = full_widths((), self.backbone)
        widths = tuple(max(1, self.width * one // full[0]) for one in full)
        # A head of different rows: from equal ones, as a shared head begins, the backbone's first gradient is zero.
        return ModelSpec(self.backbone, widths, self.size, self.channels, "support", "per-class", WAYS)

    @cached_property
    def rule(self) -> Descent:
        return Descent(self.method, INNER_LR)

    @cached_property
    def start(self) -> tuple[FewShotModel, Weights]:
        """The untrained model and its weights, compacted as `gems-edge export --ratio` does it."""
        model, weights = untrained(self.dense)
        pruned = prune(model, weights, self.ratio, ROUND_TO)
        return FewShotModel(pruned.spec), {name: weight.detach() for name, weight in pruned.weights.items()}

    @property
    def plain(self) -> Network:
        spec = self.start[0].spec
        return Network(spec.backbone, spec.widths, spec.channels, spec.image_size, spec.ways)

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
        shape = (self.images, self.channels, self.size, self.size)
        return torch.from_numpy(np.random.default_rng(seed).random(shape, dtype=np.float32))

    @property
    def labels(self) -> torch.Tensor:
        return torch.arange(self.images) % WAYS


def families_of(
    networks: Sequence[str], sizes: Sequence[int], shots: Sequence[int], methods: Sequence[str], every: bool,
    ratios: Sequence[float], memory: str,
) -> list[list[Row]]:  # fmt: skip
    """Rows in families that differ in the ratio alone.

    Without `methods`: MAML, and all methods of Conv-4-64 or, if `every`, of all networks.
    """
    found = []
    for network, size, count, method in itertools.product(networks, sizes, shots, methods or METHODS):
        if methods or every or method == "maml" or network == "conv4-64":
            found.append([Row(*NETWORKS[network], size, count, ratio, method, memory) for ratio in ratios])
    return found


def make_bundles(rows: Sequence[Row], directory: Path) -> None:
    """The bundles of all rows; a graph is traced once for all its numbers of shots."""
    directory.mkdir(parents=True, exist_ok=True)
    traced: dict[tuple, list[Row]] = {}
    for row in rows:
        if not row.path(directory).exists():
            traced.setdefault((row.network, row.ratio, row.method), []).append(row)
    for alike in traced.values():
        paths = {(row.shots, row.memory): row.path(directory) for row in alike}
        write_untrained(*alike[0].start, alike[0].rule, paths)


def sources() -> str:
    """A digest of the code that makes graphs and runs them."""
    package = Path(gems_edge.__file__).parent
    places = [Path(gems_edge.export.__file__).parent, *(package / name for name in _SOURCES)]
    digest = hashlib.sha256()
    for place in places:
        for file in sorted(place.glob("*.py")) if place.is_dir() else [place]:
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:10]
