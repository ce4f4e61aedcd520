"""Views of views are one view, and sums whose axes of length 1 are taken away again do not keep them.

Pattern: what is read of a value behind Reshape, Squeeze and Unsqueeze nodes in a row. onnxruntime copies nothing for
any of them, but takes some 5 µs for each, and the derivatives that autograd writes have two to four around every [C].
A view stays where its shape is not known but for one size.
"""

import onnx
import onnx_ir as ir

from gems_edge.export.passes.rewriting import constant, replace, tidy
from gems_edge.graphs.batch_axes import whole_numbers

VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze"})
SUMS = frozenset({"ReduceSum", "ReduceMean"})


def merge_views(model: ir.Model) -> None:
    """Rewrite `model` in place; the bodies of Scans are not looked at."""
    shapes = _shapes(model)
    produced = [node.outputs[0] for node in model.graph if not _is_view(node)]
    for root in (*model.graph.inputs, *model.graph.initializers.values(), *produced):
        seen = [value for value in _seen_through_views(root) if value in shapes]
        node = root.producer()
        if seen and node is not None and node.op_type in SUMS and why_kept(node, seen, shapes) is None:
            node.attributes.add(ir.AttrInt64("keepdims", 0))
            shapes[root] = shapes[seen[0]]
        for value in seen:
            _view_once(model.graph, root, value, shapes)
    tidy(model)


def why_kept(node: ir.Node, seen: list[ir.Value], shapes: dict[ir.Value, tuple[int | str, ...]]) -> str | None:
    """Why a sum keeps the axes that it sums over; None if all that reads it takes them away."""
    axes = whole_numbers(node, 1)
    if axes is None or not node.attributes.get_int("keepdims", 1):
        return "it keeps none"
    root = node.outputs[0]
    if root.is_graph_output() or not all(_is_view(reader) for reader in root.consumers()):
        return "it is read as it is"
    if root not in shapes or set(seen) != set(_seen_through_views(root)):
        return "it is read in a shape that is not known"
    kept = shapes[root]
    without = tuple(size for axis, size in enumerate(kept) if axis not in {axis % len(kept) for axis in axes})
    return None if all(shapes[value] == without for value in seen) else "it is read in other shapes"


def _shapes(model: ir.Model) -> dict[ir.Value, tuple[int | str, ...]]:
    """Of the values whose shape is known, with the names of dynamic sizes."""
    inferred = onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True).graph
    values = ir.convenience.create_value_mapping(model.graph)
    found = {}
    for info in (*inferred.value_info, *inferred.input, *inferred.output):
        dims = info.type.tensor_type.shape.dim
        sizes = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims]
        if info.type.tensor_type.HasField("shape") and "" not in sizes:
            found[values[info.name]] = tuple(sizes)
    return found


def _is_view(node: ir.Node) -> bool:
    return node.op_type in VIEWS


def _seen_through_views(root: ir.Value) -> list[ir.Value]:
    """The views of `root`, of views too, that something else reads than a view."""
    seen, waiting = [], [root]
    while waiting:
        value = waiting.pop()
        views = [reader for reader in value.consumers() if _is_view(reader) and reader.inputs[0] is value]
        if value is not root and (value.is_graph_output() or len(views) < len(value.uses())):
            seen.append(value)
        waiting += [view.outputs[0] for view in views]
    return seen


def _view_once(graph: ir.Graph, root: ir.Value, value: ir.Value, shapes: dict[ir.Value, tuple[int | str, ...]]) -> None:
    """Have `value`, a view of a view of `root`, made from it at once."""
    view, shape = value.producer(), shapes[value]
    if shapes.get(root) == shape:
        if not value.is_graph_output():
            value.replace_all_uses_with(root)
        elif not (root.is_graph_output() or root.is_graph_input() or root.is_initializer()):
            replace(value, root)
        return
    if view is None or view.inputs[0] is root:
        return
    sizes = _sizes(shapes.get(root, ()), shape)
    if sizes is not None:
        tape = ir.tape.Tape(graph)
        replace(value, tape.op("Reshape", [root, constant(graph, sizes)]))


def _sizes(before: tuple[int | str, ...], after: tuple[int | str, ...]) -> list[int] | None:
    """What a Reshape is told, 0 for a dynamic first axis that stays and −1 for another; None for more than one."""
    told = [size if isinstance(size, int) else -1 for size in after]
    if after and before and after[0] == before[0] and isinstance(after[0], str):
        told[0] = 0
    return told if told.count(-1) <= 1 else None
