"""Meta-gradients of small networks on a device, in each precision, against those of the CPU in float64.

    python tools/gpu_equality.py FILE.json --compute cuda

The error of a row is the greatest difference of any weight's gradient, as a share of the greatest gradient. Float64 on
the device that is worse than the bound ends with exit code 1: then it computes something else. What the other formats
make of untrained networks is rounding, and has no bound; on a CPU tf32 is float32.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import click
import torch

from gems_edge.data.mixture import mixture_sampler
from gems_edge.data.shots import ONE_SHOT
from gems_edge.data.tensors import Episode, episode_tensors
from gems_edge.files import write_atomic
from gems_edge.meta.outer import meta_gradient
from gems_edge.meta.precision import matrix_precision
from gems_edge.meta.rules.registry import rule_of
from gems_edge.meta.run import first_weights
from gems_edge.meta.settings.run import PRECISIONS, TrainConfig
from gems_edge.meta.start import resolve
from gems_edge.meta.task_threads import TaskThreads
from gems_edge.models.fewshot import FewShotModel, Weights

NETWORKS = (("conv4", (8,)), ("resnet12", (4,)))
METHODS = ("maml", "bmp", "mmsup")
EXACT, BOUND = "fp64", 1e-9


def config_of(backbone: str, widths: tuple[int, ...], method: str) -> TrainConfig:
    return TrainConfig(
        backbone=backbone, widths=widths, method=method, head="per-class", shots=ONE_SHOT, queries=3, steps=2,
        meta_batch=2, image_size=32, normalization="transductive",
    )  # fmt: skip


def gradient(config: TrainConfig, episodes: list[Episode], device: str, dtype: torch.dtype) -> Weights:
    """In float64 on the CPU, whatever it was computed in."""
    model = FewShotModel(config.model_spec()).to(device, dtype)
    weights = {n: w.detach().to(device, dtype).requires_grad_() for n, w in first_weights(config).items()}
    there = [
        Episode(
            episode.support_images.to(device, dtype), episode.support_labels.to(device),
            episode.query_images.to(device, dtype), episode.query_labels.to(device),
        )
        for episode in episodes
    ]  # fmt: skip
    with matrix_precision(config.precision):
        found = meta_gradient(TaskThreads(model, len(there)), weights, there, config, rule_of(config))[0]
    return {name: each.detach().double().cpu() for name, each in found.items()}


def error(found: Weights, exact: Weights) -> float:
    most = max(float(each.abs().max()) for each in exact.values())
    return max(float((found[name] - each).abs().max()) for name, each in exact.items()) / most


def rows_of(backbone: str, widths: tuple[int, ...], method: str, device: str) -> list[dict]:
    config, images = resolve(config_of(backbone, widths, method))
    sampler = mixture_sampler(images, "train", config.ways, config.shots, config.queries, 0)
    tensors = episode_tensors(images, "cpu")
    episodes = [
        tensors.episode(sampler.draw(0, task, config.meta_batch)[1], torch.float64) for task in range(config.meta_batch)
    ]
    exact = gradient(config, episodes, "cpu", torch.float64)
    rows = []
    for precision in (EXACT, *PRECISIONS):
        if precision == EXACT:
            found = gradient(config, episodes, device, torch.float64)
        else:
            found = gradient(replace(config, precision=precision), episodes, device, torch.float32)
        rows.append({"network": backbone, "method": method, "precision": precision, "error": error(found, exact)})
    return rows


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--compute", type=click.Choice(["cpu", "cuda"]), default="cuda", show_default=True)
def main(output: Path, compute: str) -> None:
    if compute == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("torch finds no GPU here; --compute cpu tries the rest")
    rows = [row for network in NETWORKS for method in METHODS for row in rows_of(*network, method, compute)]
    write_atomic(output, json.dumps({"rows": rows, "bound": BOUND}, indent=1) + "\n")
    for row in rows:
        print(f"{row['network']:9} {row['method']:6} {row['precision']:5} {row['error']:.1e}")
    sys.exit(any(row["error"] > BOUND for row in rows if row["precision"] == EXACT))


if __name__ == "__main__":
    main()
