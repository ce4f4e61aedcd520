"""Each operation of the layer set on onnxruntime, with its gradients, against torch in float64."""

import mixed_network
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lowered_ops import check_gradients, graph_of
from torch.func import functional_call

from gems_edge.errors import UserError
from gems_edge.models.adopt import adopt
from gems_edge.models.normalization import NormPass


def pairs(least, most):
    return st.tuples(st.integers(least, most), st.integers(least, most))


def check_convolution(inputs, outputs, groups, kernel, stride, padding, sides, bias):
    torch.manual_seed(0)
    x, weight = torch.randn(2, inputs, *sides), torch.randn(outputs, inputs // groups, *kernel)
    weights = [weight, torch.randn(outputs)] if bias else [weight]
    return check_gradients(
        lambda x, weight, bias=None: F.conv2d(x, weight, bias, stride, padding, groups=groups), x, *weights
    )


# groups, channels of a group before and after
GROUPS = st.sampled_from([(1, 3, 4), (1, 7, 5), (2, 3, 2), (4, 2, 3), (6, 1, 1), (5, 1, 2), (1, 1, 1)])


@pytest.mark.slow(20)
@settings(max_examples=60)
@given(
    channels=GROUPS, kernel=pairs(1, 5), stride=pairs(1, 3), padding=pairs(0, 3), sides=pairs(3, 9), bias=st.booleans()
)
def test_convolutions(channels, kernel, stride, padding, sides, bias):
    assume(all(side + 2 * p >= k for side, p, k in zip(sides, padding, kernel)))
    groups, before, after = channels
    check_convolution(groups * before, groups * after, groups, kernel, stride, padding, sides, bias)


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize(
    "kernel,stride,padding,sides",
    [
        ((3, 3), (1, 1), (1, 1), (7, 6)),
        ((3, 3), (2, 2), (1, 1), (8, 7)),
        ((5, 5), (2, 2), (2, 2), (9, 8)),
        ((1, 1), (2, 2), (0, 0), (7, 8)),
        ((1, 1), (1, 1), (0, 0), (5, 4)),
        ((1, 3), (1, 2), (0, 1), (6, 7)),
        ((2, 2), (2, 2), (0, 0), (7, 6)),
        ((4, 2), (1, 3), (2, 0), (7, 8)),
        ((2, 2), (3, 3), (0, 0), (8, 7)),  # pixels that nothing sees
        ((1, 1), (2, 1), (1, 2), (4, 4)),  # more padding than kernel
        ((1, 3), (1, 1), (1, 1), (9, 8)),  # … of a map too large for a matrix per channel
        ((3, 3), (1, 1), (0, 0), (3, 3)),
    ],
)
def test_convolutions_of_networks(groups, kernel, stride, padding, sides):
    check_convolution(8, 8, groups, kernel, stride, padding, sides, bias=groups == 2)


def test_wide_patches_are_made_row_by_row():
    check_convolution(64, 2, 1, (3, 3), (1, 1), (1, 1), (24, 24), False)
    check_convolution(70, 2, 1, (3, 3), (2, 2), (1, 1), (48, 48), False)


@pytest.mark.slow(10)
@settings(max_examples=40)
@given(kernel=pairs(1, 4), stride=pairs(1, 3), padding=pairs(0, 2), sides=pairs(4, 9))
def test_max_pools(kernel, stride, padding, sides):
    assume(all(2 * p <= k for p, k in zip(padding, kernel)))
    check_gradients(lambda x: F.max_pool2d(x, kernel, stride, padding), torch.zeros(2, 3, *sides), kinks=True)


@pytest.mark.parametrize("kernel,stride,padding", [(2, 2, 0), (3, 3, 0), (3, 2, 1), (3, 1, 1), (2, 1, 0), (3, 2, 0)])
@pytest.mark.parametrize("sides", [(8, 8), (7, 9)])
def test_max_pools_of_networks(kernel, stride, padding, sides):
    def pool(x):
        return F.max_pool2d(x, kernel, stride, padding)

    check_gradients(pool, torch.zeros(2, 3, *sides), kinks=True)
    check_gradients(lambda x: pool(x * 0), torch.zeros(2, 3, *sides))  # all of them tie


@pytest.mark.slow(10)
@settings(max_examples=40)
@given(
    kernel=pairs(1, 4),
    stride=pairs(1, 3),
    padding=pairs(0, 2),
    sides=pairs(4, 9),
    counted=st.booleans(),
    divisor=st.sampled_from([None, 3]),
)
def test_average_pools(kernel, stride, padding, sides, counted, divisor):
    assume(all(2 * p <= k for p, k in zip(padding, kernel)))
    check_gradients(
        lambda x: F.avg_pool2d(x, kernel, stride, padding, False, counted, divisor), torch.zeros(2, 3, *sides)
    )


ACTIVATIONS = [F.relu, F.relu6, F.hardswish, F.hardsigmoid, F.silu, torch.sigmoid, lambda x: F.hardtanh(x, -0.5, 1.5)]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation):
    check_gradients(lambda x: activation(3 * x), torch.zeros(2, 3, 5, 4))
    check_gradients(lambda x: activation(2 * x), torch.zeros(2, 3, 9, 9), kinks=True)  # 0, ±3 and 6 among them


@pytest.mark.parametrize("pads", [(1, 2, 0, 3), (0, 1), (-1, 2, 1, -2), (-1, -1, -1, -1)])
def test_pads(pads):
    check_gradients(lambda x: F.pad(x, pads), torch.zeros(2, 3, 5, 6))


def test_squeeze_excite():
    def layer(x, reduce, expand):
        squeezed = F.relu(F.conv2d(F.adaptive_avg_pool2d(x, 1), reduce))
        return x * F.hardsigmoid(F.conv2d(squeezed, expand))

    check_gradients(layer, torch.zeros(2, 8, 5, 6), torch.randn(3, 8, 1, 1), torch.randn(8, 3, 1, 1))


def test_concatenated_maps():
    def layer(x, weight):
        return torch.cat([F.max_pool2d(x, 3, 1, 1), x, F.conv2d(x, weight, padding=1)], 1)

    check_gradients(layer, torch.zeros(2, 4, 5, 6), torch.randn(3, 4, 3, 3))


def test_a_linear_layer():
    def layer(x, weight, bias):
        return F.linear(x.mean((2, 3), keepdim=True).flatten(1), weight, bias)

    check_gradients(layer, torch.zeros(2, 8, 5, 6), torch.randn(5, 8), torch.randn(5))


def test_a_network_of_all_layers():
    torch.manual_seed(0)
    network = adopt(mixed_network.make(3), "mixed")
    names, weights = zip(*((name, weight.detach()) for name, weight in network.named_parameters()))

    def features(x, *weights):
        return functional_call(network, dict(zip(names, weights)), (x, NormPass()))

    kinds = check_gradients(features, torch.zeros(2, 3, 21, 24), *weights, images=(4, 7))
    assert {"HardSigmoid", "Clip", "Sigmoid", "ConvTranspose", "AveragePool", "MaxPool", "Concat"} <= set(kinds)


def test_tiny_maps_of_single_channels_are_products_only_where_they_learn():
    kinds = check_convolution(6, 6, 6, (3, 3), (1, 1), (1, 1), (6, 6), False)
    assert "Conv" not in kinds and "MatMul" in kinds
    x, weight = torch.zeros(2, 6, 6, 6), torch.randn(6, 1, 3, 3)
    builder = graph_of(lambda x, weight: [F.conv2d(x, weight, padding=1, groups=6)], [x, weight], [True, False])
    assert [node.op_type for node in builder.model().graph.node] == ["Conv"]


@pytest.mark.parametrize(
    "layer,what",
    [
        (lambda x, weight: F.conv2d(x, weight, dilation=2), r"dilation \[2, 2\]"),
        (lambda x, weight: F.conv_transpose2d(x, weight), "transposed"),
        (lambda x, _: F.max_pool2d(x, 2, ceil_mode=True), "ceil_mode"),
        (lambda x, _: F.avg_pool2d(x, 2, ceil_mode=True), "ceil_mode"),
        (lambda x, _: F.max_pool2d(x, 2, dilation=2), r"dilation \[2, 2\]"),
        (lambda x, _: torch.erf(x), "aten.erf.default"),
    ],
)
def test_what_has_no_form_is_refused_by_name(layer, what):
    with pytest.raises(UserError, match=f"{what}.*docs/networks.md"):
        check_gradients(
            lambda x, weight: layer(x, weight) + weight.sum(), torch.zeros(2, 3, 7, 7), torch.ones(3, 3, 2, 2)
        )
