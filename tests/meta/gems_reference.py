"""An independent, plain BMP and MMSUP on top of reference.py: explicit loops, straight-through estimators as sums."""

import math

import reference
import torch
import torch.nn.functional as F

# Tensors of each layer, written out.
CONV4 = [[f"backbone.blocks.{n}.{part}" for part in ("conv.weight", "norm.weight", "norm.bias")] for n in range(4)]
RESNET12 = []
for block in range(4):
    for n in (1, 2, 3):
        p = f"backbone.blocks.{block}"
        RESNET12.append([f"{p}.conv{n}.weight", f"{p}.norm{n}.weight", f"{p}.norm{n}.bias"])
    RESNET12.append([f"backbone.blocks.{block}.skip.weight"])
HEAD = [["head.weight", "head.bias"]]
LAYERS = {"conv4": CONV4 + HEAD, "resnet12": RESNET12 + HEAD}


def unit(v):
    return (v - v.mean()) / (v.var(correction=0) + 1e-12).sqrt()


def mlp(phi, x):
    h = torch.relu(phi["adapter.hidden.weight"] @ x + phi["adapter.hidden.bias"])
    return phi["adapter.output.weight"] @ h + phi["adapter.output.bias"]


def features(backbone, x, w, mode):
    """Mean of the support set's features over images and places, [C]."""
    y = reference.BACKBONES[backbone](x, w, mode, {"use": None, "seen": {}})
    channels = (
        w["backbone.blocks.3.conv.weight"] if backbone == "conv4" else w["backbone.blocks.3.skip.weight"]
    ).shape[0]
    return y.reshape(len(x), channels, -1).mean(2).mean(0).detach()


def classes_of(meta, classes):
    w = {n: t for n, t in meta.items() if not n.startswith("adapter.")}
    if meta["head.weight"].shape[0] == 1:
        w["head.weight"] = torch.cat([meta["head.weight"]] * classes)
        w["head.bias"] = torch.cat([meta["head.bias"]] * classes)
    return w


def meta_gradient(
    backbone, weights, mode, method, lr, steps, first_order, sx, sy, qx, qy, classes, per_layer=False, task=True
):
    """(query loss, gradient by name, what was chosen at each step)."""
    layers = LAYERS[backbone]
    meta = {n: t.clone().requires_grad_() for n, t in weights.items()}
    phi = {n: t for n, t in meta.items() if n.startswith("adapter.")}
    w, keep, chosen = classes_of(meta, classes), None, []
    start = {n: t.detach() for n, t in meta.items()}
    for _ in range(steps):
        loss = F.cross_entropy(reference.logits(backbone, sx, w, mode)[0], sy)
        names = [n for layer in layers for n in layer]
        g = dict(zip(names, torch.autograd.grad(loss, [w[n] for n in names], create_graph=not first_order)))
        seen = [
            unit(torch.stack([w[n].mean() for n in names])),
            unit(torch.stack([g[n].detach().abs().mean() for n in names])),
        ]
        new = dict(w)
        if method == "bmp":
            if task:
                seen.append(unit(features(backbone, sx, w, mode)))
            out = mlp(phi, torch.cat(seen))
            logits = out[: len(layers)]
            mask = (logits > 0).double().detach() + logits - logits.detach()
            rates = lr * torch.log1p(torch.exp(out[len(layers) :]) * (math.e - 1))
            for i, layer in enumerate(layers):
                for n in layer:
                    new[n] = w[n] - mask[i] * rates[i if per_layer else 0] * g[n]
            chosen.append((logits > 0).int().tolist())
        else:
            if keep is None:
                keep = torch.sigmoid(mlp(phi, torch.cat(seen)))
            for i, layer in enumerate(layers):
                for n in layer:
                    mask = 1.0
                    if w[n].dim() > 1:
                        flat = start[n].abs().flatten()
                        top = torch.zeros_like(flat)
                        top[torch.sort(flat, descending=True, stable=True).indices[: count(keep[i], len(flat))]] = 1
                        mask = top.view_as(start[n]) + keep[i] - keep[i].detach()
                    new[n] = w[n] - lr * mask * g[n]
            chosen.append(keep.tolist())
        w = new
    use = reference.logits(backbone, sx, w, mode)[1] if mode == "support" else None
    loss = F.cross_entropy(reference.logits(backbone, qx, w, mode, use)[0], qy)
    found = torch.autograd.grad(loss, list(meta.values()), allow_unused=True)
    return loss, {n: torch.zeros_like(t) if d is None else d for (n, t), d in zip(meta.items(), found)}, chosen


def count(share, size):
    """How many of `size` weights a share keeps: those whose place (0, 1, …) over the size lies below it."""
    return sum(place / size < float(share.detach() if torch.is_tensor(share) else share) for place in range(size))
