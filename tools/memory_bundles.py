"""Untrained bundles to measure memory and time on: neither depends on what the weights are."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
from networks import read_name
from safetensors.numpy import save

from gems_edge.data.shots import Shots
from gems_edge.device.bundle import IMAGES
from gems_edge.device.bundle_files import FILES, TRUNK_FILE
from gems_edge.export.bundle import write_bundle
from gems_edge.export.cut import board_step, board_trunk, highest_cut, trunk_entry
from gems_edge.export.graphs import CLASSES, RULE, predict_graph
from gems_edge.export.manifest import costs, identity, tensor_names
from gems_edge.export.passes.stream import MEMORY, stream
from gems_edge.export.source import MetaModel
from gems_edge.export.steps import StepPlan
from gems_edge.meta.meta_model import halves
from gems_edge.meta.rules.base import Rule
from gems_edge.meta.rules.maml import Descent
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.models.backbones.registry import BACKBONES
from gems_edge.models.fewshot import FewShotModel, Weights, forward
from gems_edge.models.spec import ModelSpec

# What check_memory.py measures unless others are named: every backbone of the registry, and two of its extremes.
NETWORKS = ("conv4@0.5-28", "conv4-28", "conv4@0.5-84", *(f"{backbone}-84" for backbone in BACKBONES))
SHOTS, WAYS = (1, 5), 5


def grid(directory: Path, networks: Sequence[str]) -> Iterator[Path]:
    """The bundles of `networks`, for 1 and 5 shots and every --memory; those that are there already are kept."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in networks:
        paths = {(s, m): directory / f"{name}-{s}-{m}.gems" for s in SHOTS for m in MEMORY}
        if not all(path.exists() for path in paths.values()):
            _write(name, paths)
        yield from paths.values()


def _write(name: str, paths: dict[tuple[int, str], Path]) -> None:
    model, weights = untrained(read_name(name).spec("shared", WAYS))
    # Small steps: an untrained network must not diverge on noise.
    write_untrained(model, weights, Descent("maml", 0.001), paths)


def untrained(spec: ModelSpec) -> tuple[FewShotModel, Weights]:
    torch.manual_seed(0)
    model = FewShotModel(spec)
    return model, {name: weight.detach() for name, weight in model.named_parameters()}


def write_untrained(model: FewShotModel, weights: Weights, rule: Rule, paths: dict[tuple[int, str], Path]) -> None:
    """Bundles of `model` with `weights` as an export writes them, unverified: (shots, --memory) → where to.

    Those that are there already are kept.
    """
    spec = model.spec
    with torch.no_grad():
        images = torch.rand(spec.ways, spec.channels, spec.image_size, spec.image_size)
        statistics = forward(model, weights, images)[1]
    learned = MetaModel(model, weights, rule)
    parted = halves(learned, highest_cut(learned))
    whole, trunk, predict = board_step(parted), board_trunk(parted), predict_graph(model, weights, statistics)
    top = parted.learned
    carried = {f"{RULE}{name}": top.rule.begin(top.weights)[name] for name in rule.carried}
    stored = save({name: tensor.float().numpy() for name, tensor in (weights | statistics | carried).items()})
    for (shots, memory), path in paths.items():
        if path.exists():
            continue
        sizes = {IMAGES: spec.ways * shots, CLASSES: spec.ways}
        adapt = stream(whole, MEMORY[memory], sizes)
        config = TrainConfig(
            method=rule.name, head=spec.head, ways=spec.ways, shots=Shots.given(shots), image_size=spec.image_size,
            channels=spec.channels, normalization=spec.normalization, inner_lr=rule.inner_lr,
        )  # fmt: skip
        manifest = {
            **identity(path, config, spec, SimpleNamespace(inverted=False), rule, StepPlan(config.steps)),
            "tensors": tensor_names(learned),
            "memory": memory,
            "trunk": trunk_entry(parted),
            "cost": costs(predict, adapt, sizes, trunk=trunk),
        }
        contents = dict(zip(FILES, (predict.SerializeToString(), adapt.SerializeToString(), stored)))
        contents |= {} if trunk is None else {TRUNK_FILE: trunk.SerializeToString()}
        write_bundle(path, contents, manifest, lambda staging: {})
