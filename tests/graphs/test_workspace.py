"""Scratch memory of convolutions, against the log of onnxruntime's arena."""

import json
import re
import subprocess
import sys

import onnx
import pytest
from onnx import helper
from small_graphs import small_model

from gems_edge.graphs.cost import run_requests

LOGGED = """
import json, sys, numpy
from gems_edge.device.runtime import Session, onnxruntime
session = Session(open(sys.argv[1], "rb").read(), "graph", threads=1, channel_blocks=False)
onnxruntime.set_default_logger_severity(1)
session.run(["y"], {name: numpy.ones(shape, numpy.float32) for name, shape in json.loads(sys.argv[2]).items()})
"""


def case(channels, outputs, kernel, groups=1, stride=1, pad=None, side=32, transposed=False):
    """A convolution whose weight is fed: its nodes and its inputs."""
    pad = kernel // 2 if pad is None else pad
    weight = (channels, outputs // groups) if transposed else (outputs, channels // groups)
    node = helper.make_node(
        "ConvTranspose" if transposed else "Conv", ["x", "w"], ["y"], group=groups, strides=[stride] * 2, pads=[pad] * 4
    )
    return [node], {"x": [2, channels, side, side], "w": [*weight, kernel, kernel]}


CASES = {
    "3x3": case(16, 16, 3),
    "3x3 of few places": case(16, 600, 3, side=8),
    "1x1": case(16, 16, 1),
    "1x1 of every second pixel": case(16, 16, 1, stride=2),
    "1x1 of every second pixel and few places": case(16, 600, 1, stride=2, side=16),
    "padded 1x1": case(16, 16, 1, pad=1),
    "depthwise": case(16, 16, 3, groups=16),
    "depthwise of every second pixel": case(16, 16, 5, groups=16, stride=2),
    "depthwise of four places": case(16, 16, 3, groups=16, side=2),
    "grouped": case(16, 32, 3, groups=4),
    "grouped of few places": case(64, 64, 3, groups=4, side=3),
    "grouped 1x1": case(16, 32, 1, groups=4),
    "transposed": case(8, 16, 3, stride=2, transposed=True),
    "transposed depthwise": case(16, 16, 3, groups=16, stride=2, transposed=True),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_what_onnxruntime_asks_for(name, tmp_path):
    nodes, inputs = CASES[name]
    model = small_model(nodes, inputs, ["y"])
    path = tmp_path / "graph.onnx"
    onnx.save(model, path)
    done = subprocess.run(
        [sys.executable, "-c", LOGGED, path, json.dumps(inputs)], capture_output=True, text=True, check=True
    )
    grown = [int(size) for size in re.findall(r"rounded_bytes:(\d+)", done.stderr)]
    assert grown, "onnxruntime logs its arena no more"
    assert grown == [-(-size // 256) * 256 for _, size in run_requests(model, {}).requests if size]
