"""The table of ops: whole, true to ONNX, and asked by everything that writes or reads a graph."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import defs

from gems_edge.export.builder import GraphBuilder
from gems_edge.graphs.ops import ROWS, is_apart, is_over_images, row_of

EXPORT = Path(__file__).parents[2] / "export"


def written_kinds():
    """Every ONNX op that a text in export/ names."""
    texts = {
        node.value
        for path in EXPORT.glob("**/*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return {text for text in texts if defs.has(text)}


def test_every_op_that_export_can_write_has_a_row():
    kinds = written_kinds()
    assert {"Conv", "MatMul", "Where", "QuantizeLinear", "Scan"} <= kinds  # the search finds what is there
    assert kinds <= ROWS.keys()


def test_an_op_without_a_row_is_refused_where_it_is_written():
    builder = GraphBuilder("g")
    x = builder.input("x", [2, 3])
    with pytest.raises(ValueError, match="LpPool has no row in gems_edge/graphs/ops.py"):
        builder.op("LpPool", x.name, kernel_shape=[1])


@pytest.mark.parametrize("kind", sorted(ROWS))
def test_rows_are_of_ops_that_there_are(kind):
    row = row_of(kind)
    assert defs.has(kind) or kind in ("QGemm", "QuickGelu")  # onnxruntime's own
    assert not row.view or (row.moves.name == "NOTHING" and not row.in_place)
    assert not row.product or row.macs.__name__ != "none"


def test_the_table_needs_nothing_of_the_workstation():
    code = (
        "import sys, gems_edge.graphs.ops\nassert not {'onnx', 'onnx_ir', 'numpy', 'torch'} & set(sys.modules), 'heavy'"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""


def value(name, shape, constant=None):
    return ir.Value(
        name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT),
        const_value=None if constant is None else ir.tensor(np.asarray(constant), name=name),
    )  # fmt: skip


def node(kind, inputs, *shapes, **attributes):
    outputs = [value(f"y{index}", shape) for index, shape in enumerate(shapes)]
    return ir.node(kind, inputs, attributes, outputs=outputs)


def verdict(kind, batched, others, *shapes, **attributes):
    """is_apart of an op that reads `batched` shapes of all images and then `others`, and gives such `shapes`."""
    read = [value(f"x{index}", shape) for index, shape in enumerate(batched)]
    op = node(kind, [*read, *others], *shapes, **attributes)
    return is_apart(op, {*read, *op.outputs})


def numbers(*values):
    return value("numbers", [len(values)], np.array(values, np.int64))


MAPS = [7, 4, 6, 6]
APART = [
    ("Conv", [MAPS], [value("w", [4, 1, 3, 3])], MAPS, {"group": 4}),
    ("ConvTranspose", [MAPS], [value("w", [4, 1, 3, 3])], MAPS, {"group": 4}),
    ("MaxPool", [MAPS], [], [7, 4, 3, 3], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("AveragePool", [MAPS], [], [7, 4, 3, 3], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("GlobalAveragePool", [MAPS], [], [7, 4, 1, 1], {}),
    ("HardSwish", [MAPS], [], MAPS, {}),
    ("Clip", [MAPS], [value("low", []), value("high", [])], MAPS, {}),
    ("Add", [MAPS, MAPS], [], MAPS, {}),
    ("Mul", [MAPS, [7, 4, 1, 1]], [], MAPS, {}),
    ("Mul", [MAPS], [value("c", [4, 1, 1])], MAPS, {}),
    ("Where", [MAPS, MAPS], [value("c", [1, 4, 1, 1])], MAPS, {}),
    ("MatMul", [[7, 4, 6]], [value("m", [6, 5])], [7, 4, 5], {}),
    ("MatMul", [[7, 4, 6], [7, 6, 5]], [], [7, 4, 5], {}),
    ("Gemm", [[7, 4]], [value("w", [5, 4]), value("b", [5])], [7, 5], {"transB": 1}),
    ("Flatten", [MAPS], [], [7, 144], {}),
    ("Reshape", [MAPS], [numbers(0, 4, 36)], [7, 4, 36], {}),
    ("Reshape", [MAPS], [numbers(-1, 4, 36)], [7, 4, 36], {}),
    ("Transpose", [MAPS], [], [7, 6, 6, 4], {"perm": [0, 2, 3, 1]}),
    ("Concat", [MAPS, MAPS], [], [7, 8, 6, 6], {"axis": 1}),
    ("Split", [MAPS], [numbers(1, 3)], [7, 1, 6, 6], {"axis": 1}),
    ("Slice", [MAPS], [numbers(0), numbers(3), numbers(-1)], [7, 4, 6, 3], {}),
    ("Pad", [MAPS], [numbers(0, 0, 0, 0, 0, 0, 1, 1)], [7, 4, 7, 7], {}),
    ("Gather", [MAPS], [numbers(0, 2)], [7, 2, 6, 6], {"axis": 1}),
    ("Unsqueeze", [MAPS], [numbers(1)], [7, 1, 4, 6, 6], {}),
    ("Squeeze", [[7, 4, 1, 1]], [numbers(2, 3)], [7, 4], {}),
    ("ReduceMean", [MAPS], [numbers(2, 3)], [7, 4], {"keepdims": 0}),
    ("ReduceMax", [MAPS], [numbers(-1)], [7, 4, 6], {"keepdims": 0}),
    ("LogSoftmax", [[7, 5]], [], [7, 5], {"axis": 1}),
    ("CumSum", [MAPS], [numbers(3)], MAPS, {}),
    ("Resize", [MAPS], [None, value("scales", [4], np.float32([1, 1, 2, 2]))], [7, 4, 12, 12], {}),
]
MIXED = [
    ("Mul", [MAPS], [value("of images", [7, 4, 6, 6])], MAPS, {}),  # as many rows by chance
    ("Reshape", [MAPS], [numbers(28, 36)], [28, 36], {}),
    ("Transpose", [MAPS], [], [4, 7, 6, 6], {"perm": [1, 0, 2, 3]}),
    ("Transpose", [[7, 7]], [], [7, 7], {}),
    ("Concat", [MAPS, MAPS], [], [14, 4, 6, 6], {"axis": 0}),
    ("Pad", [MAPS], [numbers(1, 0, 0, 0, 0, 0, 0, 0)], [8, 4, 6, 6], {}),
    ("Slice", [MAPS], [numbers(0), numbers(3), numbers(0)], [3, 4, 6, 6], {}),
    ("Gather", [MAPS], [numbers(*range(7))], MAPS, {"axis": 0}),
    ("Gemm", [[7, 7]], [value("w", [7, 7])], [7, 7], {"transA": 1}),
    ("Softmax", [[7, 5]], [], [7, 5], {"axis": 0}),
    ("Resize", [MAPS], [None, None, numbers(7, 4, 12, 12)], [7, 4, 12, 12], {}),
    ("Expand", [[7, 1]], [numbers(7, 4)], [7, 4], {}),
]


@pytest.mark.parametrize("kind, batched, others, shape, attributes", APART)
def test_what_is_computed_for_each_image_apart(kind, batched, others, shape, attributes):
    assert verdict(kind, batched, others, shape, **attributes)


@pytest.mark.parametrize("kind, batched, others, shape, attributes", MIXED)
def test_what_mixes_images_or_cannot_be_told(kind, batched, others, shape, attributes):
    assert not verdict(kind, batched, others, shape, **attributes)


def test_a_product_of_other_maps_with_all_images_is_not_apart():
    images = value("x", [7, 4, 6])
    op = node("MatMul", [value("w", [7, 5, 4]), images], [7, 5, 6])
    assert not is_apart(op, {images, *op.outputs})


def test_the_same_matrices_before_every_image_keep_them_apart():
    images = value("x", [7, 4, 6])
    for shape in ([5, 4], [1, 5, 4]):
        op = node("MatMul", [value("w", shape), images], [7, 5, 6])
        assert is_apart(op, {images, *op.outputs})
    rows = value("x", [7, 4])
    op = node("MatMul", [value("w", [7, 7]), rows], [7, 4])
    assert not is_apart(op, {rows, *op.outputs})


def test_sums_over_the_images_can_be_split():
    images = value("x", MAPS)
    whole = node("ReduceSum", [images, numbers(0, 2, 3)], [4], keepdims=0)
    assert is_over_images(whole, {images}) and not is_apart(whole, {images})
    assert not is_over_images(whole, set())
    assert not is_over_images(node("ReduceSum", [images, numbers(2, 3)], [7, 4], keepdims=0), {images})
    assert not is_over_images(node("ReduceSum", [images, value("axes", [2])], [4], keepdims=0), {images})
    assert is_over_images(node("ReduceMax", [images], [], keepdims=0), {images})
