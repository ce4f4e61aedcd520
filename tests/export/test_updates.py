"""Vectors that move by the same rate move together."""

import numpy as np
import onnx_ir as ir
import pytest

from gems_edge.device.runtime import Session
from gems_edge.export.builder import GraphBuilder
from gems_edge.export.passes.updates import LEAST, MOST, pack_updates, update_of

LENGTHS = (3, 5, 3, 8)


def step(rates, lengths=LENGTHS):
    """θ − rate · eᶿ of vectors."""
    b = GraphBuilder("adapt")
    for number, (rate, length) in enumerate(zip(rates, lengths)):
        weight = b.input(f"w{number}", [length])
        moved = b.op("Sub", weight.name, b.op("Mul", b.op("Exp", weight.name), b.constant(rate)))
        b.output(f"updated.w{number}", moved, [length])
    return b.model()


@pytest.mark.parametrize("rates, packed", [([0.1] * 4, 1), ([0.1, 0.2, 0.1, 0.1], 1), ([0.1, 0.2, 0.3, 0.4], 0)])
def test_vectors_of_one_rate_move_in_one_step(rates, packed):
    before = step(rates)
    model = ir.from_proto(before)
    pack_updates(model)
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("Split") == packed
    assert kinds.count("Sub") == packed + sum(rates.count(rate) < LEAST for rate in rates)
    feeds = {f"w{i}": np.random.default_rng(i).random(length, np.float32) for i, length in enumerate(LENGTHS)}
    sessions = [Session(proto.SerializeToString(), "it", threads=1) for proto in (before, ir.to_proto(model))]
    assert sessions[0].outputs == sessions[1].outputs
    for one, other in zip(*(session.run(session.outputs, feeds) for session in sessions)):
        np.testing.assert_array_equal(one, other)


def test_a_step_of_anything_else_is_no_pattern():
    b = GraphBuilder("adapt")
    matrix, rows, rate = b.input("m", [2, 3]), b.input("h", ["classes"]), b.input("rate", [])
    for weight, by in ((matrix, b.constant(0.1)), (rows, b.constant(0.1)), (rows, rate.name)):
        moved = b.op("Sub", weight.name, b.op("Mul", b.op("Exp", weight.name), by))
        b.output(f"updated.{weight.name}.{by}", moved, weight.shape)
    model = ir.from_proto(b.model())
    assert not any(update_of(node) for node in model.graph)


def test_vectors_that_lie_far_apart_do_not_wait_for_each_other():
    """Each pack holds the gradients of its own vectors alone."""
    lengths = tuple(range(2, 2 + 2 * MOST + LEAST))
    model = ir.from_proto(step([0.1] * len(lengths), lengths))
    pack_updates(model)
    packs = [node for node in model.graph if node.op_type == "Split"]
    assert [len(node.outputs) for node in packs] == [MOST, MOST, LEAST]
    in_order = [value.name for node in packs for value in node.outputs]
    assert in_order == [f"updated.w{number}" for number in range(len(lengths))]
