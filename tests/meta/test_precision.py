"""Reduced precision follows the weights, and leaves torch's switches as they were."""

import torch

from gems_edge.data.shots import Shots
from gems_edge.data.tensors import Episode
from gems_edge.meta.outer import meta_loss
from gems_edge.meta.precision import autocast, matrix_precision
from gems_edge.meta.rules.maml import Descent
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.models.fewshot import FewShotModel


def test_bf16_sees_every_update_of_the_weights():
    torch.manual_seed(0)
    config = TrainConfig(
        widths=(8,) * 4, image_size=16, channels=1, ways=2, shots=Shots.given(1), queries=2, steps=2, precision="bf16"
    )
    model, labels = FewShotModel(config.model_spec()), torch.arange(2)
    episode = Episode(torch.rand(2, 1, 16, 16), labels, torch.rand(4, 1, 16, 16), labels.repeat_interleave(2))
    losses = []
    for _ in range(2):
        with autocast("bf16", torch.device("cpu")):
            loss = meta_loss(model, dict(model.named_parameters()), episode, config, Descent("anil", 0.1)).loss
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for weight in model.backbone.parameters():
                weight.normal_()
    assert losses[0] != losses[1]
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters() if weight.grad is not None)


def test_matrix_precision_is_restored():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    for precision, expected in (("fp32", False), ("tf32", True)):
        with matrix_precision(precision):
            assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (expected, expected)
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before
