"""Zeros around a map that only a convolution reads become the convolution's own padding.

Pattern: Pad → Conv with constant pads of zeros on the last two axes. A Pad that cuts (negative pads), fills with
another number or is read by others stays. onnxruntime does the same to a float32 graph (PadFusion); between
QuantizeLinear and DequantizeLinear it does not.
"""

import onnx_ir as ir


def absorb_pads(model: ir.Model) -> None:
    for node in list(model.graph):
        if node.op_type == "Conv" and (pad := node.inputs[0].producer() if node.inputs[0] else None):
            around = _zeros_around(pad)
            if around is not None:
                own = node.attributes["pads"].as_ints() if "pads" in node.attributes else [0] * 4
                node.attributes.add(ir.AttrInt64s("pads", [a + b for a, b in zip(own, around)]))
                node.replace_input_with(0, pad.inputs[0])
                model.graph.remove(pad, safe=True)


def _zeros_around(pad: ir.Node) -> list[int] | None:
    """top, left, bottom, right of a Pad as above; None for any other node."""
    if pad.op_type != "Pad" or len(pad.outputs[0].uses()) != 1 or pad.outputs[0].is_graph_output():
        return None
    pads, fill, axes = ([*pad.inputs, None, None][slot] for slot in (1, 2, 3))
    if "mode" in pad.attributes and pad.attributes["mode"].as_string() != "constant":
        return None
    if axes is not None or pads is None or pads.const_value is None:
        return None
    if fill is not None and (fill.const_value is None or fill.const_value.numpy().item() != 0):
        return None
    sizes: list[int] = pads.const_value.numpy().tolist()
    if len(sizes) != 8 or min(sizes) < 0 or any(sizes[axis] for axis in (0, 1, 4, 5)):
        return None
    return [sizes[2], sizes[3], sizes[6], sizes[7]]
