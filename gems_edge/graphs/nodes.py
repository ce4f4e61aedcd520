"""What the passes over ONNX nodes share: attributes as values, and who makes and reads each tensor."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import onnx


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The values of a node's attributes by name; what has its default is not among them."""
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


@dataclass(frozen=True)
class Links:
    """Which node writes each tensor, and which nodes read it."""

    producer: dict[str, onnx.NodeProto]
    consumers: dict[str, list[onnx.NodeProto]]
    outputs: frozenset[str]  # of the graph

    @classmethod
    def of(cls, nodes: Iterable[onnx.NodeProto], outputs: Iterable[str]) -> "Links":
        nodes = list(nodes)
        consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in nodes:
            for name in node.input:
                consumers[name].append(node)
        return cls({name: node for node in nodes for name in node.output if name}, consumers, frozenset(outputs))

    def only_consumer(self, name: str) -> onnx.NodeProto | None:
        """The only node that reads a tensor; None if several do, or if it is a graph output."""
        readers = self.consumers[name]
        return readers[0] if len(readers) == 1 and name not in self.outputs else None
