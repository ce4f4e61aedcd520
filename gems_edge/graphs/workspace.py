"""Scratch memory of an op while onnxruntime runs it. No onnx here."""

import math

from gems_edge.predict.work import Call

# Elements of the columns that a convolution of larger maps expands at a time (MLAS: stride N × stride K of its matrix
# product).
_COLUMNS_BLOCK = 128 * 128


def workspace_bytes(kind: str, call: Call) -> int:
    """Bytes of scratch memory while a convolution runs; other ops have none."""
    if kind == "Conv":
        return _columns(call) * call.output.size.item_bytes
    if kind == "ConvTranspose":
        # onnxruntime multiplies one image at a time into a [Cout·kh·kw, H·W] column buffer, then scatters it
        image = call.first
        return math.prod(call.weight.shape[1:]) * math.prod(image.shape[2:]) * image.size.item_bytes
    return 0


def _columns(call: Call) -> int:
    """Elements of the column buffer of a convolution that onnxruntime multiplies out: of all places of one group where
    there are fewer of them than filters, otherwise of some at a time (a block of MLAS's matrix product, one thread)."""
    weight, groups = call.weight.shape, call.attributes.get("group", 1)
    places, terms = math.prod(call.output.shape[2:]), math.prod(weight[1:])
    if math.prod(weight[2:]) == 1 and _sees_its_input(call):
        return 0
    return places * terms if weight[0] // groups > places else _COLUMNS_BLOCK


def _sees_its_input(call: Call) -> bool:
    """Whether a 1×1 convolution reads its input as it is: it leaves no pixel out, and pads none."""
    steps, pads = call.attributes.get("strides", ()), call.attributes.get("pads", ())
    return set(steps) <= {1} and not any(pads)
