"""PadFusion: zeros around a map are what the convolution or average pool behind pads it with."""

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from gems_edge.graphs.batch_axes import whole_numbers
from gems_edge.graphs.passes.rule import Rule
from gems_edge.graphs.values import attributes, only_reader


class _Padded(NamedTuple):
    pad: ir.Node
    reader: ir.Node


def _pattern(node: ir.Node) -> _Padded | None:
    if node.op_type != "Pad":
        return None
    reader = only_reader(node.outputs[0])
    if reader is None or reader.op_type not in ("Conv", "AveragePool") or reader.inputs[0] is not node.outputs[0]:
        return None
    return _Padded(node, reader)


def _check(match: _Padded) -> str:
    form, pads = attributes(match.pad), whole_numbers(match.pad, 1)
    if form.get("mode", "constant") != "constant" or not _is_zero(match.pad):
        return "it pads with something else than zeros"
    if pads is None or len(match.pad.inputs) > 3:
        return "what it pads is computed"
    spatial = len(pads) // 2 - 2
    if any(pads[:2]) or any(pads[2 + spatial : 4 + spatial]) or min(pads) < 0:
        return "it pads images or channels, or cuts"
    own = attributes(match.reader)
    if own.get("auto_pad", "NOTSET") != "NOTSET" or match.reader.op_type == "AveragePool" and any(own.get("pads", ())):
        return f"{match.reader.op_type} has a padding of its own"
    return ""


def _is_zero(pad: ir.Node) -> bool:
    value = pad.inputs[2] if len(pad.inputs) > 2 else None
    if value is None:
        return True
    return value.is_initializer() and value.const_value is not None and not np.any(value.const_value.numpy())


def _rewrite(match: _Padded) -> None:
    pads = whole_numbers(match.pad, 1)
    assert pads is not None
    spatial = len(pads) // 2 - 2
    own = list(attributes(match.reader).get("pads", [0] * 2 * spatial))
    more = [*pads[2 : 2 + spatial], *pads[4 + spatial :]]
    match.reader.attributes.add(ir.AttrInt64s("pads", [mine + further for mine, further in zip(own, more)]))
    match.reader.replace_input_with(0, match.pad.inputs[0])
    graph = match.pad.graph
    assert graph is not None
    graph.remove(match.pad, safe=True)


RULE = Rule("PadFusion", _pattern, _check, _rewrite)
