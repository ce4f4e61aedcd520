"""What a bundle's manifest says of its model, its update rule and where it comes from."""

import importlib.metadata
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnx

from gems_edge import __version__
from gems_edge.data.mixture import Mixture
from gems_edge.device.bundle import IMAGES
from gems_edge.export.graphs import carried_names
from gems_edge.export.source import MetaModel
from gems_edge.export.steps import StepPlan
from gems_edge.graphs.cost import adapt_peak, describe
from gems_edge.graphs.footprint import memory_cost
from gems_edge.meta.rules.base import Rule
from gems_edge.meta.run import Run
from gems_edge.meta.settings.base import to_table
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.models.fewshot import FewShotModel
from gems_edge.models.pretrained import NO_PRETRAINED
from gems_edge.models.spec import ModelSpec


def tensor_names(learned: MetaModel) -> dict[str, list[str]]:
    names = list(learned.weights)
    adapted = list(learned.rule.adapted(learned.weights))
    return {
        "adapted": adapted,
        "constant": [name for name in names if name not in adapted],
        "statistics": list(learned.model.statistics_names()),
        "carried": list(carried_names(learned.rule)),
    }


def costs(
    predict: onnx.ModelProto,
    adapt: onnx.ModelProto,
    sizes: dict[str, int],
    int8: onnx.ModelProto | None = None,
    trunk: onnx.ModelProto | None = None,
) -> dict[str, Any]:
    """The manifest's "cost": what latency and memory on a board are predicted from. `sizes`: of the support set."""
    one_image = sizes | {IMAGES: 1}
    return {
        "predict": describe(predict, one_image),
        **({"predict_int8": describe(int8, one_image)} if int8 else {}),
        **({"trunk": describe(trunk, one_image)} if trunk else {}),
        "adapt_step": describe(adapt, sizes, channel_blocks=False),
        "adapt_peak": adapt_peak(adapt, sizes),
        "memory": memory_cost(predict, adapt, sizes, trunk),
    }


def identity(
    output: Path, config: TrainConfig, spec: ModelSpec, images: Mixture, rule: Rule, plan: StepPlan
) -> dict[str, Any]:
    return {
        "name": output.name.removesuffix(".gems"),
        "ways": config.ways,
        "shots": config.shots.most,  # what "cost" is of
        "least_shots": config.shots.least,
        "queries": config.queries,
        "head": config.head,
        **({"metric": config.metric} if config.head == "prototype" else {}),
        "image": {"size": config.image_size, "channels": config.channels, "inverted": images.inverted},
        "normalization": config.normalization,
        "backbone": {"name": spec.backbone, "widths": list(spec.widths), "feature_size": spec.feature_size},
        "pretrained": to_table(config.pretrained) if config.pretrained != NO_PRETRAINED else None,
        "rule": {
            "name": config.method,
            "inner_lr": config.inner_lr,
            **({"head_lr": config.head_lr} if config.head_lr else {}),
            **({"rate_factor": plan.factor} if plan.factor != 1 else {}),  # counted in the rates
            "steps": plan.most,
            **({"steps_by_shots": [list(each) for each in plan.by_shots]} if plan.by_shots else {}),
            **({"steps_tried": list(plan.tried)} if plan.tried else {}),
            "first_order": config.first_order,
            "adapter": rule.adapter,
        },
    }


def provenance(run: Run, config: TrainConfig) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxruntime")}
    trained = run.config()
    # A packed file or a folder is named, not located: no local paths in a bundle.
    data = ",".join(map(_named, config.data))
    return {
        "gems_edge": __version__,
        **versions,
        "data": data,
        "run": run.directory.resolve().name,
        "trained_as": trained.normalization,
        "iterations": trained.iterations,
        "seed": trained.seed,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _named(spec: str) -> str:
    kind, _, location = spec.partition(":")
    return f"{kind}:{Path(location).name}" if location else kind


def parameters(model: FewShotModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
