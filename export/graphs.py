"""The two graphs of a bundle: adapt.onnx (one inner step) and predict.onnx, traced from the functions that trained."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from gems_edge.device.bundle import HEAD
from gems_edge.export.builder import GraphBuilder, Value
from gems_edge.export.lowering import Lowering
from gems_edge.meta.inner import Support, inner_step
from gems_edge.meta.rules.base import Rule
from gems_edge.models.fewshot import FewShotModel, Weights, forward, initial_weights, network_weights
from gems_edge.models.layers import Statistics

IMAGES, CLASSES = "images", "classes"
RULE = "rule."
_PRIMES = tuple(n for n in range(11, 1000) if all(n % d for d in range(2, 32) if d < n))


@dataclass(frozen=True)
class Trace:
    graph: torch.fx.Graph
    dynamic: dict  # symbol of the tracer → "images" or "classes"


def adapt_graph(model: FewShotModel, weights: Weights, rule: Rule, exact: bool = True) -> onnx.ModelProto:
    """One inner step as ONNX: (images, targets, adapted weights) → (loss, updated weights, support statistics).

    Weights that the rule does not move are initialisers; they have no backward pass. A ticket's masks are initialisers
    that multiply the gradients, as in training. What the rule carries from step to step goes in as rule.NAME and out as
    next.rule.NAME; the rest of its state, and its φ, are initialisers. Numbers of images and classes are dynamic.
    Without `exact` it is traced ten times faster; it then costs what it should, but divides by wrong numbers of images.
    """
    weights = _float32(weights)
    state = rule.begin(weights)
    images, classes = _trace_sizes(model, [*weights.values(), *state.values()])
    defaults = _float32(initial_weights(model, weights, model.spec.ways))
    weights = defaults | {name: torch.rand(classes, *defaults[name].shape[1:]) for name in HEAD}
    adapted = rule.adapted(weights)
    statistics = model.statistics_names()
    stored = {f"mask.{name}": model.masks[name].float().cpu() for name in adapted if name in model.masks}
    masks = [name.removeprefix("mask.") for name in stored]
    stored |= {f"{RULE}{name}": value for name, value in state.items()}
    # Of what belongs to a per-class head's weights there is a row a class.
    rows = {n: torch.ones(classes, *v.shape[1:]) for n, v in stored.items() if n.endswith(HEAD) and len(v) > 1}

    def step(images: Tensor, targets: Tensor, *tensors: Tensor) -> list[Tensor]:
        named, others = dict(zip(weights, tensors)), list(tensors[len(weights) :])
        masked = model.with_masks(dict(zip(masks, others)))
        leaves = named | {name: named[name].detach().requires_grad_() for name in adapted}
        result = inner_step(masked, leaves, Support(images, targets), rule, dict(zip(state, others[len(masks) :])))
        carried = [result.state[name] for name in rule.carried]
        return [
            result.loss, *(result.weights[n] for n in adapted), *carried, *(result.statistics[n] for n in statistics)
        ]  # fmt: skip

    spec = model.spec
    example = torch.rand(images, spec.channels, spec.image_size, spec.image_size)
    others = (stored | rows).values()
    trace = _trace(
        step, [example, torch.zeros(images, classes), *weights.values(), *others], classes=(1, 1), exact=exact
    )
    builder = GraphBuilder("adapt")
    inputs = [
        builder.input("images", [IMAGES, spec.channels, spec.image_size, spec.image_size]),
        builder.input("targets", [IMAGES, CLASSES]),
    ]
    for name, tensor in defaults.items():
        shape = [CLASSES, *tensor.shape[1:]] if name in HEAD else list(tensor.shape)
        if name in adapted:
            inputs.append(builder.input(name, shape))
        elif name in HEAD:  # its rows follow the number of classes
            inputs.append(builder.overridable(name, tensor.numpy(), shape))
        else:
            inputs.append(builder.initializer(name, tensor.numpy()))
    carried = carried_names(rule)
    for name, tensor in stored.items():
        if name in carried:
            inputs.append(builder.input(name, tensor.shape))
            continue
        value = builder.initializer(name, tensor.numpy())
        if name in rows:  # a board may teach fewer classes
            taught = builder.op("Shape", "targets", start=1, end=2)
            kept = builder.op("Slice", value.name, builder.constant([0]), taught, builder.constant([0]))
            value = Value(kept, (CLASSES, *tensor.shape[1:]))
        inputs.append(value)
    outputs = ["loss", *(f"updated.{name}" for name in adapted), *(f"next.{name}" for name in carried), *statistics]
    _write(builder, trace, inputs, outputs, sources={IMAGES: (inputs[0], 0), CLASSES: (inputs[1], 1)})
    return builder.model()


def carried_names(rule: Rule) -> tuple[str, ...]:
    """The inputs of adapt.onnx that a step hands on to the next."""
    return tuple(f"{RULE}{name}" for name in rule.carried)


def predict_graph(model: FewShotModel, weights: Weights, statistics: Statistics, exact: bool = True) -> onnx.ModelProto:
    """images → logits as ONNX, with weights and normalisation statistics as initialisers; the head may be fed.

    `exact`: as of adapt_graph.
    """
    images, classes = _trace_sizes(model, weights.values())
    spec = model.spec
    defaults = _float32(initial_weights(model, network_weights(weights), spec.ways))
    statistics = {name: statistics[name].detach().float() for name in model.statistics_names()}

    def predict(images: Tensor, *tensors: Tensor) -> list[Tensor]:
        named = dict(zip((*defaults, *statistics), tensors))
        return [forward(model, {n: named[n] for n in defaults}, images, {n: named[n] for n in statistics} or None)[0]]

    example = torch.rand(images, spec.channels, spec.image_size, spec.image_size)
    weights = defaults | {name: torch.rand(classes, *defaults[name].shape[1:]) for name in HEAD}
    bias_at = 1 + list(defaults).index("head.bias")
    trace = _trace(predict, [example, *weights.values(), *statistics.values()], classes=(bias_at, 0), exact=exact)
    builder = GraphBuilder("predict")
    inputs = [builder.input("images", [IMAGES, spec.channels, spec.image_size, spec.image_size])]
    for name, tensor in defaults.items():
        if name in HEAD:
            inputs.append(builder.overridable(name, tensor.numpy(), [CLASSES, *tensor.shape[1:]]))
        else:
            inputs.append(builder.initializer(name, tensor.numpy()))
    inputs += [builder.initializer(name, tensor.numpy()) for name, tensor in statistics.items()]
    _write(builder, trace, inputs, ["logits"], sources={IMAGES: (inputs[0], 0), CLASSES: (inputs[bias_at], 0)})
    return builder.model()


def _write(builder: GraphBuilder, trace: Trace, inputs: Sequence[Value], outputs: Sequence[str], sources: dict) -> None:
    results = Lowering(builder, trace.dynamic, sources).run(trace.graph, inputs)
    for name, value in zip(outputs, results, strict=True):
        builder.output(name, value.name, value.shape)


def _trace(function: Callable, arguments: Sequence[Tensor], classes: tuple[int, int], exact: bool) -> Trace:
    """The ATen operations of `function` with symbolic sizes, or with numbers that stand for them.

    The first size of argument 0 is the number of images; `classes` names the argument and axis that hold theirs.
    """
    mode = "symbolic" if exact else "fake"
    graph = make_fx(function, tracing_mode=mode)(*(a.detach().clone() for a in arguments)).graph
    graph.eliminate_dead_code()
    placeholders = [node.meta["val"] for node in graph.nodes if node.op == "placeholder"]
    sizes = placeholders[0].shape[0], placeholders[classes[0]].shape[classes[1]]
    symbols = [size if isinstance(size, int) else size.node.expr for size in sizes]
    return Trace(graph, dict(zip(symbols, (IMAGES, CLASSES))))


def _trace_sizes(model: FewShotModel, tensors: Iterable[Tensor]) -> tuple[int, int]:
    """Numbers of images and classes to trace with: the tracer gives equal sizes one symbol, so no other size may equal them."""
    spec = model.spec
    taken = {spec.image_size, spec.channels, spec.feature_size, spec.ways, *spec.widths}
    taken |= {size for tensor in tensors for size in tensor.shape}
    images, classes, *_ = (prime for prime in _PRIMES if prime not in taken)
    return images, classes


def _float32(weights: Weights) -> Weights:
    return {name: tensor.detach().float().cpu() for name, tensor in weights.items()}
