"""What the passes share: constants, values in place of others, and a rewritten graph made small and ordered."""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass


def initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """The initialiser `name` of the graph, with these values if it is new."""
    if name not in graph.initializers:
        graph.register_initializer(ir.val(name, const_value=ir.tensor(array, name=name)))
    return graph.initializers[name]


def constant(graph: ir.Graph, values: list[int] | np.ndarray) -> ir.Value:
    """The initialiser of the graph that holds these few values (int64 if it is a list): equal ones are shared."""
    array = np.asarray(values)
    name = f"pass.{array.dtype}.{'x'.join(map(str, array.shape))}.{'.'.join(map(str, array.ravel()))}"
    return initializer(graph, name, array)


def tidy(model: ir.Model) -> None:
    """Leave out what no output needs, and put the rest in the order in which the outputs ask for their sources.

    onnxruntime's order follows that of the file, and with it the peak of memory.
    """
    model.graph.extend(_depth_first(model.graph))
    RemoveUnusedNodesPass()(model)


def _depth_first(graph: ir.Graph) -> list[ir.Node]:
    order: dict[ir.Node, None] = {}
    for output in graph.outputs:
        producer = output.producer()
        waiting = [] if producer is None else [(producer, False)]
        while waiting:
            node, sources_done = waiting.pop()
            if node in order:
                continue
            if sources_done:
                order[node] = None
                continue
            waiting.append((node, True))
            waiting += [(source, False) for source in reversed(list(_sources(node, graph))) if source not in order]
    return list(order)


def _sources(node: ir.Node, graph: ir.Graph) -> Iterator[ir.Node]:
    """The nodes of `graph` that give what `node` reads, what the body of a Scan captures included."""
    bodies = [
        attribute.as_graph() for attribute in node.attributes.values() if attribute.type == ir.AttributeType.GRAPH
    ]
    for reader in (node, *(inner for body in bodies for inner in body)):
        for value in reader.inputs:
            source = None if value is None else value.producer()
            if source is not None and source.graph is graph:
                yield source


def replace(old: ir.Value, new: ir.Value) -> None:
    """Have all that reads `old`, bodies of Scans included, read `new`; as an output of the graph it keeps its name."""
    new.name, new.type, new.shape = old.name, old.type, old.shape
    old.name = f"{old.name}/replaced"
    old.replace_all_uses_with(new, replace_graph_outputs=True)
