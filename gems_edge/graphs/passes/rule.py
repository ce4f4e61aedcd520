"""A rule by which onnxruntime rewrites a graph: what it looks for, what else must hold, and what it makes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from gems_edge.graphs.values import graphs_of


@dataclass(frozen=True)
class Rule:
    """`pattern` gives what begins at a node, as `check` and `rewrite` take it, or None. `check` tells why it stays as
    it is; "" if it does not. `rewrite` changes the graph in place."""

    name: str  # onnxruntime's own, where it has one
    pattern: Callable[[ir.Node], Any]
    check: Callable[[Any], str]
    rewrite: Callable[[Any], None]


def apply(rule: Rule, graph: ir.Graph) -> int:
    """Rewrite all that the rule finds, in the bodies of Scans too; how often it did."""
    count = 0
    for part in graphs_of(graph):
        for node in part:
            while node.graph is part and (match := rule.pattern(node)) is not None and not rule.check(match):
                rule.rewrite(match)
                count += 1
    return count


def refusals(rule: Rule, graph: ir.Graph) -> list[str]:
    """Why the rule leaves alone what its pattern finds."""
    matches = [rule.pattern(node) for part in graphs_of(graph) for node in part]
    return [reason for match in matches if match is not None and (reason := rule.check(match))]
