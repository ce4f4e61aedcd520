"""SiLU is one op, HardSwish two."""

from onnx import helper
from small_graphs import run_by_onnxruntime, run_by_the_passes, shaped, small_model

from gems_edge.graphs.passes import functions, gates
from gems_edge.graphs.passes.rule import refusals

X = {"x": ["images", 8, 6, 6]}
SIGMOID = helper.make_node("Sigmoid", ["x"], ["s"])


def test_x_times_its_sigmoid_is_one_op():
    model = small_model([SIGMOID, helper.make_node("Mul", ["s", "x"], ["y"])], X, ["y"])
    assert run_by_the_passes(model) == run_by_onnxruntime(model) == [("QuickGelu", "y")]


def test_the_gate_of_another_tensor_stays():
    """Squeeze and excitation: the map times the sigmoid of what was made of it."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["m"]),
        helper.make_node("Sigmoid", ["m"], ["s"]),
        helper.make_node("Mul", ["x", "s"], ["y"]),
    ]
    model = small_model(nodes, X, ["y"])
    assert refusals(gates.RULE, shaped(model)) == ["it gates another tensor than its own input"]
    assert run_by_the_passes(model) == run_by_onnxruntime(model)


def test_a_sigmoid_that_something_else_reads_stays():
    nodes = [SIGMOID, helper.make_node("Mul", ["s", "x"], ["y"]), helper.make_node("Exp", ["s"], ["z"])]
    model = small_model(nodes, X, ["y", "z"])
    assert run_by_the_passes(model) == run_by_onnxruntime(model)


def test_hardswish_is_inlined():
    model = small_model([helper.make_node("HardSwish", ["x"], ["y"])], X, ["y"])
    kinds = [kind for kind, _ in run_by_the_passes(model)]
    assert kinds == ["HardSigmoid", "Mul"] == [kind for kind, _ in run_by_onnxruntime(model)]
    assert refusals(functions.RULE, shaped(model)) == []
