"""What each node of a graph makes an Arm core run, by kind of instruction, and what it misses in the caches; exact.

    python tools/arm64/count_ops.py GRAPH.onnx [--cpu cortex-a72] [--size N=5 …] [--no-caches] [--json FILE]

Any ONNX file: predict.onnx and trunk.onnx of a bundle, or another network. One thread, the third call of the pinned
onnxruntime in the arm64 userland, float32's rules of gems_edge.device.runtime. `--size` gives a dimension that has a
name; 1 if left out. Caches have the core's sizes, lines of 64 bytes, no prefetching, and replace what was not used for
longest: what they miss is an upper bound of what the core waits for.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from boards import BOARDS
from count_instructions import CLOCK, Counts, Mark, marks_of
from counted_ops import LOADING, RUN
from debian import Unavailable
from marking import EMPTY
from userland import userland

_COLUMNS = ("instructions", *Counts.__dataclass_fields__)


@dataclass(frozen=True)
class Node:
    """What one node has run in one call of its graph."""

    name: str
    op: str
    inputs: tuple[tuple[int, ...], ...]  # shapes
    outputs: tuple[tuple[int, ...], ...]
    counts: Counts


@dataclass(frozen=True)
class Call:
    """One warm call of a graph: all of it, and its nodes in the order in which they ran."""

    whole: Counts  # with the call's own work, and with what the profile costs between nodes
    nodes: tuple[Node, ...]


def count_ops(root: Path, cpu: str, graph: Path, sizes: Sequence[str] = (), caches: bool = True) -> Call:
    """Raises Unavailable where no plugin can be built, CalledProcessError where onnxruntime cannot run the graph."""
    with tempfile.TemporaryDirectory(prefix="gems-edge-profile-") as place:
        profile = Path(place) / "profile.json"
        keep = {"profile.json": profile}
        marks = marks_of(root, cpu, graph, "counted_ops.py", sizes, caches, clocks=True, keep=keep)
        return call_of(marks, json.loads(profile.read_bytes()))


def call_of(marks: Sequence[Mark], profile: Iterable[dict[str, Any]]) -> Call:
    """The last call: onnxruntime's events, whose times are instructions, with the counts of their begins and ends."""
    places = {mark.number: place for place, mark in enumerate(marks) if mark.number != CLOCK}
    begin, end = places[RUN], places[RUN + 1]
    empty = marks[places[EMPTY + 1]].counts - marks[places[EMPTY]].counts
    at = {mark.counts.instructions: mark.counts for mark in marks if mark.number == CLOCK}
    events = [event for event in profile if event["cat"] == "Node" and event["name"].endswith("_kernel_time")]
    start = _start(marks[places[LOADING] :], at, events)
    first, last = (marks[place].counts.instructions for place in (begin, end))
    nodes = [_node(event, start, at) for event in events if first <= start + event["ts"] < last]
    return Call(marks[end].counts - marks[begin].counts - empty, tuple(nodes))


def _start(marks: Sequence[Mark], at: dict[int, Counts], events: Sequence[dict[str, Any]]) -> int:
    """The time at which the profile began, from which its events are counted: the mark that has all of them fall on
    marks."""
    ends = [time for event in events for time in (event["ts"], event["ts"] + event["dur"])]
    for mark in marks:
        if mark.number == CLOCK and all(mark.counts.instructions + time in at for time in ends):
            return mark.counts.instructions
    raise RuntimeError("the profile's times are none of the clock's; is repeatable.c preloaded?")


def _node(event: dict[str, Any], start: int, at: dict[int, Counts]) -> Node:
    begin, told = start + event["ts"], event["args"]
    counts = at[begin + event["dur"]] - at[begin]
    shapes = (
        tuple(tuple(shape) for typed in told[key] for shape in typed.values())
        for key in ("input_type_shape", "output_type_shape")
    )
    return Node(event["name"].removesuffix("_kernel_time"), told["op_name"], *shapes, counts)


def by_op(nodes: Iterable[Node]) -> dict[str, tuple[int, Counts]]:
    """Op → how many nodes, and what they run together; the most instructions first."""
    found: dict[str, tuple[int, Counts]] = {}
    for node in nodes:
        number, total = found.get(node.op, (0, node.counts - node.counts))
        found[node.op] = number + 1, total + node.counts
    return dict(sorted(found.items(), key=lambda item: -item[1][1].instructions))


def main() -> int:
    parser = argparse.ArgumentParser(description="What each node of a graph makes an Arm core run.")
    parser.add_argument("graph", type=Path)
    parser.add_argument("--cpu", choices=BOARDS, default="cortex-a72")
    parser.add_argument("--size", action="append", default=[], metavar="NAME=N", help="of a dimension that has a name")
    parser.add_argument("--no-caches", action="store_true", help="count instructions alone, several times as fast")
    parser.add_argument("--json", type=Path, help="every node with its shapes, too")
    options = parser.parse_args()
    if not options.graph.is_file():
        parser.error(f"{options.graph} is no file")
    try:
        call = count_ops(userland(), options.cpu, options.graph, options.size, not options.no_caches)
    except Unavailable as reason:
        print(f"count_ops: {reason}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines() or [f"it ended with {error.returncode}"]
        print(f"count_ops: {options.graph} does not run there: {said[-1]}", file=sys.stderr)
        return 2
    rows = [(str(number), op, counts) for op, (number, counts) in by_op(call.nodes).items()]
    print(f"{'nodes':>6}  {'op':24}" + "".join(f"{name:>14}" for name in _COLUMNS))
    for number, op, counts in [*rows, ("", "whole call", call.whole)]:
        print(f"{number:>6}  {op:24}" + "".join(f"{value:>14,}" for value in (counts.instructions, *astuple(counts))))
    if options.json:
        document = {"cpu": options.cpu, "whole": asdict(call.whole), "nodes": [asdict(node) for node in call.nodes]}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
