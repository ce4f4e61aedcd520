"""Networks for phones, written by the lowering: multiply-accumulates as torch counts them, every op known."""

import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from gems_edge.export.builder import GraphBuilder  # noqa: E402
from gems_edge.export.lowering import lower  # noqa: E402
from gems_edge.export.translation import Translation  # noqa: E402
from gems_edge.graphs.cost import describe  # noqa: E402
from gems_edge.graphs.ops import ROWS  # noqa: E402
from gems_edge.predict.latency import latency  # noqa: E402
from gems_edge.predict.profiles import find_profiles, list_profiles  # noqa: E402

SIZE = 96
NETWORKS = {
    "mobilenet-v2": lambda: torchvision.models.mobilenet_v2(width_mult=0.35).features,
    "mobilenet-v3-small": lambda: torchvision.models.mobilenet_v3_small().features,
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    """The network without normalisations, which multiply no matrices, and its graph."""
    torch.manual_seed(0)
    body = NETWORKS[request.param]().eval()
    for module in list(body.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.BatchNorm2d):
                setattr(module, name, torch.nn.Identity())
            elif isinstance(child, torch.nn.AdaptiveAvgPool2d):
                setattr(module, name, Mean())
    return body, graph_of(body)


class Mean(torch.nn.Module):
    def forward(self, x):
        return x.mean((2, 3), keepdim=True)


def graph_of(body):
    weights = {name: tensor.detach() for name, tensor in body.named_parameters()}
    names = list(weights)

    def features(images, *tensors):
        return [torch.func.functional_call(body, dict(zip(names, tensors)), (images,)).mean((2, 3))]

    images = torch.rand(2, 3, SIZE, SIZE)
    trace = make_fx(torch.func.functionalize(features), tracing_mode="fake")(images, *weights.values()).graph
    builder = GraphBuilder("features")
    inputs = [builder.input("images", images.shape)]
    inputs += [builder.initializer(name, tensor.numpy()) for name, tensor in weights.items()]
    (result,) = lower(Translation(builder, {}, {}), trace, inputs)
    builder.output("features", result.name, result.shape)
    return builder.model()


def test_macs_are_those_that_torch_counts(network):
    body, graph = network
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        body(torch.rand(2, 3, SIZE, SIZE))
    assert 2 * describe(graph, {})["macs"] == counter.get_total_flops()


def test_every_op_is_known_and_has_a_time_on_every_board(network):
    graph = network[1]
    cost = describe(graph, {})
    assert "unknown" not in cost and {op["kind"].split(".")[0] for op in cost["ops"]} <= ROWS.keys()
    for profile in find_profiles(",".join(list_profiles())).values():
        if not profile.memory_only:
            time = latency(cost, profile)
            assert 0 < time.low < time.value < time.high
