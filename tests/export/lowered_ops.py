"""A torch function with its gradients on onnxruntime, beside torch's own in float64: for tests of single operations."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from gems_edge.device.runtime import Session
from gems_edge.export.builder import GraphBuilder
from gems_edge.export.lowering import lower
from gems_edge.export.translation import Translation

# As many images as are traced; any other size of a test may not be the same.
TRACED = 97
Function = Callable[..., Tensor]


def with_gradients(function: Function) -> Callable[..., list[Tensor]]:
    """(x, weights …, the gradient at the result) → the result and the gradients at x and the weights."""

    def step(*tensors: Tensor) -> list[Tensor]:
        *inputs, gradient = (tensor.detach() for tensor in tensors)
        leaves = [tensor.requires_grad_() for tensor in inputs]
        y = function(*leaves)
        return [y, *torch.autograd.grad(y, leaves, gradient)]

    return step


def graph_of(step: Callable[..., list[Tensor]], examples: Sequence[Tensor], of_images: Sequence[bool]) -> GraphBuilder:
    """`step` with a dynamic first axis where `of_images`, traced as export/graphs.py does."""
    examples = [
        torch.rand(TRACED, *example.shape[1:]) if dynamic else example for example, dynamic in zip(examples, of_images)
    ]
    graph = make_fx(step, tracing_mode="symbolic")(*examples).graph
    graph.eliminate_dead_code()
    placeholders = [node.meta["val"] for node in graph.nodes if node.op == "placeholder"]
    builder = GraphBuilder("test")
    inputs = [
        builder.input(f"input.{i}", ["images", *example.shape[1:]] if dynamic else list(example.shape))
        for i, (example, dynamic) in enumerate(zip(examples, of_images))
    ]
    first = of_images.index(True)
    symbols = {placeholders[first].shape[0].node.expr: "images"}
    translation = Translation(builder, symbols, {"images": (inputs[first], 0)})
    for i, value in enumerate(lower(translation, graph, inputs)):
        builder.output(f"output.{i}", value.name, value.shape)
    return builder


def check_gradients(
    function: Function, *inputs: Tensor, images: Sequence[int] = (3, 1), kinks: bool = False
) -> list[str]:
    """Compares `function` of x and weights, and its gradients, for x of so many images; returns the graph's op types.

    With `kinks` x stays on a grid that float32 holds, so that ties and kinks are those of float64.
    """
    step = with_gradients(function)
    gradient = torch.rand_like(function(*inputs))
    of_images = [True, *(False for _ in inputs[1:]), True]
    model = graph_of(step, [*inputs, gradient], of_images).model()
    session = Session(model.SerializeToString(), "test", threads=1, channel_blocks=False)
    random = torch.Generator().manual_seed(0)
    for count in images:
        x = torch.randn(count, *inputs[0].shape[1:], generator=random)
        if kinks:
            x = torch.round(2 * x) / 2
        to_y = torch.randn(count, *gradient.shape[1:], generator=random)
        tensors = [x, *inputs[1:], to_y]
        expected = step(*(tensor.double() for tensor in tensors))
        feeds = {f"input.{i}": tensor.numpy() for i, tensor in enumerate(tensors)}
        feeds = {name: value for name, value in feeds.items() if name in session.inputs}
        for i, (value, found) in enumerate(zip(expected, session.run(session.outputs, feeds))):
            exact = value.detach().numpy()
            assert found.shape == exact.shape, i
            assert np.abs(found - exact).max(initial=0) <= 2e-5 * max(1, np.abs(exact).max(initial=0)), i
    return [node.op_type for node in model.graph.node]
