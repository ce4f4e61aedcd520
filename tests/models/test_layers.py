"""Layers with gradients by hand: first and second derivatives, in float64, against differences and torch's own."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from gems_edge.models.layers import Normalization, NormPass, _Moments, convolution, convolved

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def maps(*shape, layout=torch.contiguous_format):
    return torch.randn(*shape, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("together", [True, False])
def test_moments_and_their_gradients(together, layout):
    torch.manual_seed(0)
    y = maps(3, 2, 4, 5, layout=layout)
    var, mean = torch.var_mean(y, (0, 2, 3) if together else (2, 3), correction=0)
    found = _Moments.apply(y, together)
    assert torch.allclose(found[0], mean, rtol=1e-12) and torch.allclose(found[1], var, rtol=1e-12)
    assert gradcheck(lambda y: _Moments.apply(y, together), y)
    assert gradgradcheck(lambda y: _Moments.apply(y, together), y)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("of_x, of_weight", [(True, True), (False, True), (True, False)])
def test_a_convolutions_gradients(kernel, of_x, of_weight):
    torch.manual_seed(0)
    layer = convolution(2, 3, kernel).double()
    layer.weight.requires_grad_(of_weight)
    x = maps(2, 2, 5, 5).detach().requires_grad_(of_x)

    def call(x, weight):
        return torch.func.functional_call(layer, {"weight": weight}, x)

    assert gradcheck(call, (x, layer.weight))
    assert gradgradcheck(call, (x, layer.weight))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_convolution_is_torchs(layout):
    """The gradient of a function of its gradients, with each of the three tensors that it can depend on."""
    torch.manual_seed(0)
    layer = convolution(3, 4, 3).double()
    x = maps(5, 3, 7, 7, layout=layout)
    found = []
    for call in (lambda: convolved(layer, x), lambda: F.conv2d(x, layer.weight, padding=1)):
        y = call()
        first = torch.autograd.grad(y.tanh().square().sum(), [x, layer.weight], create_graph=True)
        for part in itertools.chain(*[(one, one.square().sum()) for one in first]):
            found.append(torch.autograd.grad(part.sum(), [x, layer.weight], retain_graph=True))
    for ours, theirs in zip(found[:4], found[4:]):
        for one, other in zip(ours, theirs):
            assert torch.allclose(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pooling_before_normalising_is_pooling_after_it(grouped, layout):
    """Whatever the signs of the scales: against batch or group normalisation by torch."""
    torch.manual_seed(0)
    conv, norm = convolution(2, 4, 3).double(), Normalization(4, "n", grouped).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.5, -0.5, 0.25, -2.0]))
        norm.bias.normal_()
    x = maps(3, 2, 8, 8, layout=layout)
    y = F.conv2d(x, conv.weight, padding=1)
    if grouped:
        y = F.group_norm(y, norm.groups, norm.weight, norm.bias, 1e-5)
    else:
        y = F.batch_norm(y, None, None, norm.weight, norm.bias, training=True, eps=1e-5)
    assert torch.allclose(norm(conv, x, NormPass(), halve=True), F.max_pool2d(y, 2), rtol=1e-10)
    assert torch.allclose(norm(conv, x, NormPass()), y, rtol=1e-10)


def test_a_convolution_knows_autocast():
    layer, x = convolution(2, 3, 3), torch.randn(1, 2, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert convolved(layer, x).dtype == torch.bfloat16
    assert convolved(layer, x).dtype == torch.float32
