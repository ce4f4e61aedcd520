"""Predicted time and memory: the stated terms, honest intervals, and nothing heavy imported."""

import subprocess
import sys

import pytest

from gems_edge.cost.latency import predict_latency, roofline_ms
from gems_edge.cost.memory import ACTIVATIONS, predict_memory
from gems_edge.cost.profiles import list_profiles, load_profile
from gems_edge.errors import UserError

CONV = {"ops": [{"kind": "Conv", "count": 1, "macs": 5_300_000_000, "bytes": 23_260_000}]}
COST = {
    "predict": {"dims": {"images": 1}, "peak_bytes": 2_000_000, "constant_bytes": 1_000_000},
    "adapt_step": {"constant_bytes": 0},
    "adapt_peak": {"fixed_bytes": 1_000_000, "bytes_per_image": 8_000_000},
}


def test_roofline_terms_by_hand():
    # one thread: 10.6 GFLOP at 10.6 GFLOP/s, 23.26 MB at 2.326 GB/s
    assert roofline_ms(CONV, load_profile("rpi-4b"), 1)["Conv"] == pytest.approx(1000 + 10)


@pytest.mark.parametrize("device", list_profiles())
@pytest.mark.parametrize("kind", ["Conv", "Conv.fed", "ConvTranspose", "MatMul", "Where"])
def test_interval_holds_the_prediction(device, kind):
    cost = {"ops": [{"kind": kind, "count": 3, "macs": 0 if kind == "Where" else 10**6, "bytes": 10**5}]}
    made = predict_latency(cost, load_profile(device))
    assert 0 < made["low_ms"] < made["ms"] < made["high_ms"]
    assert "not calibrated" in made["source"]


def test_more_threads_are_faster_and_the_default_is_all():
    profile = load_profile("rpi-zero-2w")
    times = [predict_latency(CONV, profile, threads)["ms"] for threads in (1, 2, 4)]
    assert times == sorted(times, reverse=True)
    assert predict_latency(CONV, profile)["ms"] == times[-1]


def test_ops_without_published_rows_are_less_certain():
    profile = load_profile("rpi-4b")

    def spread(kind):
        made = predict_latency({"ops": [{"kind": kind, "count": 0, "macs": 0, "bytes": 10**9}]}, profile)
        return made["high_ms"] / made["low_ms"]

    assert spread("Where") > spread("MaxPool")


@pytest.mark.parametrize("threads", [0, 5])
def test_threads_that_the_board_lacks(threads):
    with pytest.raises(UserError, match="4 cores"):
        predict_latency(CONV, load_profile("rpi-4b"), threads)


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
