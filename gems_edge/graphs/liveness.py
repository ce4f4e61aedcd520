"""Which bytes of activations are alive when onnxruntime runs a graph op by op, and the most at once. No onnx here."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

# An allocation under a name, in bytes; None frees it.
Request = tuple[str, int | None]


@dataclass(frozen=True)
class Op:
    """One step of execution: several ONNX nodes where onnxruntime fuses them."""

    kind: str
    inputs: tuple[str, ...]  # "" for an omitted optional input
    outputs: tuple[str, ...]
    macs: int = 0
    bytes: int = 0
    workspace: int = 0  # bytes of scratch memory while it runs
    view: bool = False  # its first output is its first input under another name
    in_place: bool = False  # it may write its first output over its first input
    work: Mapping[str, float] = field(default_factory=dict)  # amounts by term of work.TERMS
    parts: tuple["Op", ...] = ()  # of a Scan: what its body runs …
    trips: int = 1  # … and how often; the amounts above are of all the trips
    trip: tuple[Request, ...] = ()  # what one of them asks for beside the workspace


@dataclass(frozen=True)
class TensorSize:
    shape: tuple[int, ...]
    item_bytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * self.item_bytes


def execution_order(ops: Sequence[Op]) -> list[Op]:
    """The order in which onnxruntime's sequential executor runs the ops: depth first from the last op backwards.

    (GraphViewer's default order: reverse DFS from the ops nobody consumes, inputs sorted by index.)
    """
    producer = {name: index for index, op in enumerate(ops) for name in op.outputs if name}
    sources = [sorted({producer[name] for name in op.inputs if name in producer}) for op in ops]
    consumed = {source for row in sources for source in row}
    stack = [(index, False) for index in range(len(ops)) if index not in consumed]
    seen: set[int] = set()
    order = []
    while stack:
        index, leaving = stack.pop()
        if leaving:
            order.append(ops[index])
        elif index not in seen:
            seen.add(index)
            stack.append((index, True))
            stack.extend((source, False) for source in sources[index] if source not in seen)
    return order


def peak_bytes(
    ops: Sequence[Op],
    tensors: Mapping[str, TensorSize],
    fed: Sequence[str],
    outputs: Sequence[str],
    constants: frozenset[str],
) -> int:
    """Peak of activations in bytes over `ops` in the order given: what requests() counts, and the fed tensors."""
    asked = requests(ops, tensors, frozenset(fed) | constants, outputs, trips=1)
    return sum(tensors[name].bytes for name in fed) + most_bytes(asked)


def most_bytes(asked: Iterable[Request]) -> int:
    """The most bytes that are taken at once."""
    taken: dict[str, int] = {}
    total = peak = 0
    for name, size in asked:
        if size is None:
            total -= taken.pop(name)
        else:
            taken[name] = size
            total += size
            peak = max(peak, total)
    return peak


def requests(
    ops: Sequence[Op],
    tensors: Mapping[str, TensorSize],
    elsewhere: frozenset[str],
    outputs: Sequence[str],
    *,
    trips: int = 4,
) -> Iterator[Request]:
    """The allocations of `ops` in the order given; `elsewhere`: tensors that are not the allocator's.

    Rules: fed tensors and constants are elsewhere and stay alive throughout, graph outputs stay until the end, every
    other tensor is freed after its last use; views cost nothing; an op that may be in place writes over an input that
    dies there if its output is not a graph output. An op's workspace lives while it runs. A Scan allocates the same at
    every trip; at most `trips` of them are listed, as further ones reuse what the last one freed.
    """
    kept = set(outputs)
    lifetimes = _Lifetimes(ops, kept)
    held: dict[str, str] = {}  # tensor → the name under which its memory was asked for
    for step, op in enumerate(ops):
        for slot, name in enumerate(op.outputs):
            if not name or name in lifetimes.owner or name in elsewhere:
                continue
            overwritten = lifetimes.overwritten(step, op, tensors) if slot == 0 and name not in kept else None
            if overwritten and overwritten not in elsewhere:
                held[name] = held.pop(overwritten)
            else:
                held[name] = name
                yield name, tensors[name].bytes
        if op.workspace:
            yield f"{op.outputs[0]}/workspace", op.workspace
        for _ in range(min(trips, op.trips)):
            yield from op.trip
        if op.workspace:
            yield f"{op.outputs[0]}/workspace", None
        for name in lifetimes.ending(step, op):
            if name in held:
                yield held.pop(name), None
    for name in held.values():
        yield name, None


class _Lifetimes:
    """In whose memory each tensor lives, and the step after which nothing needs it."""

    def __init__(self, ops: Sequence[Op], kept: set[str]):
        self.owner: dict[str, str] = {}  # view → the tensor whose memory it lives in
        for op in ops:
            if op.view and not kept.intersection(op.outputs):
                self.owner[op.outputs[0]] = op.inputs[0]
        self.last_use: dict[str, int] = {}
        for step, op in enumerate(ops):
            for name in filter(None, (*op.inputs, *op.outputs)):
                self.last_use[self.root(name)] = step
        for name in kept:
            self.last_use[self.root(name)] = len(ops)

    def root(self, name: str) -> str:
        while name in self.owner:
            name = self.owner[name]
        return name

    def ending(self, step: int, op: Op) -> list[str]:
        """The tensors that nothing needs after `op`, the one of this step."""
        roots = dict.fromkeys(self.root(name) for name in (*op.inputs, *op.outputs) if name)
        return [name for name in roots if self.last_use[name] == step]

    def overwritten(self, step: int, op: Op, tensors: Mapping[str, TensorSize]) -> str | None:
        """The tensor that `op`, the one of this step, may write its first output over."""
        if not op.in_place:
            return None
        name = self.root(op.inputs[0])
        read, written = tensors[op.inputs[0]], tensors[op.outputs[0]]
        return name if self.last_use[name] == step and read == written else None
