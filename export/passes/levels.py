"""In which Scan each node runs that runs image by image: between two Scans there is a sum or mean over the images."""

from collections.abc import Mapping, Set
from dataclasses import dataclass

import onnx_ir as ir

from gems_edge.export.passes.batches import Batches
from gems_edge.export.passes.streamed import touches


@dataclass(frozen=True)
class Levels:
    """What of a graph runs image by image. All nodes of a level that are inside run in one Scan."""

    batches: Batches
    inside: Set[ir.Node]
    of_node: Mapping[ir.Node, int]  # one above that of everything from outside its Scan that the node needs

    @classmethod
    def of(cls, batches: Batches, streamed: set[ir.Value]) -> "Levels":
        """The nodes around `streamed` values go inside, and small ones between them that need no other image either."""
        inside = {node for node in batches.graph if touches(node, streamed) and batches.splits(node)}
        level: dict[ir.Node, int] = {}
        levels, joined = cls(batches, inside, level), set()
        for node in batches.graph:
            within, without = levels._sources(node)
            if node not in inside and within and node in batches.apart and max(without, default=0) < max(within):
                inside.add(node)
                joined.add(node)
            if node in inside:
                level[node] = max([*within, *(number + 1 for number in without), 1])
            else:
                level[node] = max([*within, *without, 0])
        while surplus := {node for node in joined if levels._leads_nowhere(node)}:
            inside -= surplus
            joined -= surplus
        return levels

    def same_image(self, source: ir.Node) -> bool:
        """Whether a node of the same Scan can read what `source` gives for its image."""
        return source in self.inside and source not in self.batches.crossing

    def _sources(self, node: ir.Node) -> tuple[list[int], list[int]]:
        """The levels of the nodes that `node` reads: of those whose image it could share, and of the others."""
        sources = [source for value in node.inputs if value is not None and (source := value.producer())]
        within = [self.of_node[source] for source in sources if self.same_image(source)]
        return within, [self.of_node[source] for source in sources if not self.same_image(source)]

    def _leads_nowhere(self, node: ir.Node) -> bool:
        """Whether nothing in its Scan reads what the node gives: it is better off outside."""
        readers = [reader for value in node.outputs for reader in value.consumers()]
        return not any(reader in self.inside and self.of_node[reader] == self.of_node[node] for reader in readers)
