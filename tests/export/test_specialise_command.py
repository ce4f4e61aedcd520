"""Bundles of runs on two image sets, whole and frozen for one of them, through the command line."""

import json

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch
from gems_runs import LAYERS, stirred_run
from PIL import Image

from gems_edge.data.packed import read_packed
from gems_edge.device import Learner
from gems_edge.device.bundle import read_bundle
from gems_edge.meta.rules.adapter import ranks
from gems_edge.meta.run import Run
from gems_edge.models.fewshot import FewShotModel, layers_of

pytestmark = pytest.mark.slow(6)

QUICK = ("--episodes", "6", "--for-tasks", "6")
# What the stirred adapters answer on average. BMP: the lower two blocks never move, block 2 sometimes, the rest does.
BMP_LOGITS, MMSUP_LOGITS = [-9.0, -9.0, 0.0, 9.0, 9.0, 0.0], [-2.0, -2.0, -2.0, -9.0, 0.5]


@pytest.fixture(scope="module")
def runs(two_set_run, tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    stirred_run(two_set_run("bmp"), place / "bmp", bias=BMP_LOGITS, by=0.3)
    stirred_run(two_set_run("mmsup"), place / "mmsup", bias=MMSUP_LOGITS, by=0.2)
    return place


@pytest.fixture(scope="module")
def exported(runs, cli_here, image_sets, tmp_path_factory):
    """`exported("bmp", "tint")`: the bundle, its manifest and what export said on stderr; each is made once."""
    place, made = tmp_path_factory.mktemp("bundles"), {}

    def export(method, *for_data, ratio="0"):
        bundle = place / f"{'-'.join((method, *for_data, ratio))}.gems"
        if bundle not in made:
            options = (
                "--ratio",
                ratio,
                "--round-to",
                "1",
                "--recover-iterations",
                "1",
                "--data-root",
                image_sets,
                *QUICK,
            )
            chosen = ("--for-data", *for_data) if for_data else ()
            said = cli_here("export", runs / method, *options, *chosen, "-o", bundle).stderr
            made[bundle] = bundle, json.loads((bundle / "manifest.json").read_text()), said
        return made[bundle]

    return export


@pytest.fixture(scope="module")
def photos(image_sets, tmp_path_factory):
    """Five characters to teach, dark on white paper, and others of them to tell apart."""
    ink, place = read_packed(image_sets / "ink.npz"), tmp_path_factory.mktemp("photos")
    for number, class_id in enumerate(ink.of_split("test")):
        (place / "support" / f"sign {number}").mkdir(parents=True)
        (place / "new").mkdir(exist_ok=True)
        members = np.flatnonzero(ink.label == class_id)
        for image, path in zip(
            members, (f"support/sign {number}/1.png", f"support/sign {number}/2.png", f"new/{number}.png")
        ):
            Image.fromarray(255 - ink.images[image, :, :, 0]).save(place / path)
    return place


def taught(cli_here, bundle, photos, state):
    """adapt and predict on the bundle; the state's one written slot."""
    report = json.loads(cli_here("adapt", bundle, "--support", photos / "support", "-o", state, "--json").stdout)
    steps = read_bundle(bundle).steps_for(2)  # as few episodes chose: machines round differently
    assert report["steps"] == steps and len(report["classes"]) == 5 and np.isfinite(report["loss"]).all()
    answers = json.loads(cli_here("predict", bundle, "--state", state, photos / "new", "--json").stdout)
    assert len(answers) == 5 and all(
        sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-5) for one in answers
    )
    return next(state.glob("*.safetensors"))


def evaluated(cli_here, subject, image_sets, *options):
    options = ("--data-root", image_sets, "--episodes", "6", "--json", *options)
    return json.loads(cli_here("evaluate", subject, *options).stdout)


@pytest.mark.parametrize("method, carried", [("bmp", []), ("mmsup", ["rule.keep"])])
def test_a_whole_bundle_asks_the_adapter_on_the_board(exported, method, carried):
    bundle, manifest, said = exported(method)
    assert manifest["rule"]["name"] == method and manifest["rule"]["adapter"] == "in the graph"
    assert manifest["specialised"] is None and manifest["tensors"]["carried"] == carried
    stored = safetensors.numpy.load_file(bundle / "weights.safetensors")
    adapter = {name for name in stored if name.startswith("adapter.")}
    assert len(adapter) == 4 and adapter <= set(manifest["tensors"]["constant"])
    assert set(carried) <= stored.keys() and "ink, tint" in said
    mode = manifest["normalization"]
    parts = manifest["accuracy"][mode]["distributions"]
    assert list(parts) == ["ink", "tint"] and all(one["episodes"] == 3 for one in parts.values())
    assert manifest["provenance"]["data"] == "packed:ink.npz,packed:tint.npz"
    assert manifest["image"] == {"size": 28, "channels": 3, "inverted": False}
    assert 0 < manifest["verification"]["update"]["error"] <= 1e-3


def test_a_frozen_bmp_bundle_does_what_most_tasks_choose(exported, runs, cli_here, image_sets):
    bundle, manifest, _ = exported("bmp", "tint")
    # The means of the same validation tasks' choices.
    seen = evaluated(cli_here, runs / "bmp", image_sets, "--data", "tint", "--split", "val")["distributions"]["tint"]
    share = np.array(seen["choices"]["mask"])
    found = manifest["specialised"]
    assert (found["data"], found["seen"], found["tasks"], found["layers"]) == ("tint", True, 6, LAYERS)
    assert found["masks"] == (share > 0.5).astype(int).tolist() and ((0 < share) & (share < 1)).any()
    assert found["agreement"] == pytest.approx(np.maximum(share, 1 - share).mean(), abs=1e-4)
    assert np.array_equal(np.array(found["rates"]) > 0, np.array(found["masks"]) == 1)
    stored, tensors = safetensors.numpy.load_file(bundle / "weights.safetensors"), manifest["tensors"]
    assert not any(name.startswith("adapter.") for name in stored)
    network = FewShotModel(Run(runs / "bmp").config().model_spec())
    layers = layers_of(dict(network.named_parameters()))
    moving = {name for layer, on in zip(LAYERS, np.any(found["masks"], 0)) if on for name in layers[layer]}
    assert set(tensors["adapted"]) == moving and not any("blocks.0." in name or "blocks.1." in name for name in moving)
    assert manifest["rule"]["adapter"] == "frozen"
    assert tensors["carried"] == (["rule.rates"] if found["rates"][0] != found["rates"][1] else [])
    whole, step = (one["cost"]["adapt_step"] for one in (exported("bmp")[1], manifest))
    assert step["macs"] < whole["macs"] / 2 and step["peak_bytes"] < whole["peak_bytes"] / 2


def test_a_frozen_mmsup_bundle_moves_its_subnet_alone(exported, cli_here, photos, tmp_path):
    bundle, manifest, _ = exported("mmsup", "ink")
    found, weights = manifest["specialised"], safetensors.numpy.load_file(bundle / "weights.safetensors")
    assert (found["data"], found["seen"], manifest["rule"]["adapter"]) == ("ink", True, "frozen")
    assert manifest["tensors"]["carried"] == [] and manifest["image"]["inverted"]
    assert not any(name.startswith("adapter.") for name in weights)
    names = [f"backbone.blocks.{n}.conv.weight" for n in range(4)] + ["head.weight"]
    inside = {n: (ranks(torch.from_numpy(weights[n])) < k).numpy() for n, k in zip(names, found["keep"], strict=True)}
    sizes = [mask.size for mask in inside.values()]
    assert found["weights_kept"] == pytest.approx(sum(mask.sum() for mask in inside.values()) / sum(sizes))
    assert (
        found["agreement"] == pytest.approx(np.average(found["agreement_per_layer"], weights=sizes))
        and found["agreement"] < 1
    )
    assert set(names) <= set(manifest["tensors"]["adapted"]) and inside[names[3]].sum() == 1  # the largest is always in

    state = tmp_path / "signs.state"
    slot = taught(cli_here, bundle, photos, state)
    learner = Learner.load(bundle)
    learner.load_state(state)
    moved = {name: learner._now.weights[name] != weights[name] for name in names}
    assert not any(moved[name][~mask].any() for name, mask in inside.items())
    assert sum(changed.sum() for changed in moved.values()) > 0.5 * sum(mask.sum() for mask in inside.values())
    # The same tensors in full, and those of a bundle whose every weight moves.
    full = taught(cli_here, exported("bmp")[0], photos, tmp_path / "whole.state")
    with safetensors.safe_open(slot, "np") as file:
        held = {name.removesuffix(".changed").removesuffix(".values") for name in file.keys()}
        assert held == {*manifest["tensors"]["adapted"], *manifest["tensors"]["statistics"]}
    in_slot, in_full = (
        sum(each.nbytes for each in safetensors.numpy.load_file(path).values()) for path in (slot, full)
    )
    assert in_slot < 0.7 * in_full and in_slot < sum(learner._now.weights[name].nbytes for name in held)


@pytest.mark.parametrize("made", [("bmp",), ("bmp", "tint"), ("mmsup",)])
def test_bundles_learn_on_the_board(exported, cli_here, photos, tmp_path, made):
    bundle, manifest, _ = exported(*made)
    slot = taught(cli_here, bundle, photos, tmp_path / "signs.state")
    with safetensors.safe_open(slot, "np") as file:
        held = {name.removesuffix(".changed").removesuffix(".values") for name in file.keys()}
    assert held == {*manifest["tensors"]["adapted"], *manifest["tensors"]["statistics"]}


def test_a_pruned_run_is_frozen_for_a_set_that_it_never_saw(exported, runs, cli_here, photos, tmp_path, image_sets):
    bundle, manifest, said = exported("bmp", "slant", ratio="0.5")
    (line,) = [line for line in said.splitlines() if "never saw" in line]
    assert line.startswith("slant ") and "ink.npz" in line and "tint.npz" in line
    assert "never saw" not in exported("bmp", "tint")[2]
    assert manifest["specialised"]["seen"] is False and manifest["specialised"]["data"] == "slant"
    assert manifest["ratio"]["reached"] == pytest.approx(0.5, abs=0.02)
    (recovered,) = (runs / "bmp" / "compact").iterdir()
    model, weights = Run(recovered).model()
    width = manifest["backbone"]["widths"][-1]
    assert 0 < width < 8 and weights["adapter.hidden.weight"].shape[1] == 2 * 14 + width
    assert len(Run(recovered).metrics()[-1]["distributions"]) == 2  # both sets recover it
    taught(cli_here, bundle, photos, tmp_path / "signs.state")
    mode = manifest["normalization"]
    on_board = evaluated(cli_here, bundle, image_sets, "--data", "slant")
    assert on_board["accuracy"] == pytest.approx(manifest["accuracy"][mode]["accuracy"], abs=0.03)  # ties in float32


def test_a_bundle_is_evaluated_on_several_sets_as_its_run(exported, runs, cli_here, image_sets):
    document = evaluated(cli_here, exported("bmp")[0], image_sets, "--data", "ink,tint")
    expected = evaluated(cli_here, runs / "bmp", image_sets, "--data", "ink,tint")
    assert list(document["distributions"]) == ["ink", "tint"]
    for name, one in document["distributions"].items():
        assert one["accuracy"] == pytest.approx(
            expected["distributions"][name]["accuracy"], abs=0.03
        )  # ties in float32
    assert document["accuracy"] == pytest.approx(sum(one["accuracy"] for one in document["distributions"].values()) / 2)


def test_of_a_multi_maml_run_one_model_is_exported(two_set_run, cli_here, image_sets, tmp_path):
    run = two_set_run("multi-maml")
    for chosen in ((), ("--for-data", "slant")):
        said = cli_here("export", run, "--ratio", "0", *chosen, "-o", tmp_path / "a.gems", code=2).stderr
        assert "--for-data ink|tint" in said
    assert not (tmp_path / "a.gems").exists()
    options = ("--ratio", "0", "--for-data", "tint", "--data-root", image_sets, *QUICK)
    said = cli_here("export", run, *options, "-o", tmp_path / "a.gems").stderr
    assert "the model of tint" in said and "freezes nothing" in said
    manifest = json.loads((tmp_path / "a.gems" / "manifest.json").read_text())
    assert (
        manifest["specialised"] is None and manifest["rule"]["adapter"] is None and manifest["rule"]["name"] == "maml"
    )
    stored = safetensors.numpy.load_file(tmp_path / "a.gems" / "weights.safetensors")
    own = safetensors.numpy.load_file(run / "distributions" / "tint" / "weights.safetensors")
    assert all(np.array_equal(stored[name], value) for name, value in own.items())


def test_what_cannot_be_frozen(two_set_run, runs, cli_here, image_sets, tmp_path):
    options = ("--ratio", "0", "--data-root", image_sets, *QUICK, "-o", tmp_path / "a.gems")
    assert "one image set" in cli_here("export", runs / "bmp", *options, "--for-data", "ink,tint", code=2).stderr
    off = stirred_run(two_set_run("bmp"), tmp_path / "off", bias=[-9.0] * 5 + [0.0])
    assert "does not adapt any layer" in cli_here("export", off, *options, "--for-data", "ink", code=2).stderr
    assert not (tmp_path / "a.gems").exists()
