"""What a bundle's manifest says of its model, its update rule and where it comes from."""

import importlib.metadata
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gems_edge import __version__
from gems_edge.data.mixture import Mixture
from gems_edge.export.graphs import carried_names
from gems_edge.meta.rules.base import Rule
from gems_edge.meta.rules.frozen import Frozen
from gems_edge.meta.run import Run
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.models.fewshot import FewShotModel, Weights


def tensor_names(model: FewShotModel, weights: Weights, rule: Rule) -> dict[str, list[str]]:
    names = list(weights)
    adapted = list(rule.adapted(names))
    return {
        "adapted": adapted,
        "constant": [name for name in names if name not in adapted],
        "statistics": list(model.statistics_names()),
        "carried": list(carried_names(rule)),
    }


def identity(output: Path, config: TrainConfig, spec, images: Mixture, rule: Rule) -> dict[str, Any]:
    return {
        "name": output.name.removesuffix(".gems"),
        "ways": config.ways,
        "shots": config.shots,
        "queries": config.queries,
        "head": config.head,
        "image": {"size": config.image_size, "channels": config.channels, "inverted": images.inverted},
        "normalization": config.normalization,
        "backbone": {"name": spec.backbone, "widths": list(spec.widths), "feature_size": spec.feature_size},
        "rule": {
            "name": config.method,
            "inner_lr": config.inner_lr,
            "steps": config.steps,
            "first_order": config.first_order,
            "adapter": _about_adapter(config, rule),
        },
    }


def provenance(run: Run, config: TrainConfig) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxruntime", "torch-pruning")}
    trained = run.config()
    # A packed file or a folder is named, not located: no local paths in a bundle.
    data = ",".join(map(_named, config.data))
    return {
        "gems_edge": __version__, **versions, "data": data, "run": run.directory.resolve().name, "trained_as": trained.normalization,
        "iterations": trained.iterations, "seed": trained.seed, "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }  # fmt: skip


def _about_adapter(config: TrainConfig, rule: Rule) -> str | None:
    """Where a GEMS bundle's masks, rates and kept shares come from; None for other methods."""
    if config.method not in ("bmp", "mmsup"):
        return None
    return "frozen" if isinstance(rule, Frozen) else "in the graph"


def _named(spec: str) -> str:
    kind, _, place = spec.partition(":")
    return f"{kind}:{Path(place).name}" if place else kind


def parameters(model: FewShotModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
