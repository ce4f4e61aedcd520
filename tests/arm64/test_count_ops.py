"""What nodes make an Arm core run: by kind, of the caches, and exact; on a small network and on the real runtime."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple

import numpy as np
import onnx
import pytest
from count_ops import by_op, count_ops
from debian import Unavailable
from onnx import TensorProto, helper, numpy_helper
from userland import HERE

SIDE, CHANNELS = 14, 64
PIXELS = SIDE * SIDE
# Encodings from the Arm manual, as an assembler writes them.
KINDS = {
    "multiply": {
        "fmla v0.4s, v0.4s, v0.4s": 0x4E20CC00,
        "fmul v0.4s, v0.4s, v0.s[0]": 0x4F809000,
        "fmul s0, s0, s0": 0x1E200800,
        "sdot v0.4s, v0.16b, v0.16b": 0x4E809400,
        "fmadd s0, s0, s0, s0": 0x1F000000,
        "fmla v0.8h, v0.8h, v0.8h": 0x4E400C00,
        "smlal v0.4s, v0.4h, v0.4h": 0x0E608000,
        "mla v0.4s, v0.4s, v0.4s": 0x4EA09400,
    },
    "vector": {
        "fadd v0.4s, v0.4s, v0.4s": 0x4E20D400,
        "fdiv s0, s0, s0": 0x1E201800,
        "movi v0.4s, #0": 0x4F000400,
        "zip1 v0.4s, v0.4s, v0.4s": 0x4E803800,
        "fmaxnm v0.4s, v0.4s, v0.4s": 0x4E20C400,
    },
    "load": {
        "ldr q0, [x0]": 0x3DC00000,
        "ldp x0, x1, [x2]": 0xA9400440,
        "ld1 {v0.4s}, [x0]": 0x4C407800,
        "ldrb w0, [x0]": 0x39400000,
        "ldr x0, #0": 0x58000000,
        "ldrsw x0, [x0]": 0xB9800000,
    },
    "store": {
        "str q0, [x0]": 0x3D800000,
        "stp x0, x1, [x2]": 0xA9000440,
        "st1 {v0.4s}, [x0]": 0x4C007800,
        "str w0, [x0]": 0xB9000000,
    },
    "scalar": {
        "add x0, x0, #1": 0x91000400,
        "madd x0, x0, x0, x0": 0x9B000000,
        "mov x0, x1": 0xAA0103E0,
        "adrp x0, #0": 0x90000000,
    },
    "branch": {
        "b #0": 0x14000000,
        "cbz x0, #0": 0xB4000000,
        "ret": 0xD65F03C0,
        "b.eq #0": 0x54000000,
        "svc #0": 0xD4000001,
    },
}


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """Pointwise, depthwise and dense convolutions, and a sum of maps that no cache holds."""
    rng = np.random.default_rng(0)
    shapes = {"point": (CHANNELS, CHANNELS, 1, 1), "deep": (CHANNELS, 1, 3, 3), "dense": (CHANNELS, CHANNELS, 3, 3)}
    weights = [numpy_helper.from_array(rng.standard_normal(shape, np.float32), name) for name, shape in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "point"], ["a"], "point"),
        helper.make_node("Conv", ["a", "deep"], ["b"], "deep", group=CHANNELS, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["b", "dense"], ["y"], "dense", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["large", "large2"], ["z"], "add"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", CHANNELS, SIDE, SIDE])]
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["L"]) for name in ("large", "large2")]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "yz"]
    made = helper.make_graph(nodes, "g", inputs, outputs, weights)
    path = tmp_path_factory.mktemp("graph") / "small.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


NUMBERS = 1 << 20  # of each large input: 4 MiB, four times the second cache


@pytest.fixture(scope="module")
def calls(root, graph):
    """The same twice, side by side."""
    try:
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda _: count_ops(root, "cortex-a72", graph, [f"L={NUMBERS}"]), range(2)))
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def nodes(calls):
    return {node.name: node for node in calls[0].nodes}


@pytest.mark.slow(20)
def test_counts_and_misses_are_exact_from_run_to_run(calls):
    assert calls[0] == calls[1]


@pytest.mark.slow(20)
def test_every_node_is_counted_by_its_kinds(calls, nodes):
    assert set(nodes) == {"point", "deep", "dense", "add"}
    point, deep, dense = (CHANNELS * PIXELS * each for each in (CHANNELS, 9, 9 * CHANNELS))
    assert nodes["dense"].inputs[0] == nodes["dense"].outputs[0] == (1, CHANNELS, SIDE, SIDE)
    for name, products in (
        ("point", point),
        ("dense", dense),
    ):  # four numbers to a vector; rows that are cut are padded
        assert products / 4 <= nodes[name].counts.multiply <= 1.1 * products / 4
    assert nodes["deep"].counts.multiply >= deep / 4
    assert nodes["add"].counts.vector >= NUMBERS / 4 and nodes["add"].counts.multiply == 0
    assert nodes["add"].counts.load >= NUMBERS / 4 >= nodes["add"].counts.store - NUMBERS / 4
    total = sum(node.counts.instructions for node in calls[0].nodes)
    assert 0.9 * calls[0].whole.instructions < total <= calls[0].whole.instructions


@pytest.mark.slow(20)
def test_a_stream_misses_both_caches_and_a_small_map_stays_in_one(nodes):
    lines = 3 * 4 * NUMBERS / 64  # of two inputs and the sum
    for misses in (nodes["add"].counts.l1_misses, nodes["add"].counts.l2_misses):
        assert lines * 0.99 <= misses <= lines * 1.05
    small = nodes[
        "dense"
    ].counts  # its weights are 147 kB, its maps 50 kB each: more than the first cache, less than the second
    assert small.l1_misses > 10 * small.l2_misses


def test_ops_are_summed_the_largest_first(calls):
    (first, (_, most)), *rest = by_op(calls[0].nodes).items()
    assert first == "Conv" and [op for op, _ in rest] == ["Add"]
    assert astuple(most) == tuple(map(sum, zip(*(astuple(n.counts) for n in calls[0].nodes if n.op == "Conv"))))


def test_the_kind_of_an_instruction(tmp_path):
    source = '#include <stdio.h>\n#include "decode.h"\nint main(void)\n{\n    uint32_t word;\n'
    source += '    while (scanf("%x", &word) == 1) {\n        printf("%d\\n", kind_of(word));\n    }\n}\n'
    (tmp_path / "kinds.c").write_text(source)
    try:
        subprocess.run(["gcc", f"-I{HERE}", "-o", tmp_path / "kinds", tmp_path / "kinds.c"], check=True)
    except FileNotFoundError:
        pytest.skip("there is no gcc")
    words = "\n".join(f"{word:x}" for words in KINDS.values() for word in words.values())
    said = subprocess.run([tmp_path / "kinds"], input=words, capture_output=True, text=True, check=True).stdout.split()
    told = {text: list(KINDS)[int(kind)] for text, kind in zip([t for words in KINDS.values() for t in words], said)}
    assert told == {text: kind for kind, words in KINDS.items() for text in words}
