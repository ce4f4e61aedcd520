"""A gradient step as a user of torch writes it, without gems-edge: what `tools/bench_adaptation.py` compares with.

  python tools/adaptation_peers.py '{"backbone": "conv4", "shapes": {"backbone.blocks.0.conv.weight": [64, 3, 3, 3], …'

takes five steps of a network with random weights in this process and prints its peak memory and the milliseconds of
each step. The network is its author's module, as the registry of backbones makes it, run by torch itself; weights have
the names that they have there. Only torch and what that module needs are imported.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from process_peak import peak_mb
from torch import Tensor, nn

from gems_edge.models.backbones.registry import make_backbone

# method → (moves the backbone, moves the head)
PARTS = {"maml": (True, True), "anil": (False, True), "boil": (True, False)}
STEPS = 5

Weights = dict[str, Tensor]


class Plain(nn.Module):
    """A backbone of the registry as it was written, and a linear head; both with the tensors that they are given.

    Batch normalisations take the statistics of the batch, until they are given others.
    """

    def __init__(self, backbone: str, channels: int, image_size: int):
        super().__init__()
        with torch.device("meta"):
            self.backbone = make_backbone(backbone, channels, image_size=image_size)
            self.head = nn.Linear(1, 1)
        self.eval()
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean = layer.running_var = None

    def load(self, weights: Mapping[str, Tensor]) -> "Plain":
        """Copies of these weights in place of its own, which may have more channels. Returns itself."""
        for name, weight in weights.items():
            place, _, kind = name.rpartition(".")
            layer = self.get_submodule(place)
            setattr(layer, kind, nn.Parameter(weight.detach().clone(), requires_grad=False))
            if kind == "weight" and isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1:
                layer.groups = len(weight)  # depthwise
        return self

    def move(self, weights: Mapping[str, Tensor]) -> None:
        """Write these weights into its own."""
        with torch.no_grad():
            for name, weight in weights.items():
                self.get_parameter(name).copy_(weight)

    def normalize_by(self, statistics: Mapping[str, Tensor]) -> "Plain":
        """Statistics by name (NAME.mean, biased NAME.var) in place of the batch's. Returns itself."""
        for name, values in statistics.items():
            place, _, kind = name.rpartition(".")
            setattr(self.get_submodule(place), f"running_{kind}", values)
        return self

    def adapted(self, method: str) -> dict[str, nn.Parameter]:
        """What a step of `method` moves, by name."""
        backbone, head = PARTS[method]
        return {n: weight for n, weight in self.named_parameters() if (head if n.startswith("head.") else backbone)}

    def forward(self, images: Tensor) -> Tensor:
        """images [N, C, S, S] → logits [N, classes]."""
        logits: Tensor = self.head(self.backbone(images))
        return logits


def step_call(
    model: Plain, method: str, lr: float, images: Tensor, labels: Tensor, compiled: bool = False
) -> Callable[..., tuple[Tensor, Weights]]:
    """One step θ ← θ − lr·∇L from the weights that `model` has when it is called: a function → (loss, the moved
    weights), which leaves the model as it was.

    It is of `images`, or of other images that it is called with.

    Only what `method` adapts requires grad; where that is the head alone, the features are computed without a graph.
    `compiled`: what computes the loss (and its gradient) is compiled by torch.compile at the first call.
    """
    moving = {name: weight.requires_grad_() for name, weight in model.adapted(method).items()}
    body_moves = PARTS[method][0]

    def body(images: Tensor) -> Tensor:
        with torch.no_grad():
            return model.backbone(images)

    def loss_of(x: Tensor) -> Tensor:
        return F.cross_entropy(model(x) if body_moves else model.head(x), labels)

    if compiled:
        body, loss_of = torch.compile(body, dynamic=False), torch.compile(loss_of, dynamic=False)

    def step(images: Tensor = images) -> tuple[Tensor, Weights]:
        loss = loss_of(images if body_moves else body(images))
        gradients = torch.autograd.grad(loss, list(moving.values()))
        with torch.no_grad():
            moved = {name: weight - lr * gradient for (name, weight), gradient in zip(moving.items(), gradients)}
        return loss.detach(), moved

    return step


def random_weights(shapes: Mapping[str, Sequence[int]]) -> Weights:
    """Kaiming normal; normalisations start at scale 1, biases at 0."""
    weights = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            weights[name] = nn.init.kaiming_normal_(torch.empty(shape), nonlinearity="relu")
        else:
            weights[name] = torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
    return weights


def main(text: str) -> None:
    """`text`: backbone, channels, shapes of the weights by name, size, ways, shots, method, lr, threads."""
    settings = json.loads(text)
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    model = Plain(settings["backbone"], settings["channels"], settings["size"])
    baseline = peak_mb()
    model.load(random_weights(settings["shapes"]))
    count = settings["ways"] * settings["shots"]
    images = torch.rand(count, settings["channels"], settings["size"], settings["size"])
    labels = torch.arange(count) % settings["ways"]
    step = step_call(model, settings["method"], settings["lr"], images, labels)
    milliseconds = []
    for _ in range(STEPS):
        started = time.perf_counter()
        model.move(step()[1])
        milliseconds.append(1e3 * (time.perf_counter() - started))
    print(json.dumps({"baseline_mb": baseline, "peak_mb": peak_mb(), "ms": milliseconds, "torch": torch.__version__}))


if __name__ == "__main__":
    main(sys.argv[1])
