"""torchvision's networks: each is adopted and computes what it did, or is refused in one line; groups of channels and
their importances are torch-pruning's."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch_pruning
import torchvision
from test_random_networks import random_values
from torch import nn

from gems_edge.errors import UserError
from gems_edge.models.adopt import adopt
from gems_edge.models.channel_groups import kept_entries
from gems_edge.models.fewshot import FewShotModel
from gems_edge.models.network_file import NetworkFile
from gems_edge.models.normalization import Normalization, NormPass
from gems_edge.models.spec import ModelSpec, full_widths
from gems_edge.tickets.channels import channel_importances

SOURCE = """
import torchvision
from torch import nn

def make():
    network = torchvision.models.{}(weights=None)
    for name in ("classifier", "fc"):
        setattr(network, name, nn.Identity())
    return network
"""
SIZE = 64


def network_of(name: str) -> nn.Module:
    scope = {}
    exec(SOURCE.format(name), scope)
    network = scope["make"]()
    for layer in network.modules():
        if isinstance(layer, nn.Dropout) or type(layer).__name__ == "StochasticDepth":
            layer.p = 0.0
    return network


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "densenet121", "regnet_y_400mf"]
)
def test_it_computes_what_it_did(name):
    torch.manual_seed(0)
    module, images = random_values(network_of(name)), torch.rand(3, 3, SIZE, SIZE, dtype=torch.float64)
    network, given = adopt(module, name), NormPass({})
    for layer in network.modules():
        if isinstance(layer, Normalization):
            given.given |= {f"{layer.name}.mean": layer.running_mean, f"{layer.name}.var": layer.running_var}
    with torch.no_grad():
        for norms, training in ((given, False), (NormPass(), True)):
            expected = module.train(training)(images)
            assert (network(images, norms) - expected).norm() < 1e-9 * expected.norm()


@pytest.mark.parametrize(
    "name, message",
    [
        ("squeezenet1_1", r"MaxPool2d \(the layer features.2\) .*no ceil_mode.*pad explicitly"),
        ("shufflenet_v2_x0_5", r"view \(the layer stage2.0, shufflenetv2.py:\d+\) .*no flatten"),
        ("vgg11_bn", r"AdaptiveAvgPool2d \(the layer avgpool\) .*use AvgPool2d"),
        ("convnext_tiny", r"permute \(the layer features.0.1, convnext.py:\d+\) .*keep maps as \[N, C, H, W\]"),
        ("vit_b_16", r"reshape \(vision_transformer.py:\d+\) .*use flatten\(1\)"),
    ],
)
def test_it_is_refused_in_one_line(name, message):
    with torch.device("meta"):
        network = torchvision.models.__dict__[name](weights=None)
    with pytest.raises(UserError, match=f"^{name}: {message}") as error:
        adopt(network, name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "densenet121"])
def test_groups_and_importances_are_torch_prunings(name):
    """Of every group: its channels, what of all tensors goes with each, and which weigh most."""
    file = NetworkFile("zoo-" + name, SOURCE.format(name))
    widths = full_widths((), "zoo.py:make", channels=3, image_size=SIZE, file=file)
    spec = ModelSpec("zoo.py:make", widths, SIZE, 3, "support", "per-class", 5, file)
    torch.manual_seed(0)
    model = random_values(FewShotModel(spec)).float()
    weights = dict(model.named_parameters())
    whole = nn.Sequential(OrderedDict(backbone=network_of(name), head=nn.Linear(spec.feature_size, 5))).eval()
    assert not whole.load_state_dict(weights, strict=False).unexpected_keys
    names = {layer: path for path, layer in whole.named_modules()}
    graph = torch_pruning.DependencyGraph().build_dependency(whole, torch.rand(2, 3, SIZE, SIZE))
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2, normalizer="mean", bias=False)
    ours = channel_importances(model, weights)
    roots = {}
    for path, axes in spec.topology.axes.items():
        for segment in axes.outputs[:1]:
            roots.setdefault(segment.group, f"backbone.{path}")
    assert list(roots) == list(range(len(widths)))
    for number, root in roots.items():
        layer = whole.get_submodule(root)
        group = graph.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, [0, widths[number] - 1])
        gone = [np.zeros(width, bool) for width in widths]
        gone[number][[0, -1]] = True
        theirs = {}
        for dependency, indices in group:
            if path := names.get(dependency.target.module):
                side = int("prune_in" in dependency.handler.__name__)
                theirs.setdefault((f"{path}.weight", side), set()).update(indices)
        for tensor, axis_number, axis in spec.topology.weight_axes:
            dead = ~kept_entries(axis, [~mask for mask in gone])
            assert theirs.get((tensor, axis_number), set()) == set(np.flatnonzero(dead)), (root, tensor)
        whole_group = graph.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, [*range(widths[number])])
        if not name.startswith("mobilenet"):  # it leaves the filters of depthwise convolutions out
            assert torch.allclose(importance(whole_group), ours[number], rtol=1e-4), root
