"""The simulated arena: by hand, its invariants, and against the log of onnxruntime's own."""

import re
import subprocess
import sys

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from gems_edge.graphs.arena import MOST_UNUSED, ROUNDING, Arena
from gems_edge.graphs.footprint import arena_bytes
from gems_edge.graphs.liveness import most_bytes

KB = 1024


@pytest.mark.parametrize(
    "asked, total",
    [
        ([("a", 1)], ROUNDING),
        ([("a", 100 * KB), ("a", None), ("b", 100 * KB)], 100 * KB),
        # A piece of twice the size is split, and its rest serves the next …
        ([("a", 200 * KB), ("a", None), ("b", 100 * KB), ("c", 100 * KB)], 200 * KB),
        # … one that is smaller than that is given whole.
        ([("a", 199 * KB), ("a", None), ("b", 100 * KB), ("c", 99 * KB)], 298 * KB),
        # The smallest that is large enough is taken.
        ([("a", 40 * KB), ("b", 30 * KB), ("a", None), ("b", None), ("c", 30 * KB), ("d", 40 * KB)], 70 * KB),
        # Neighbours of one region join when they are free, whatever comes back first …
        (
            [("a", 90 * KB), ("a", None), ("b", 30 * KB), ("c", 30 * KB), ("b", None), ("c", None), ("d", 90 * KB)],
            90 * KB,
        ),
        (
            [("a", 90 * KB), ("a", None), ("b", 30 * KB), ("c", 30 * KB), ("c", None), ("b", None), ("d", 90 * KB)],
            90 * KB,
        ),
        # … regions never do.
        ([("a", 50 * KB), ("b", 50 * KB), ("a", None), ("b", None), ("c", 100 * KB)], 200 * KB),
        ([("a", 2 * MOST_UNUSED - 1), ("a", None), ("b", MOST_UNUSED - KB), ("c", MOST_UNUSED - KB)], 2 * MOST_UNUSED),
        ([("a", 0), ("a", None)], 0),
    ],
)  # fmt: skip
def test_by_hand(asked, total):
    assert Arena().serve(asked) == total


@st.composite
def runs(draw):
    """Requests that give everything back."""
    asked, taken = [], []
    for number in range(draw(st.integers(1, 60))):
        if taken and draw(st.booleans()):
            asked.append((taken.pop(draw(st.integers(0, len(taken) - 1))), None))
        else:
            taken.append(f"t{number}")
            asked.append((taken[-1], draw(st.integers(1, 40)) * ROUNDING))
    return asked + [(name, None) for name in taken]


@settings(max_examples=300)
@given(runs())
def test_invariants(asked):
    arena = Arena()
    total = arena.serve(asked)
    assert total >= most_bytes(asked)  # the arena holds what is alive
    pieces = sorted((address, size) for size, address in arena._free)
    assert sum(size for _, size in pieces) == total  # nothing is lost, and nothing twice
    assert all(left + size <= right for (left, size), (right, _) in zip(pieces, pieces[1:]))
    assert arena.serve(asked) >= total  # it never shrinks


LOGGED = """
import sys, numpy
from gems_edge.device.runtime import Session, onnxruntime
session = Session(open(sys.argv[1], "rb").read(), "graph", threads=1)
onnxruntime.set_default_logger_severity(1)
for _ in range(3):
    session.run(["y", "z"], {"x": numpy.ones((int(sys.argv[2]), 64, 32, 32), numpy.float32)})
"""


def test_it_grows_as_onnxruntimes(tmp_path):
    """The arena's size in onnxruntime's log, on a graph whose tensors grow, shrink and outlive each other."""
    half = [helper.make_tensor(name, TensorProto.INT64, [1], [at]) for name, at in (("0", 0), ("1", 1), ("32", 32))]
    nodes = [
        helper.make_node("Slice", ["x", "0", "32", "1"], ["a"]),
        helper.make_node("Concat", ["a", "a", "a"], ["b"], axis=1),
        helper.make_node("Exp", ["b"], ["c"]),
        helper.make_node("Concat", ["a", "c"], ["d"], axis=1),
        helper.make_node("Slice", ["d", "0", "32", "1"], ["e"]),
        helper.make_node("Concat", ["e", "e", "a"], ["f"], axis=1),
        helper.make_node("Mul", ["c", "c"], ["g"]),
        helper.make_node("Slice", ["g", "0", "32", "1"], ["y"]),
        helper.make_node("Concat", ["f", "e"], ["z"], axis=1),
    ]
    value = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["images", 64, 32, 32])]
    value += [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "z")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", value[:1], value[1:], half),
        ir_version=10,
        opset_imports=[helper.make_opsetid("", 20)],
    )
    path = tmp_path / "graph.onnx"
    onnx.save(model, path)
    images = 4
    done = subprocess.run([sys.executable, "-c", LOGGED, path, str(images)], capture_output=True, text=True, check=True)
    grown = [int(size) for size in re.findall(r"Total allocated bytes: (\d+)", done.stderr)]
    assert grown, "onnxruntime logs its arena no more"
    # In these runs no output is kept from one run to the next.
    assert arena_bytes(model, {"images": images}, runs=1) == pytest.approx(grown[-1], rel=0.01)
