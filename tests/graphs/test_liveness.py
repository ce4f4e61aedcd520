"""Liveness against a plain simulation that keeps reference counts, on random graphs."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gems_edge.graphs.liveness import Op, TensorSize, execution_order, peak_bytes


def simulate(ops, sizes, fed, outputs):
    """Reference counts on buffers, one buffer an allocation: written apart from the code under test."""
    uses = {}
    for op in ops:
        for name in op.inputs:
            uses[name] = uses.get(name, 0) + 1
    for name in outputs:
        uses[name] = uses.get(name, 0) + 1
    buffer = {name: i for i, name in enumerate(fed)}
    held = {i: sizes[name].bytes for i, name in enumerate(fed)}
    count = {i: 1 << 30 for i in held}
    fresh, peak = len(held), sum(held.values())
    for op in ops:
        (out,) = op.outputs
        target = None
        if op.view and out not in outputs:
            target = buffer[op.inputs[0]]
        elif op.in_place and out not in outputs:
            name = op.inputs[0]
            if count[buffer[name]] == 1 and sizes[name].shape == sizes[out].shape:
                target = buffer[name]
        if target is None:
            target, fresh = fresh, fresh + 1
            held[target], count[target] = sizes[out].bytes, 0
        buffer[out] = target
        count[target] += uses.get(out, 0)
        peak = max(peak, sum(held.values()))
        for name in op.inputs:
            count[buffer[name]] -= 1
        for number in [number for number, left in count.items() if left == 0]:
            del held[number], count[number]
    return peak


@st.composite
def graphs(draw):
    shapes = [(4, 4), (4, 4), (8, 8)]
    names, ops, sizes = ["in"], [], {"in": TensorSize(draw(st.sampled_from(shapes)), 4)}
    for index in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(["Relu", "Add", "Conv", "Reshape"]))
        first = draw(st.sampled_from(names))
        inputs = [first]
        shape = sizes[first].shape if kind in ("Relu", "Reshape") else draw(st.sampled_from(shapes))
        if kind == "Add":
            shape = sizes[first].shape
            inputs.append(draw(st.sampled_from([name for name in names if sizes[name].shape == shape])))
        name = f"t{index}"
        sizes[name] = TensorSize(shape, 4)
        ops.append(Op(kind, tuple(inputs), (name,), view=kind == "Reshape", in_place=kind == "Relu"))
        names.append(name)
    used = {name for op in ops for name in op.inputs}
    outputs = [op.outputs[0] for op in ops if op.outputs[0] not in used]
    extra = draw(st.sampled_from([op.outputs[0] for op in ops]))
    return ops, sizes, sorted({*outputs, extra})


@settings(max_examples=300)
@given(graphs())
def test_peak_equals_reference_counting(graph):
    ops, sizes, outputs = graph
    assert peak_bytes(ops, sizes, ["in"], outputs, frozenset()) == simulate(ops, sizes, ["in"], outputs)


@settings(max_examples=200)
@given(graphs())
def test_execution_order_is_a_topological_order(graph):
    ops, _, _ = graph
    seen = {"in"}
    order = execution_order(ops)
    for op in order:
        assert set(op.inputs) <= seen
        seen.update(op.outputs)
    assert sorted(map(id, order)) == sorted(map(id, ops))


def test_by_hand():
    size = TensorSize((10,), 4)
    sizes = dict.fromkeys(("x", "a", "b", "c", "y"), size)
    ops = [
        Op("Conv", ("x",), ("a",)),
        Op("Relu", ("a",), ("b",), in_place=True),
        Op("MaxPool", ("b",), ("c",)),
        Op("Relu", ("c",), ("y",), in_place=True),
    ]
    # x stays (the caller's); a is written over by b; c beside b; y is a graph output, so it gets memory of its own
    assert peak_bytes(ops, sizes, ["x"], ["y"], frozenset()) == 3 * 40
    assert (
        peak_bytes([Op("ConvTranspose", ("x",), ("y",), workspace=500)], sizes, ["x"], ["y"], frozenset())
        == 2 * 40 + 500
    )


def test_constants_take_no_part():
    sizes = {"x": TensorSize((10,), 4), "w": TensorSize((1000,), 4), "y": TensorSize((10,), 4)}
    assert peak_bytes([Op("Add", ("w", "x"), ("y",))], sizes, ["x"], ["y"], frozenset({"w"})) == 80


def test_order_is_onnxruntimes(tmp_path):
    """The order equals the one in onnxruntime's own profile, on a graph whose file order is another."""
    import json
    import os

    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import numpy as np
    import onnxruntime as ort
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Sin", ["x"], ["a"], "first"),
        helper.make_node("Cos", ["x"], ["b"], "second"),
        helper.make_node("Add", ["a", "b"], ["c"], "third"),
        helper.make_node("Exp", ["x"], ["d"], "fourth"),
        helper.make_node("Mul", ["d", "c"], ["y"], "fifth"),
        helper.make_node("Neg", ["b"], ["z"], "sixth"),
    ]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y", "z")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", value[:1], value[1:]), ir_version=10, opset_imports=[helper.make_opsetid("", 20)]
    )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    session.run(None, {"x": np.ones(4, np.float32)})
    with open(session.end_profiling()) as file:
        events = [event["name"] for event in json.load(file)]
    ran = [name.removesuffix("_kernel_time") for name in events if name.endswith("_kernel_time")]
    mine = [op.kind for op in execution_order([Op(node.name, tuple(node.input), tuple(node.output)) for node in nodes])]
    assert mine == ran != [node.name for node in nodes]
