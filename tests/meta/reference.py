"""An independent, plain MAML: one loop, torch's own layers, no code of gems_edge."""

import torch
import torch.nn.functional as F


def normalize(x, weights, prefix, mode, given):
    """Returns the normalised map; appends (mean, var) of the batch to `given` when it is being recorded."""
    scale, shift = weights[f"{prefix}.weight"], weights[f"{prefix}.bias"]
    if mode == "group":
        channels = x.shape[1]
        groups = next(g for g in range(8, 0, -1) if channels % g == 0 and 8 % g == 0)
        return F.group_norm(x, groups, scale, shift)
    if given["use"] is not None:
        mean, var = given["use"][prefix]
        shape = (1, -1, 1, 1)
        return (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt() * scale.view(shape) + shift.view(shape)
    rows = x.transpose(0, 1).flatten(1)
    given["seen"][prefix] = rows.mean(1), ((rows - rows.mean(1, keepdim=True)) ** 2).mean(1)
    return F.batch_norm(x, None, None, scale, shift, training=True)


def conv4(x, w, mode, given):
    for n in range(4):
        p = f"backbone.blocks.{n}"
        x = F.conv2d(x, w[f"{p}.conv.weight"], padding=1)
        x = F.max_pool2d(F.relu(normalize(x, w, f"{p}.norm", mode, given)), 2)
    return x.flatten(1)


def resnet12(x, w, mode, given):
    for n in range(4):
        p = f"backbone.blocks.{n}"
        y = F.relu(normalize(F.conv2d(x, w[f"{p}.conv1.weight"], padding=1), w, f"{p}.norm1", mode, given))
        y = F.relu(normalize(F.conv2d(y, w[f"{p}.conv2.weight"], padding=1), w, f"{p}.norm2", mode, given))
        y = normalize(F.conv2d(y, w[f"{p}.conv3.weight"], padding=1), w, f"{p}.norm3", mode, given)
        x = F.max_pool2d(y + F.conv2d(x, w[f"{p}.skip.weight"]), 2)
    return x.mean((2, 3))


BACKBONES = {"conv4": conv4, "resnet12": resnet12}


def logits(backbone, x, w, mode, use=None):
    given = {"use": use, "seen": {}}
    features = BACKBONES[backbone](x, w, mode, given)
    return features @ w["head.weight"].T + w["head.bias"], given["seen"]


def meta_gradient(backbone, weights, mode, method, lr, steps, first_order, sx, sy, qx, qy, classes):
    """Query loss, and its gradient by weight name, through `steps` explicit inner steps."""
    meta = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
    w = dict(meta)
    if meta["head.weight"].shape[0] == 1:
        w["head.weight"] = torch.cat([meta["head.weight"]] * classes)
        w["head.bias"] = torch.cat([meta["head.bias"]] * classes)
    for _ in range(steps):
        loss = F.cross_entropy(logits(backbone, sx, w, mode)[0], sy)
        moving = [n for n in w if method == "maml" or (method == "anil") == n.startswith("head")]
        gradients = torch.autograd.grad(loss, [w[n] for n in moving], create_graph=not first_order)
        w = w | {n: w[n] - lr * g for n, g in zip(moving, gradients)}
    use = logits(backbone, sx, w, mode)[1] if mode == "support" else None
    loss = F.cross_entropy(logits(backbone, qx, w, mode, use)[0], qy)
    gradients = torch.autograd.grad(loss, list(meta.values()), allow_unused=True)
    return loss, {n: torch.zeros_like(t) if g is None else g for (n, t), g in zip(meta.items(), gradients)}
