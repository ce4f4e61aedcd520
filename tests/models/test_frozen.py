"""Mode "frozen": running statistics travel with the weights and are constants; pixels are brought to what a network
was pretrained on."""

import pytest
import torch
from graph_models import pictures

from gems_edge.device.runtime import Session
from gems_edge.errors import UserError
from gems_edge.export.graphs import adapt_graph, predict_graph
from gems_edge.meta.outer import make_optimizer
from gems_edge.meta.rules.maml import Descent
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.models.fewshot import FewShotModel, body, forward, initial_weights, layers_of
from gems_edge.models.spec import ModelSpec, Pixels
from gems_edge.models.tensor_names import is_constant

PIXELS = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def made(mode="frozen", pixels=PIXELS):
    torch.manual_seed(0)
    model = FewShotModel(ModelSpec("conv4", (4, 5, 6, 7), 20, 3, mode, "shared", 5, pixels=pixels))
    weights = {name: tensor.detach().clone() for name, tensor in model.tensors().items()}
    for tensor in weights.values():
        if tensor.ndim == 1:
            tensor += torch.rand(tensor.shape)
    return model, weights


def test_constants_stand_behind_their_normalisation_and_in_no_layer():
    frozen, support = (made(mode)[1] for mode in ("frozen", "support"))
    assert [name for name in frozen if not is_constant(name)] == list(support)
    assert list(frozen)[:5] == [
        "backbone.blocks.0.conv.weight",
        *(f"backbone.blocks.0.norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
    ]
    assert layers_of(frozen) == layers_of(support)
    assert Descent("maml", 0.1).adapted(frozen) == tuple(support)


def test_an_image_is_answered_by_itself():
    model, weights = made()
    images = pictures(6, 3, 20)
    with torch.no_grad():
        together, alone = forward(model, weights, images), forward(model, weights, images[:1])
    assert not together.statistics and not model.statistics_names()
    assert torch.allclose(together.logits[:1], alone.logits, rtol=1e-5, atol=1e-6)


def test_no_optimiser_moves_constants():
    weights = {name: tensor.requires_grad_(not is_constant(name)) for name, tensor in made()[1].items()}
    moved = {id(weight) for group in make_optimizer(weights, TrainConfig()).param_groups for weight in group["params"]}
    assert moved == {id(weight) for name, weight in weights.items() if not is_constant(name)}


@pytest.mark.parametrize("pixels", [PIXELS, Pixels((127 / 255,), (128 / 255,))])
def test_pixels_are_normalised_first(pixels):
    (model, weights), (plain, _), images = made(pixels=pixels), made(pixels=Pixels()), pictures(3, 3, 20)
    mean, deviation = (torch.tensor(each)[:, None, None] for each in (pixels.mean, pixels.deviation))
    expected = body(plain, weights, (images - mean) / deviation).features
    assert torch.allclose(body(model, weights, images).features, expected, rtol=1e-5, atol=1e-6)
    assert torch.allclose(forward(model, weights, images).features, expected, rtol=1e-5, atol=1e-6)
    logits = forward(model, initial_weights(model, weights, 5), images).logits
    predict = Session(predict_graph(model, weights, {}).SerializeToString(), "predict", threads=1)
    assert torch.allclose(torch.from_numpy(predict.run(["logits"], {"images": images.numpy()})[0]), logits, atol=1e-5)
    constants = {i.name for i in adapt_graph(model, weights, Descent("maml", 0.1)).graph.initializer}
    assert {name for name in weights if is_constant(name)} <= constants


@pytest.mark.parametrize("pixels", [Pixels((0.5, 0.5), (0.5, 0.5)), Pixels((0.5,), (0.0,)), Pixels((0.5,), ())])
def test_pixels_that_do_not_fit_are_refused(pixels):
    with pytest.raises(UserError, match="pixels of 3 channels"):
        made(pixels=pixels)
