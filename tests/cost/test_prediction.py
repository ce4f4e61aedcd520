"""Predicted memory: honest intervals, and nothing heavy imported (predicted times: test_latency.py)."""

import subprocess
import sys

import pytest

from gems_edge.cost.memory import ACTIVATIONS, predict_memory
from gems_edge.errors import UserError

COST = {
    "predict": {"dims": {"images": 1}, "peak_bytes": 2_000_000, "constant_bytes": 1_000_000},
    "adapt_step": {"constant_bytes": 0},
    "adapt_peak": {"fixed_bytes": 1_000_000, "bytes_per_image": 8_000_000},
}


def test_memory_grows_with_images():
    one, five = predict_memory(COST, 1, "adapt"), predict_memory(COST, 5, "adapt")
    assert five["mb"] - one["mb"] == pytest.approx(4 * 8 * ACTIVATIONS["adapt"][1])
    for made in (one, five, predict_memory(COST, 1, "predict")):
        assert made["low_mb"] < made["mb"] < made["high_mb"]


@pytest.mark.parametrize("images, what", [(0, "adapt"), (1, "train")])
def test_bad_memory_questions(images, what):
    with pytest.raises(UserError):
        predict_memory(COST, images, what)


def test_nothing_of_the_workstation_is_imported():
    code = (
        "import sys, gems_edge.cost.latency, gems_edge.cost.memory, gems_edge.cost.profiles, gems_edge.cost.liveness\n"
        "assert not {'torch', 'onnx', 'numpy', 'onnxruntime', 'matplotlib'} & set(sys.modules), 'heavy'"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""
