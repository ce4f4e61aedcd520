"""A gradient step as a user of torch writes it, without gems-edge: what `tools/bench_adaptation.py` compares with.

  python tools/adaptation_peers.py '{"backbone": "conv4", "widths": [64, 64, 64, 64], "channels": 3, "size": 84, …}'

takes five steps of a network with random weights in this process and prints its peak memory and the milliseconds of
each step. Weights have the names that gems_edge.models gives them; nothing else is shared with it. Only torch is
imported.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from process_peak import peak_mb
from torch import Tensor

EPSILON = 1e-5
# method → (moves the backbone, moves the head)
PARTS = {"maml": (True, True), "anil": (False, True), "boil": (True, False)}
STEPS = 5


@dataclass(frozen=True)
class Network:
    """A Conv-4 or a ResNet-12 (KDD'22, section 3.1) for square images; one width per 3×3 convolution."""

    backbone: str
    widths: tuple[int, ...]
    channels: int
    size: int
    ways: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every weight by name, in forward order."""
        found: dict[str, tuple[int, ...]] = {}

        def layer(place: str, number: str, inputs: int, outputs: int) -> int:
            found[f"{place}.conv{number}.weight"] = (outputs, inputs, 3, 3)
            found[f"{place}.norm{number}.weight"] = found[f"{place}.norm{number}.bias"] = (outputs,)
            return outputs

        width, blocks = self.channels, 4
        for block in range(blocks):
            place = f"backbone.blocks.{block}"
            if self.backbone == "conv4":
                width = layer(place, "", width, self.widths[block])
                continue
            inputs = width
            for number in (1, 2, 3):
                width = layer(place, str(number), width, self.widths[3 * block + number - 1])
            found[f"{place}.skip.weight"] = (width, inputs, 1, 1)
        side = self.size >> blocks
        features = width * (side * side if self.backbone == "conv4" else 1)
        return found | {"head.weight": (self.ways, features), "head.bias": (self.ways,)}

    def adapted(self, method: str) -> tuple[str, ...]:
        """The names of the weights that a step of `method` moves."""
        backbone, head = PARTS[method]
        return tuple(name for name in self.shapes() if (head if name.startswith("head.") else backbone))

    def random_weights(self) -> dict[str, Tensor]:
        """Kaiming normal; normalisations start at scale 1 and shift 0."""
        weights = {}
        for name, shape in self.shapes().items():
            if len(shape) > 1:
                weights[name] = torch.nn.init.kaiming_normal_(torch.empty(shape), nonlinearity="relu")
            else:
                weights[name] = torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
        return weights


Weights = dict[str, Tensor]


def features(network: Network, weights: Weights, images: Tensor, statistics: Weights | None = None) -> Tensor:
    """images [N, C, S, S] → [N, features], normalised by the batch or by `statistics` (NAME.mean, biased NAME.var)."""

    def layer(x: Tensor, place: str, number: str = "") -> Tensor:
        x = F.conv2d(x, weights[f"{place}.conv{number}.weight"], padding=1)
        norm = f"{place}.norm{number}"
        mean, var = (None, None) if statistics is None else (statistics[f"{norm}.mean"], statistics[f"{norm}.var"])
        scale, shift = weights[f"{norm}.weight"], weights[f"{norm}.bias"]
        return F.batch_norm(x, mean, var, scale, shift, training=statistics is None, eps=EPSILON)

    x = images
    for block in range(4):
        place = f"backbone.blocks.{block}"
        if network.backbone == "conv4":
            x = F.max_pool2d(F.relu(layer(x, place)), 2)
            continue
        y = F.relu(layer(x, place, "1"))
        y = F.relu(layer(y, place, "2"))
        x = F.max_pool2d(layer(y, place, "3") + F.conv2d(x, weights[f"{place}.skip.weight"]), 2)
    return x.flatten(1) if network.backbone == "conv4" else x.mean((2, 3))


def logits(network: Network, weights: Weights, images: Tensor, statistics: Weights | None = None) -> Tensor:
    return F.linear(features(network, weights, images, statistics), weights["head.weight"], weights["head.bias"])


def step_call(
    network: Network, weights: Weights, method: str, lr: float, images: Tensor, labels: Tensor, compiled: bool = False
) -> Callable[..., tuple[Tensor, Weights]]:
    """One step θ ← θ − lr·∇L from what `weights` holds when it is called: a function → (loss, the moved weights).

    It is of `images`, or of other images that it is called with.

    Only what `method` adapts requires grad; where that is the head alone, the features are computed without a graph.
    `compiled`: what computes the loss (and its gradient) is compiled by torch.compile at the first call.
    """
    names = network.adapted(method)
    constants = {name: weight for name, weight in weights.items() if name not in names}
    body_moves = PARTS[method][0]

    def body(images: Tensor) -> Tensor:
        with torch.no_grad():
            return features(network, weights, images)

    def loss_of(leaves: Weights, x: Tensor) -> Tensor:
        every = leaves | constants
        found = features(network, every, x) if body_moves else x
        return F.cross_entropy(F.linear(found, every["head.weight"], every["head.bias"]), labels)

    if compiled:
        body, loss_of = torch.compile(body, dynamic=False), torch.compile(loss_of, dynamic=False)

    def step(images: Tensor = images) -> tuple[Tensor, Weights]:
        leaves = {name: weights[name].detach().requires_grad_() for name in names}
        loss = loss_of(leaves, images if body_moves else body(images))
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        with torch.no_grad():
            return loss.detach(), {name: leaves[name] - lr * gradient for name, gradient in zip(names, gradients)}

    return step


def main(text: str) -> None:
    """`text`: the fields of Network, and method, shots, threads, lr, compiled."""
    baseline = peak_mb()
    given = json.loads(text)
    torch.set_num_threads(given["threads"])
    torch.manual_seed(0)
    network = Network(given["backbone"], tuple(given["widths"]), given["channels"], given["size"], given["ways"])
    weights, count = network.random_weights(), network.ways * given["shots"]
    images = torch.rand(count, network.channels, network.size, network.size)
    labels = torch.arange(count) % network.ways
    step = step_call(network, weights, given["method"], given["lr"], images, labels, given["compiled"])
    milliseconds = []
    for _ in range(STEPS):
        started = time.perf_counter()
        weights |= step()[1]
        milliseconds.append(1e3 * (time.perf_counter() - started))
    found = {"baseline_mb": baseline, "peak_mb": peak_mb(), "ms": milliseconds, "torch": torch.__version__}
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
