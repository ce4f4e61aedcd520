"""The tiny trainings on two image sets that the tests of GEMS share."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

# On two of the sets of tests/image_sets.py; a log line each iteration.
TWO_SETS = (
    "--data", "ink,tint", "--widths", "8", "--shots", "1", "--steps", "2", "--inner-lr", "0.1", "--meta-batch", "4",
    "--queries", "3", "--iterations", "6", "--validate-every", "3", "--validation-episodes", "4",
    "--checkpoint-every", "2", "--compute", "cpu",
)  # fmt: skip
# A shared head's rows are alike before the first step: nothing but the head has a gradient then, and MMSUP's shares,
# chosen from the gradients of that step, are the same for every task.
OPTIONS = {"mmsup": ("--head", "per-class")}
LAYERS = ["blocks.0", "blocks.1", "blocks.2", "blocks.3", "head"]


def stirred(weights, bias=None, by=0.5, seed=0):
    """`weights` with an adapter that answers to each task differently, around the logits `bias` (default: its own)."""
    generator = torch.Generator().manual_seed(seed)
    output = weights["adapter.output.weight"]
    moved = output + by * torch.randn(output.shape, generator=generator)
    own = weights["adapter.output.bias"]
    return weights | {
        "adapter.output.weight": moved,
        "adapter.output.bias": own if bias is None else torch.tensor(bias, dtype=own.dtype),
    }


def stirred_run(run: Path, place: Path, **options) -> Path:
    """A copy of a bmp or mmsup run, with `stirred` weights."""
    shutil.copytree(run, place)
    save_file(stirred(load_file(run / "weights.safetensors"), **options), place / "weights.safetensors")
    return place
