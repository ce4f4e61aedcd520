"""The graphs of a bundle, traced from the functions that trained: adapt.onnx (one inner step), predict.onnx, and
trunk.onnx of the layers that no step moves."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from gems_edge.device.bundle import FEATURES, FIRST, HEAD, IMAGES
from gems_edge.export.builder import GraphBuilder, Value
from gems_edge.export.lowering import lower
from gems_edge.export.passes.lean import lean
from gems_edge.export.translation import Translation
from gems_edge.meta.inner import Support, inner_step
from gems_edge.meta.rules.base import Rule
from gems_edge.models.fewshot import FewShotModel, Weights, body, forward, initial_weights, network_weights
from gems_edge.models.head import prototypes
from gems_edge.models.normalization import Statistics
from gems_edge.models.split import Split

CLASSES = "classes"
RULE, MASK = "rule.", "mask."
_PRIMES = tuple(n for n in range(11, 1000) if all(n % d for d in range(2, 32) if d < n))


# Names of an ONNX graph's inputs or outputs → tensors.
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Trace:
    """The ATen operations of a function from named tensors to named tensors."""

    graph: torch.fx.Graph
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    symbols: dict[Any, str]  # of the tracer → "images" or "classes"
    sources: dict[str, tuple[str, int]]  # "images" or "classes" → the input and the axis that carry it


def adapt_graph(model: FewShotModel, weights: Weights, rule: Rule, fed: str = IMAGES) -> onnx.ModelProto:
    """One inner step as ONNX: (images, targets, adapted weights) → (loss, updated weights, support statistics).

    Of a top the input is `fed` "features", what its trunk makes of the images.
    Weights that the rule does not move are initialisers; they have no backward pass. A ticket's masks are initialisers
    that multiply the gradients, as in training. What the rule carries from step to step goes in as rule.NAME and out as
    next.rule.NAME; the rest of its state, and its φ, are initialisers. Numbers of images and classes are dynamic.

    Of a prototype head the graph makes the rows of the support set and gives them as start.NAME. Where the scalar input
    "first" is above 0 it steps from these, else from the rows that it is fed.
    """
    weights = _float32(weights)
    state = rule.begin(weights)
    images, classes = _trace_sizes(model, [*weights.values(), *state.values()])
    defaults = _float32(initial_weights(model, weights, model.spec.ways))
    adapted = rule.adapted(defaults)
    masks = {f"{MASK}{name}": model.masks[name].float().cpu() for name in adapted if name in model.masks}
    stored = masks | {f"{RULE}{name}": value for name, value in state.items()}
    # What belongs to a per-class head's weights has one row per class.
    rows = {n: torch.ones(classes, *v.shape[1:]) for n, v in stored.items() if n.endswith(HEAD) and len(v) > 1}
    examples = {fed: torch.rand(images, *model.input_shape), "targets": torch.zeros(images, classes)}
    examples |= _with_classes(defaults, classes) | stored | rows
    first = {FIRST: torch.ones(())} if model.spec.head == "prototype" else {}
    examples |= first
    sources = {IMAGES: (fed, 0), CLASSES: ("targets", 1)}
    trace = _trace(_step(model, rule, defaults, tuple(state), fed), examples, sources)
    builder = GraphBuilder("adapt")
    inputs = {fed: builder.input(fed, [IMAGES, *model.input_shape])}
    inputs["targets"] = builder.input("targets", [IMAGES, CLASSES])
    inputs |= _weight_inputs(builder, defaults, adapted) | {name: builder.input(name, []) for name in first}
    carried = carried_names(rule)
    for name, tensor in stored.items():
        if name in carried:
            inputs[name] = builder.input(name, tensor.shape)
        else:
            inputs[name] = _stored(builder, name, tensor, of_classes=name in rows)
    return lean(_lowered(builder, trace, inputs))


def _step(
    model: FewShotModel, rule: Rule, weights: Weights, state: tuple[str, ...], fed: str
) -> Callable[[Tensors], Tensors]:
    """One inner step as a function of named tensors, with the model's masks and the rule's state among them."""
    adapted = rule.adapted(weights)
    masked = [name for name in adapted if name in model.masks]

    def step(inputs: Tensors) -> Tensors:
        support = Support(inputs[fed], inputs["targets"])
        leaves = {name: inputs[name].detach().requires_grad_(name in adapted) for name in weights}
        passed, start = None, {}
        if FIRST in inputs:
            passed = body(model, leaves, support.images, shares=support.shares)
            start = prototypes(model.spec, leaves, passed.features.detach(), support.targets)
            rows = {name: torch.where(inputs[FIRST] > 0, row, inputs[name]) for name, row in start.items()}
            leaves |= {name: row.detach().requires_grad_(name in adapted) for name, row in rows.items()}
        result = inner_step(
            model.with_masks({name: inputs[f"{MASK}{name}"] for name in masked}),
            leaves,
            support,
            rule,
            {name: inputs[f"{RULE}{name}"] for name in state},
            passed=passed,
        )
        return {
            "loss": result.loss,
            **{f"start.{name}": row for name, row in start.items()},
            **{f"updated.{name}": result.weights[name] for name in adapted},
            **{f"next.{RULE}{name}": result.state[name] for name in rule.carried},
            **{name: result.statistics[name] for name in model.statistics_names()},
        }

    return step


def _weight_inputs(builder: GraphBuilder, weights: Weights, fed: Collection[str]) -> dict[str, Value]:
    """Weights as graph inputs if they are `fed`, otherwise as initialisers. A head has one row per class."""
    inputs = {}
    for name, tensor in weights.items():
        shape = [CLASSES, *tensor.shape[1:]] if name in HEAD else list(tensor.shape)
        if name in fed:
            inputs[name] = builder.input(name, shape)
        elif name in HEAD:
            inputs[name] = builder.overridable(name, tensor.numpy(), shape)
        else:
            inputs[name] = builder.initializer(name, tensor.numpy())
    return inputs


def _stored(builder: GraphBuilder, name: str, tensor: Tensor, of_classes: bool) -> Value:
    """An initialiser. One with a row per class is cut to the classes that the board teaches, which may be fewer."""
    value = builder.initializer(name, tensor.numpy())
    if not of_classes:
        return value
    taught = builder.op("Shape", "targets", start=1, end=2)
    kept = builder.op("Slice", value.name, builder.constant([0]), taught, builder.constant([0]))
    return Value(kept, (CLASSES, *tensor.shape[1:]))


def carried_names(rule: Rule) -> tuple[str, ...]:
    """The inputs of adapt.onnx that a step hands on to the next."""
    return tuple(f"{RULE}{name}" for name in rule.carried)


def predict_graph(model: FewShotModel, weights: Weights, statistics: Statistics) -> onnx.ModelProto:
    """images → logits as ONNX, with weights and normalisation statistics as initialisers; the head may be fed."""
    images, classes = _trace_sizes(model, weights.values())
    defaults = _float32(initial_weights(model, network_weights(weights), model.spec.ways))
    statistics = {name: statistics[name].detach().float() for name in model.statistics_names()}

    def predict(inputs: Tensors) -> Tensors:
        known = {name: inputs[name] for name in statistics}
        answer = forward(model, {name: inputs[name] for name in defaults}, inputs[IMAGES], known or None)
        return {"logits": answer.logits}

    examples = {IMAGES: torch.rand(images, *model.input_shape)} | _with_classes(defaults, classes) | statistics
    trace = _trace(predict, examples, {IMAGES: (IMAGES, 0), CLASSES: ("head.bias", 0)})
    builder = GraphBuilder("predict")
    inputs = {IMAGES: builder.input(IMAGES, [IMAGES, *model.input_shape])} | _weight_inputs(builder, defaults, fed=())
    inputs |= {name: builder.initializer(name, tensor.numpy()) for name, tensor in statistics.items()}
    return _lowered(builder, trace, inputs)


def trunk_graph(model: FewShotModel, parts: Split, weights: Weights) -> onnx.ModelProto:
    """images → features as ONNX: what of `model` lies below the cut of `parts`, its weights as initialisers."""
    below = _float32(parts.below(weights))
    images, _ = _trace_sizes(model, below.values())

    def trunk(inputs: Tensors) -> Tensors:
        return {FEATURES: parts.trunk({name: inputs[name] for name in below}, inputs[IMAGES])}

    examples = {IMAGES: torch.rand(images, *model.input_shape)} | below
    trace = _trace(trunk, examples, {IMAGES: (IMAGES, 0)})
    builder = GraphBuilder("trunk")
    inputs = {IMAGES: builder.input(IMAGES, [IMAGES, *model.input_shape])}
    inputs |= {name: builder.initializer(name, tensor.numpy()) for name, tensor in below.items()}
    return _lowered(builder, trace, inputs)


def _with_classes(weights: Weights, classes: int) -> Weights:
    """`weights` with a head of so many rows."""
    return weights | {name: torch.rand(classes, *weights[name].shape[1:]) for name in HEAD}


def _trace(function: Callable[[Tensors], Tensors], examples: Tensors, sources: dict[str, tuple[str, int]]) -> Trace:
    """`function` with symbols for the numbers of images and classes, and all other sizes as they are; `sources` as of
    Trace."""
    outputs: list[str] = []

    def positional(*tensors: Tensor) -> list[Tensor]:
        results = function(dict(zip(examples, tensors)))
        outputs[:] = results
        return list(results.values())

    fakes = _with_symbols(examples.values(), {examples[source].shape[axis] for source, axis in sources.values()})
    graph = make_fx(positional, tracing_mode="symbolic")(*fakes).graph
    graph.eliminate_dead_code()
    placeholders = dict(zip(examples, (node.meta["val"] for node in graph.nodes if node.op == "placeholder")))
    symbols = {}
    for name, (source, axis) in sources.items():
        size = placeholders[source].shape[axis]
        symbols[size if isinstance(size, int) else size.node.expr] = name
    return Trace(graph, tuple(examples), tuple(outputs), symbols, sources)


def _with_symbols(tensors: Iterable[Tensor], sizes: set[int]) -> list[Tensor]:
    """Tensors without values, with a symbol for every axis of one of these sizes.

    Were all sizes symbols, as make_fx by itself has it, a trace would take ten times as long.
    """
    mode = FakeTensorMode(shape_env=ShapeEnv())
    fakes: list[Tensor] = []
    for tensor in tensors:
        axes = [DimDynamic.DUCK if size in sizes else DimDynamic.STATIC for size in tensor.shape]
        context = StatelessSymbolicContext(dynamic_sizes=axes)  # type: ignore[var-annotated]
        fakes.append(mode.from_tensor(tensor.detach(), symbolic_context=context))
    return fakes


def _lowered(builder: GraphBuilder, trace: Trace, inputs: dict[str, Value]) -> onnx.ModelProto:
    sources = {name: (inputs[source], axis) for name, (source, axis) in trace.sources.items()}
    translation = Translation(builder, trace.symbols, sources)
    results = lower(translation, trace.graph, [inputs[name] for name in trace.inputs])
    for name, value in zip(trace.outputs, results, strict=True):
        builder.output(name, value.name, value.shape)
    return builder.model()


def _trace_sizes(model: FewShotModel, tensors: Iterable[Tensor]) -> tuple[int, int]:
    """Numbers of images and classes to trace with: an axis is known by its size, so nothing else has these."""
    taken = {*model.input_shape, model.spec.ways, *(size for tensor in tensors for size in tensor.shape)}
    images, classes, *_ = (prime for prime in _PRIMES if prime not in taken)
    return images, classes


def _float32(weights: Weights) -> Weights:
    return {name: tensor.detach().float().cpu() for name, tensor in weights.items()}
