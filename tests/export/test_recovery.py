"""A pruned network in mode "frozen": filters fitted by least squares, then features taught by the dense network."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file, save_file

from gems_edge.data.tensors import EpisodeTensors
from gems_edge.export import reconstruct as reconstruction
from gems_edge.export.distil import distil, lesson
from gems_edge.export.reconstruct import reconstruct
from gems_edge.meta.run import Run
from gems_edge.models.channel_groups import kept_entries
from gems_edge.models.convolution import Convolution
from gems_edge.models.fewshot import FewShotModel, body
from gems_edge.models.spec import ModelSpec, full_widths
from gems_edge.models.tensor_names import is_constant
from gems_edge.progress import no_display
from gems_edge.tickets.channels import prune

SIZE = 32


def dense(backbone="mobilenet-v2", first=6, number=48, dtype=torch.float32):
    """A network and images. As a pretraining leaves it, channels are much like each other, and statistics of images."""
    torch.manual_seed(0)
    widths = full_widths((first,), backbone, 1.0, 3, SIZE)
    spec = ModelSpec(backbone, widths, SIZE, 3, "frozen", "prototype", 5)
    model, images = FewShotModel(spec), F.interpolate(torch.rand(number, 3, 8, 8), SIZE, mode="bilinear")
    weights = {name: tensor.detach().to(dtype) for name, tensor in model.tensors().items()}
    for weight in weights.values():
        if weight.ndim == 4:
            half = len(weight) // 2
            weight[half : 2 * half] = weight[:half] + 0.2 * weight[half : 2 * half]
    batch = FewShotModel(replace(spec, normalization="support"))
    seen = body(batch, {n: w for n, w in weights.items() if not is_constant(n)}, images.to(dtype)).statistics
    for name, tensor in seen.items():
        layer, _, kind = name.rpartition(".")
        weights[f"{layer}.running_{kind}"] = tensor.detach()
    return model, weights, images.to(dtype)


def distance(model, weights, pruned, images):
    """Mean squared distance of the pruned network's features from the dense one's, as directions."""
    kept = torch.from_numpy(kept_entries(model.spec.topology.features, pruned.kept))
    with torch.no_grad():
        wanted = body(model, weights, images).features[:, kept]
        found = body(FewShotModel(pruned.spec), pruned.weights, images).features
    return (F.normalize(wanted, dim=1) - F.normalize(found, dim=1)).square().sum(1).mean().item()


# Of deep networks with random filters there is nothing in common between images: judged on those of the fit.
@pytest.mark.parametrize(
    "backbone, first, unseen", [("mobilenet-v2", 6, 0), ("efficientnet-lite0", 8, 0), ("resnet18", 8, 400)]
)
def test_fitted_filters_bring_features_near_the_dense_ones(backbone, first, unseen):
    model, weights, images = dense(backbone, first, 40 + unseen)
    pruned = prune(model, weights, 0.4, 1)
    fitted = reconstruct(model, weights, pruned, images[40:] if unseen else images)
    assert fitted.weights.keys() == pruned.weights.keys() and fitted.spec == pruned.spec
    before, after = (distance(model, weights, each, images[:40]) for each in (pruned, fitted))
    assert after < 0.4 * before
    scales = [n for n in pruned.weights if n.endswith(("norm.weight", "running_var")) or n.startswith("head.")]
    assert scales and all(torch.equal(fitted.weights[name], pruned.weights[name]) for name in scales)


def test_nothing_changes_where_nothing_went():
    """Filters are held where they are, and fit already."""
    model, weights, images = dense(dtype=torch.float64)
    whole = prune(model, weights, 0)
    fitted = reconstruct(model, weights, replace(whole, weights=weights), images)
    assert all(torch.allclose(fitted.weights[name], weights[name], rtol=1e-7, atol=1e-9) for name in weights)


@pytest.mark.parametrize("groups, stride, kernel", [(1, 1, (1, 1)), (1, 2, (3, 3)), (6, 2, (3, 3)), (6, 1, (5, 3))])
@pytest.mark.parametrize("moved", [True, False])
def test_a_layer_is_the_ridge_regression_around_what_it_was(groups, stride, kernel, moved):
    """Against torch.linalg.lstsq on rows for the ridge below those of the patches."""
    torch.manual_seed(1)
    conv = Convolution(6, 6, kernel, (stride, stride), (1, 1), groups=groups, bias=False).double()
    x, before = torch.randn(20, 6, 7, 9, dtype=torch.float64), conv.weight.detach().clone()
    wanted = torch.randn_like(conv(x).detach())
    shift = torch.zeros(6, dtype=torch.float64) if moved else None
    with torch.no_grad():
        reconstruction._fit(conv, (shift, 1), x, wanted, torch.Generator())
    patches = F.unfold(x, kernel, padding=1, stride=stride).mT.flatten(0, 1)
    targets = wanted.flatten(2).mT.flatten(0, 1)
    for output in range(6):
        of_output = patches.unflatten(1, (groups, -1))[:, output if groups > 1 else 0]
        rows, target = of_output, targets[:, output]
        if moved:
            rows, target = rows - rows.mean(0), target - target.mean()
        held = (reconstruction.RIDGE * rows.square().sum(0).mean()).sqrt()
        start = before[output].flatten()
        system = torch.cat([rows, held * torch.eye(rows.shape[1], dtype=torch.float64)])
        found = torch.linalg.lstsq(system, torch.cat([target, held * start])[:, None]).solution[:, 0]
        assert torch.allclose(conv.weight[output].flatten(), found, rtol=1e-9, atol=1e-11)
        if moved:
            assert torch.isclose(shift[output], targets[:, output].mean() - of_output.mean(0) @ found)


def test_a_convolution_in_several_groups_stays():
    conv = Convolution(8, 4, (1, 1), (1, 1), (0, 0), groups=2, bias=False)
    before = conv.weight.detach().clone()
    reconstruction._fit(conv, (None, 0), torch.rand(2, 8, 3, 3), torch.rand(2, 4, 3, 3), torch.Generator())
    assert torch.equal(conv.weight, before)


def taught(iterations=25, head="prototype", metric="cosine"):
    model, weights, images = dense()
    model = FewShotModel(replace(model.spec, head=head, metric=metric))
    pruned = reconstruct(model, weights, prune(model, weights, 0.5, 1), images[:40])
    tensors = EpisodeTensors((images * 255).round().to(torch.uint8))
    given = lesson(model, weights, pruned, tensors, np.arange(40), no_display)
    return pruned, distil(pruned, given, iterations, 3, no_display)


@pytest.mark.parametrize("head, metric", [("prototype", "cosine"), ("prototype", "euclidean"), ("shared", "cosine")])
def test_distilling_brings_features_nearer_and_moves_no_constant(head, metric):
    pruned, after = taught(head=head, metric=metric)
    assert after.last < 0.8 * after.first
    moved = {name for name, weight in after.weights.items() if not torch.equal(weight, pruned.weights[name])}
    assert moved and all(name.startswith("backbone.") and not is_constant(name) for name in moved)


def test_distilling_is_the_same_each_time():
    (_, first), (_, second) = taught(4), taught(4)
    assert all(torch.equal(weight, second.weights[name]) for name, weight in first.weights.items())


@pytest.mark.slow(20)
def test_export_of_a_pruned_pretrained_run(cli_here, image_sets, tmp_path):
    """The compact network is the run's; a second export takes it from there, one of other weights does not."""
    model, weights, _ = dense("resnet18", 8)
    save_file(
        {n.removeprefix("backbone."): w for n, w in weights.items() if n.startswith("backbone.")},
        tmp_path / "a.safetensors",
    )
    run, bundle = tmp_path / "run", tmp_path / "a.gems"
    cli_here(
        "train", "--backbone", "resnet18", "--widths", "8", "--init", tmp_path / "a.safetensors",
        "--image-size", SIZE, "--data", "tint", "--data-root", image_sets, "--queries", "3", "--iterations", "2",
        "--keep-features", "0", "--validation-episodes", "2", "-o", run,
    )  # fmt: skip
    options = ("--ratio", "0.4", "--round-to", "1", "--recover-iterations", "6", "--episodes", "4")
    options += ("--data-root", image_sets)
    said = cli_here("export", run, *options, "-o", bundle).stderr
    assert "6 iterations of the dense network's features" in said
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["ratio"]["reached"] == pytest.approx(0.4, abs=0.02)
    (compact,) = (run / "compact").iterdir()
    assert Run(compact).config().iterations == 1  # of meta-training, half of the run's own
    kept = load_arrays(compact / "channels.safetensors")
    assert [int(kept[name].sum()) for name in sorted(kept)] == manifest["backbone"]["widths"]
    exported, recovered = (load_file(each / "weights.safetensors") for each in (bundle, compact))
    assert all(torch.equal(exported[n], recovered[n]) for n in recovered)
    assert "distance" not in cli_here("export", run, *options, "-o", bundle).stderr

    other = shutil.copytree(run, tmp_path / "other")
    changed = load_file(other / "weights.safetensors")
    changed = {name: w * 1.01 if w.ndim == 4 else w for name, w in changed.items()}
    save_file(changed, other / "weights.safetensors")
    assert "distance" in cli_here("export", other, *options, "-o", tmp_path / "b.gems").stderr
