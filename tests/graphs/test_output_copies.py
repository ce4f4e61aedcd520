"""An Identity that only names a graph output costs nothing."""

from onnx import helper
from small_graphs import run_by_onnxruntime, run_by_the_passes, small_model

X = {"x": ["images", 4]}


def test_what_makes_a_graph_output_writes_it():
    nodes = [helper.make_node("Exp", ["x"], ["e"]), helper.make_node("Identity", ["e"], ["y"])]
    model = small_model(nodes, X, ["y"])
    assert run_by_the_passes(model) == run_by_onnxruntime(model) == [("Exp", "y")]


def test_not_where_something_else_reads_it_too():
    nodes = [
        helper.make_node("Exp", ["x"], ["e"]),
        helper.make_node("Identity", ["e"], ["y"]),
        helper.make_node("Exp", ["e"], ["z"]),
    ]
    model = small_model(nodes, X, ["y", "z"])
    assert run_by_the_passes(model) == run_by_onnxruntime(model)
