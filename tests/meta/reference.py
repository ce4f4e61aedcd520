"""An independent, plain MAML of any network: its author's torch module, torch's own gradients, no code of gems_edge."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

BODY = "backbone."


class Norm(nn.Module):
    """In place of a BatchNorm2d, with its names: normalises by the batch's own statistics, which are kept, or by given
    ones, through which gradients pass."""

    def __init__(self, of: nn.BatchNorm2d):
        super().__init__()
        self.weight, self.bias, self.eps = of.weight, of.bias, of.eps
        self.given = self.seen = None

    def forward(self, x):
        if self.given is None:
            rows = x.transpose(0, 1).flatten(1)
            self.seen = rows.mean(1), ((rows - rows.mean(1, keepdim=True)) ** 2).mean(1)
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        mean, var, scale, shift = (v.view(1, -1, 1, 1) for v in (*self.given, self.weight, self.bias))
        return (x - mean) / (var + self.eps).sqrt() * scale + shift


class Hardsigmoids(TorchFunctionMode):
    """In place of torch's hardsigmoid, which it cannot differentiate twice. Its slope is 1/6 in float32, whatever the
    type."""

    def __torch_function__(self, function, types, arguments=(), named=None):
        if function is not F.hardsigmoid:
            return function(*arguments, **(named or {}))
        value = F.relu6(arguments[0] + 3)
        sloping = value * (torch.ones((), dtype=torch.float32) / 6).item()
        return sloping + (value / 6 - sloping).detach()


RUNNING = ("running_mean", "running_var")


class Network:
    """`module` (images → features, as its author wrote it) as a function of tensors, which may be of other widths."""

    def __init__(self, module: nn.Module, weights: dict, mode: str, metric: str = ""):
        self.metric = metric  # of prototypes; "" is a plain linear head
        self.module, self.mode = copy.deepcopy(module).eval(), mode  # no dropout
        self.order = []  # paths of layers and normalisations as they run
        self.norms = {}
        for path, layer in list(self.module.named_modules()):
            if isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels == layer.out_channels:
                layer.groups = len(weights[f"{BODY}{path}.weight"])
            elif isinstance(layer, nn.BatchNorm2d):
                channels = len(weights[f"{BODY}{path}.weight"])
                new = nn.GroupNorm(math.gcd(8, channels), channels, layer.eps) if mode == "group" else Norm(layer)
                self.module.set_submodule(path, new)
                self.norms |= {path: new} if mode != "group" else {}
        for path, layer in self.module.named_modules():
            if any(True for _ in layer.parameters(recurse=False)):
                layer.register_forward_pre_hook(lambda *_, path=path: self.order.append(path))

    def features(self, w, images, given=None):
        """Features [N, F] in the statistics that are `given`, or in mode frozen among the weights, and the batch's own
        where they are not: path → (mean, var)."""
        self.order.clear()
        if self.mode == "frozen":
            given = {path: [w[f"{BODY}{path}.{kind}"] for kind in RUNNING] for path in self.norms}
        for path, norm in self.norms.items():
            norm.given = given[path] if given else None
        body = {
            name.removeprefix(BODY): tensor
            for name, tensor in w.items()
            if name.startswith(BODY) and not name.endswith(RUNNING)
        }
        with Hardsigmoids():
            features = functional_call(self.module, body, (images,), strict=True)
        return features, {path: norm.seen for path, norm in self.norms.items()}

    def logits(self, w, images, given=None):
        features, seen = self.features(w, images, given)
        if self.metric == "cosine":
            features = torch.exp(w["head.temperature"]) * F.normalize(features)
        return features @ w["head.weight"].T + w["head.bias"], seen

    def with_classes(self, meta, classes, sx, sy):
        """The weights that a task starts from: a shared head's row for each class or the classes' prototypes, and
        nothing of an adapter."""
        w = {name: tensor for name, tensor in meta.items() if not name.startswith("adapter.")}
        if self.metric:
            features, tau = self.features(w, sx)[0], torch.exp(w["head.temperature"])
            of_class = [features[sy == number] for number in range(classes)]
            if self.metric == "cosine":
                rows = [F.normalize(F.normalize(each).mean(0), dim=0) for each in of_class]
                rows = torch.stack(rows) * mean_lengths([F.normalize(each) for each in of_class])
                return w | {"head.weight": rows, "head.bias": tau * torch.zeros(classes).to(tau)}
            means = [each.mean(0) for each in of_class]
            errors = squared_errors(of_class)
            biases = torch.stack([tau * (error - mean.norm() ** 2) for error, mean in zip(errors, means)])
            return w | {"head.weight": 2 * tau * torch.stack(means), "head.bias": biases}
        if meta["head.weight"].shape[0] == 1:
            w["head.weight"] = torch.cat([meta["head.weight"]] * classes)
            w["head.bias"] = torch.cat([meta["head.bias"]] * classes)
        return w

    def layers(self, w, images):
        """The names of each layer's tensors, in the order in which they run; normalisations belong to the layer before
        them; the head is last."""
        self.features(w, images)
        layers = []
        for path in self.order:
            layer = self.module.get_submodule(path)
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layers.append([])
            layers[-1] += [f"{BODY}{path}.{name}" for name, _ in layer.named_parameters(recurse=False)]
        return [*layers, ["head.weight", "head.bias"]]


def squared_errors(of_class):
    """Expected squared error of each class's mean, from the variance within all classes."""
    freedom = sum(len(each) - 1 for each in of_class)
    variance = sum(each.var(0, correction=0).sum() * len(each) for each in of_class) / max(freedom, 1)
    return [variance / len(each) for each in of_class]


def mean_lengths(of_class):
    """Expected length of each class's mean of unit vectors [classes, 1], as multiples of their average; from the
    cosines of all pairs within a class, a pair of two of n counting 1 / n."""
    pairs = [(each @ each.T).triu(1).sum() * 2 / len(each) for each in of_class]
    cosine = (sum(pairs) / max(sum(len(each) - 1 for each in of_class), 1)).clamp(min=0)
    lengths = torch.stack([(cosine + (1 - cosine) / len(each)).sqrt() for each in of_class])
    return (lengths / lengths.mean())[:, None]


def independent(w):
    """Each tensor by another name: what was made of the old ones (prototypes) is not made of these."""
    return {name: tensor.clone() for name, tensor in w.items()}


def query_gradient(network, meta, w, mode, sx, qx, qy):
    """Query loss under adapted weights `w`, and its gradient at the meta-weights by name."""
    with_support = network.logits(w, sx)[1] if mode == "support" else None
    loss = F.cross_entropy(network.logits(w, qx, with_support)[0], qy)
    gradients = torch.autograd.grad(loss, list(meta.values()), allow_unused=True)
    return loss, {n: torch.zeros_like(t) if g is None else g for (n, t), g in zip(meta.items(), gradients)}


def meta_gradient(
    module, weights, mode, method, lr, steps, first_order, sx, sy, qx, qy, classes, metric="", head_lr=0.0
):
    """Query loss, and its gradient by weight name, through `steps` explicit inner steps."""
    network = Network(module, weights, mode, metric)
    meta = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
    w = independent(network.with_classes(meta, classes, sx, sy))
    moving = [n for n in w if method not in ("anil", "boil") or (method == "anil") == n.startswith("head")]
    moving = [n for n in moving if n != "head.temperature" and not n.endswith(RUNNING)]
    rates = {n: head_lr if head_lr and n.startswith("head") else lr for n in moving}
    for _ in range(steps):
        loss = F.cross_entropy(network.logits(w, sx)[0], sy)
        gradients = torch.autograd.grad(loss, [w[n] for n in moving], create_graph=not first_order)
        w = w | {n: w[n] - rates[n] * g for n, g in zip(moving, gradients)}
    return query_gradient(network, meta, w, mode, sx, qx, qy)
