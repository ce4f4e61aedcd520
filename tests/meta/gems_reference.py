"""An independent, plain BMP and MMSUP on top of reference.py: explicit loops, straight-through estimators as sums."""

import math

import torch
import torch.nn.functional as F
from reference import Network, independent, query_gradient


def unit(v):
    return (v - v.mean()) / (v.var(correction=0) + 1e-12).sqrt()


def mlp(phi, x):
    h = torch.relu(phi["adapter.hidden.weight"] @ x + phi["adapter.hidden.bias"])
    return phi["adapter.output.weight"] @ h + phi["adapter.output.bias"]


def meta_gradient(
    module, weights, mode, method, lr, steps, first_order, sx, sy, qx, qy, classes, channels, per_layer=False,
    task=True, metric="", head_lr=0.0,
):  # fmt: skip
    """(query loss, gradient by name, what was chosen at each step). `channels`: of the features' map."""
    network = Network(module, weights, mode, metric)
    meta = {n: t.clone().requires_grad_() for n, t in weights.items()}
    phi = {n: t for n, t in meta.items() if n.startswith("adapter.")}
    w, keep, chosen = independent(network.with_classes(meta, classes, sx, sy)), None, []
    start = {n: t.detach() for n, t in meta.items()}
    layers = network.layers(w, sx)
    for _ in range(steps):
        loss = F.cross_entropy(network.logits(w, sx)[0], sy)
        names = [n for layer in layers for n in layer]
        g = dict(zip(names, torch.autograd.grad(loss, [w[n] for n in names], create_graph=not first_order)))
        seen = [
            unit(torch.stack([w[n].mean() for n in names])),
            unit(torch.stack([g[n].detach().abs().mean() for n in names])),
        ]
        new = dict(w)
        if method == "bmp":
            if task:  # the support set's features, means over images and places
                seen.append(unit(network.features(w, sx)[0].reshape(len(sx), channels, -1).mean(2).mean(0).detach()))
            out = mlp(phi, torch.cat(seen))
            logits = out[: len(layers)]
            mask = (logits > 0).double().detach() + logits - logits.detach()
            rates = lr * torch.log1p(torch.exp(out[len(layers) :]) * (math.e - 1))
            for i, layer in enumerate(layers):
                for n in layer:
                    share = head_lr / lr if head_lr and n.startswith("head") else 1
                    new[n] = w[n] - mask[i] * rates[i if per_layer else 0] * share * g[n]
            chosen.append((logits > 0).int().tolist())
        else:
            if keep is None:
                keep = torch.sigmoid(mlp(phi, torch.cat(seen)))
            for i, layer in enumerate(layers):
                for n in layer:
                    mask = 1.0
                    if w[n].dim() > 1 and n in start:
                        flat = start[n].abs().flatten()
                        top = torch.zeros_like(flat)
                        top[torch.sort(flat, descending=True, stable=True).indices[: count(keep[i], len(flat))]] = 1
                        mask = top.view_as(start[n]) + keep[i] - keep[i].detach()
                    new[n] = w[n] - (head_lr if head_lr and n.startswith("head") else lr) * mask * g[n]
            chosen.append(keep.tolist())
        w = new
    return *query_gradient(network, meta, w, mode, sx, qx, qy), chosen


def count(share, size):
    """How many of `size` weights a share keeps: those whose place (0, 1, …) over the size lies below it."""
    return sum(place / size < float(share.detach() if torch.is_tensor(share) else share) for place in range(size))
