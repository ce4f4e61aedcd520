"""The most bytes of activations alive at once when onnxruntime runs a graph op by op. Plain Python, no onnx."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# Ops whose output is another view of their first input: onnxruntime copies nothing.
ALIASES = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout"})
# Ops that may write over an input of the same shape and type that dies there, and the inputs they may write over
# (onnxruntime's MayInplace declarations of the CPU kernels).
IN_PLACE: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), (0, 1)),
    **dict.fromkeys(
        ("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "Sqrt", "Exp", "Log", "Neg", "Abs", "Reciprocal", "Cast"), (0,)
    ),
}


@dataclass(frozen=True)
class Op:
    """One step of execution: several ONNX nodes where onnxruntime fuses them."""

    kind: str
    inputs: tuple[str, ...]  # "" for an omitted optional input
    outputs: tuple[str, ...]
    macs: int = 0
    bytes: int = 0
    workspace: int = 0  # bytes of scratch memory while it runs
    work: Mapping[str, float] = field(default_factory=dict)  # amounts by term of work.TERMS
    parts: tuple["Op", ...] = ()  # of a Scan: what its body runs …
    trips: int = 1  # … and how often; the amounts above are of all the trips


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
    """Peak of activations in bytes over `ops` in the order given.

    Rules: fed tensors are the caller's and stay alive throughout, graph outputs stay until the end, every other tensor
    is freed after its last use; views cost nothing; an elementwise op writes over an input that dies there if shape and
    type agree and its output is not a graph output. Constants are not counted here.
    """
    kept = set(outputs)
    owner: dict[str, str] = {}  # tensor → the tensor whose memory it lives in

    def root(name: str) -> str:
        while name in owner:
            name = owner[name]
        return name

    for op in ops:
        if op.kind in ALIASES and not kept.intersection(op.outputs):
            owner[op.outputs[0]] = op.inputs[0]
    last_use: dict[str, int] = {}
    for step, op in enumerate(ops):
        for name in (*op.inputs, *op.outputs):
            if name:
                last_use[root(name)] = step
    for name in kept:
        last_use[root(name)] = len(ops)

    pinned = set(fed) | constants
    live = {name: tensors[name].bytes for name in fed}
    total = sum(live.values())
    peak = total
    for step, op in enumerate(ops):
        for slot, name in enumerate(op.outputs):
            if not name or name in owner:
                continue
            reused = None if slot or name in kept else _overwritten(op, name, step, tensors, root, last_use, pinned)
            if reused:
                live[name] = live.pop(reused)
            else:
                live[name] = tensors[name].bytes
                total += live[name]
        peak = max(peak, total + op.workspace)
        for name in {root(name) for name in (*op.inputs, *op.outputs) if name}:
            if last_use[name] == step and name in live and name not in pinned:
                total -= live.pop(name)
    return peak


def _overwritten(op, output, step, tensors, root, last_use, pinned) -> str | None:
    for index in IN_PLACE.get(op.kind, ()):
        if index >= len(op.inputs) or not op.inputs[index]:
            continue
        name = root(op.inputs[index])
        dies = (
            last_use[name] == step
            and name not in pinned
            and sum(root(other) == name for other in op.inputs if other) == 1
        )
        given, wanted = tensors[op.inputs[index]], tensors[output]
        if dies and given.shape == wanted.shape and given.item_bytes == wanted.item_bytes:
            return name
    return None
