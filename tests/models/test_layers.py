"""Layers with gradients by hand: first and second derivatives, in float64, against differences and torch's own."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from gems_edge.models.activations import hardsigmoid, hardswish, relu6, silu
from gems_edge.models.convolution import Convolution, convolved
from gems_edge.models.normalization import Normalization, NormPass, _Moments

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def maps(*shape, layout=torch.contiguous_format):
    return torch.randn(*shape, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shares", [None, [1 / 3, 1 / 3, 1 / 3], [0.5, 0.25, 0.25]])
def test_moments_and_their_gradients(shares, layout):
    """Of each image by itself, or of all together: an image with twice the share of others is as if it came twice."""
    torch.manual_seed(0)
    y = maps(3, 2, 4, 5, layout=layout)
    counted = y if shares is None else y[torch.arange(3).repeat_interleave(torch.tensor(shares).mul(4.1).int())]
    var, mean = torch.var_mean(counted, (2, 3) if shares is None else (0, 2, 3), correction=0)
    shares = None if shares is None else torch.tensor(shares, dtype=torch.float64)
    found = _Moments.apply(y, shares)
    assert torch.allclose(found[0], mean, rtol=1e-12) and torch.allclose(found[1], var, rtol=1e-12)
    assert gradcheck(lambda y: _Moments.apply(y, shares), y)
    assert gradgradcheck(lambda y: _Moments.apply(y, shares), y)


# Kernel, stride, padding, groups (4 channels), bias.
FORMS = [
    (1, 1, 0, 1, False), (3, 1, 1, 1, False), (3, 2, 1, 1, True), ((5, 3), (2, 1), (0, 2), 1, True),
    (1, 2, 0, 1, False), (3, 1, 1, 4, False), (3, 2, 1, 4, True), (5, 2, 2, 4, False), (3, 1, 1, 2, True),
    (3, 2, 0, 2, False), ((3, 7), (1, 2), (1, 3), 4, True), ((2, 4), 1, 0, 4, False), (1, 1, 0, 1, True),
    ((5, 17), 1, (2, 8), 4, True),
]  # fmt: skip


def convolution(kernel, stride, padding, groups, bias, inputs=4, outputs=4):
    return Convolution(inputs, outputs, kernel, stride, padding, groups=groups, bias=bias).double()


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("of_x, of_weight", [(True, True), (False, True), (True, False)])
def test_a_convolutions_gradients(form, of_x, of_weight):
    torch.manual_seed(0)
    layer = convolution(*form)
    layer.weight.requires_grad_(of_weight)
    x = maps(2, 4, 6, 7).detach().requires_grad_(of_x)

    def call(x, *tensors):
        return torch.func.functional_call(layer, dict(zip(("weight", "bias"), tensors)), x)

    tensors = (x, *layer.parameters())
    assert gradcheck(call, tensors)
    assert gradgradcheck(call, tensors)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_convolution_is_torchs(form, layout):
    """The gradient of a function of its gradients, with each of the three tensors that it can depend on."""
    torch.manual_seed(0)
    layer = convolution(*form)
    x = maps(5, 4, 7, 7, layout=layout)
    results = []
    for call in (lambda: convolved(layer, x), lambda: torch.nn.Conv2d.forward(layer, x)):
        y = call()
        first = torch.autograd.grad(y.tanh().square().sum(), [x, layer.weight], create_graph=True)
        for part in itertools.chain(*[(gradient, gradient.square().sum()) for gradient in first]):
            results.append(torch.autograd.grad(part.sum(), [x, layer.weight], retain_graph=True))
    for ours, theirs in zip(results[:4], results[4:]):
        for gradient, expected in zip(ours, theirs):
            assert torch.allclose(gradient, expected, rtol=1e-11, atol=1e-11)


def test_a_convolution_knows_autocast():
    layer, x = Convolution(2, 3, 3, padding=1), torch.randn(1, 2, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert convolved(layer, x).dtype == torch.bfloat16
    assert convolved(layer, x).dtype == torch.float32


@pytest.mark.parametrize("groups", [0, 8])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pool", [((2, 2), (2, 2), (0, 0)), ((3, 3), (2, 2), (1, 1))])
def test_pooling_before_normalising_is_pooling_after_it(groups, layout, pool):
    """Whatever the signs of the scales: against batch or group normalisation by torch."""
    torch.manual_seed(0)
    conv, norm = convolution(3, 1, 1, 1, True), Normalization(4, "n", groups, 1e-3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.5, -0.5, 0.25, -2.0]))
        norm.bias.normal_()
    x = maps(3, 4, 8, 8, layout=layout)
    y = F.conv2d(x, conv.weight, conv.bias, padding=1)

    def normalised(y):
        if groups:
            return F.group_norm(y, norm.groups, norm.weight, norm.bias, 1e-3)
        return F.batch_norm(y, None, None, norm.weight, norm.bias, training=True, eps=1e-3)

    assert torch.allclose(norm(x, NormPass(), conv, pool), F.max_pool2d(normalised(y), *pool), rtol=1e-10)
    assert torch.allclose(norm(x, NormPass(), conv), normalised(y), rtol=1e-10)
    assert torch.allclose(norm(x, NormPass()), normalised(x), rtol=1e-10)


@pytest.mark.parametrize("pool", [None, ((2, 2), (2, 2), (0, 0))])
def test_given_statistics_are_folded_into_the_convolution(pool):
    torch.manual_seed(0)
    conv, norm = convolution(3, 2, 1, 4, True), Normalization(4, "n", 0, 1e-3).double()
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    x, mean, var = maps(3, 4, 8, 8), torch.randn(4).double(), torch.rand(4).double()
    given = NormPass({"n.mean": mean, "n.var": var})

    def expected(y):
        return F.batch_norm(y, mean, var, norm.weight, norm.bias, eps=1e-3)

    pooled = expected(conv(x)) if pool is None else F.max_pool2d(expected(conv(x)), *pool)
    assert torch.allclose(norm(x, given, conv, pool), pooled, rtol=1e-10)
    assert torch.allclose(norm(x, given), expected(x), rtol=1e-10)


@pytest.mark.parametrize("ours", [hardsigmoid, hardswish, relu6, silu])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_activation_is_torchs_and_has_two_derivatives(ours, layout):
    """No value lies at a kink."""
    torch.manual_seed(0)
    x = (maps(2, 4, 3, 3, layout=layout) * 4).detach().requires_grad_()
    assert ours(x).equal(getattr(F, ours.__name__)(x))
    assert gradcheck(ours, x)
    assert gradgradcheck(ours, x)
