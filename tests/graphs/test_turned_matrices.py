"""Products read transposed matrices as they lie."""

import pytest
from onnx import helper
from small_graphs import run_by_onnxruntime, run_by_the_passes, shaped, small_model

from gems_edge.graphs.cost import describe
from gems_edge.graphs.passes.rule import refusals
from gems_edge.graphs.passes.turned_matrices import RULE


def turned(shapes, perms):
    """MatMul of inputs a and b, each transposed first where its perm is not None."""
    nodes, read = [], []
    for name, perm in zip("ab", perms):
        read.append(name if perm is None else f"{name}t")
        nodes += [] if perm is None else [helper.make_node("Transpose", [name], [f"{name}t"], perm=perm)]
    nodes.append(helper.make_node("MatMul", read, ["y"]))
    return small_model(nodes, dict(zip("ab", shapes)), ["y"])


@pytest.mark.parametrize(
    "shapes, perms, macs",
    [
        (([2, 3, 4], [2, 5, 4]), (None, [0, 2, 1]), 2 * 3 * 4 * 5),
        (([2, 4, 3], [2, 4, 5]), ([0, 2, 1], None), 2 * 3 * 4 * 5),
        (([4, 3], [5, 4]), ([1, 0], [1, 0]), 3 * 4 * 5),
    ],
)
def test_the_last_two_axes_may_be_exchanged(shapes, perms, macs):
    model = turned(shapes, perms)
    assert [kind for kind, _ in run_by_the_passes(model)] == ["MatMul"]
    assert [kind for kind, _ in run_by_onnxruntime(model)] == ["MatMul"]
    assert describe(model, {})["macs"] == macs


def test_other_orders_are_copied():
    model = turned(([2, 3, 4], [4, 2, 5]), (None, [1, 0, 2]))
    assert refusals(RULE, shaped(model)) == ["it exchanges other axes than the last two"]
    assert run_by_the_passes(model)[-1][0] == "Transpose"
