"""Training above a cut: on features it is what it is on images; the trunk stays; runs resume, evaluate and export."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gems_runs import LAYERS, OPTIONS, TWO_SETS
from safetensors.torch import load_file

from gems_edge.data.mixture import mixture_sampler
from gems_edge.data.tensors import episode_tensors
from gems_edge.meta.evaluation.document import EvaluationProtocol
from gems_edge.meta.evaluation.run import evaluate_run
from gems_edge.meta.meta_model import MetaModel, halves
from gems_edge.meta.outer import meta_loss
from gems_edge.meta.rules.registry import RULES, rule_of
from gems_edge.meta.run import Run, seeded_weights
from gems_edge.meta.start import resolve

SPLIT = (*TWO_SETS, "--normalization", "group", "--learn-from", "blocks.2")
METHODS = [method for method in RULES if method != "multi-maml"]


@pytest.fixture(scope="module")
def split_run(cli_here, image_sets, made_once):
    def run(method: str) -> Path:
        options = (*SPLIT, *OPTIONS.get(method, ()), "--data-root", image_sets, "--method", method)
        if RULES[method].needs_own_rows:
            options = (*options, "--head", "per-class")
        return made_once(f"split/{method}", lambda directory: cli_here("train", *options, "-o", directory))

    return run


def below(name: str) -> bool:
    return name.startswith(("backbone.blocks.0.", "backbone.blocks.1."))


@pytest.mark.parametrize("method", METHODS)
def test_the_trunk_stays_and_the_rest_learns(split_run, method):
    run = Run(split_run(method))
    assert run.config().learn_from == "blocks.2"
    start, weights, last = seeded_weights(run.config()), run.weights(), run.checkpoint().weights
    assert weights.keys() == start.keys() == last.keys()
    for name in start:
        assert torch.equal(start[name], last[name]) == below(name) or name.startswith("adapter."), name


@pytest.mark.parametrize("method", METHODS)
def test_on_features_it_is_what_it_is_on_images(split_run, image_sets, method):
    """Loss and meta-gradient of the whole network on images, and of the top on what the trunk gives of them."""
    run = Run(split_run(method))
    config, images = resolve(run.config(), image_sets)
    model, weights = run.model(config)
    whole = MetaModel(model, {n: w.requires_grad_(not below(n)) for n, w in weights.items()}, rule_of(config))
    parts, tensors = halves(whole, model.spec.cut), episode_tensors(images)
    sampler = mixture_sampler(images, "train", config.ways, config.shots, config.queries, 0)
    above = [weights[name] for name in parts.learned.weights]
    for task in range(2):
        episode = tensors.episode(sampler.draw(0, task, 2)[1])
        with torch.no_grad():
            support, query = (parts.parts.trunk(weights, i) for i in (episode.support_images, episode.query_images))
        found = []
        for learned, read in (
            (whole, episode),
            (parts.learned, replace(episode, support_images=support, query_images=query)),
        ):
            loss = meta_loss(learned.model, learned.weights, read, config, learned.rule).loss
            gradients = torch.autograd.grad(loss, above, allow_unused=True)
            found.append((loss.detach(), *(gradient for gradient in gradients if gradient is not None)))
        assert len(found[0]) == len(found[1]) > 3
        for plain, cached in zip(*found):
            assert (plain - cached).norm() <= 1e-5 * plain.norm() + 1e-9


def test_what_it_decides_is_of_the_layers_that_learn(split_run, image_sets):
    protocol = EvaluationProtocol(episodes=3, root=image_sets)
    for method in ("bmp", "mmsup"):
        document = evaluate_run(split_run(method), protocol, "cpu")
        assert document["layers"] == LAYERS[2:]


def test_an_evaluation_is_the_whole_networks(cli_here, image_sets, tmp_path):
    """Of the same weights in a run that learns from the start; half precision turns few answers round.

    A step of ANIL moves the head alone, so both take the same steps.
    """
    run, options = tmp_path / "run", ("--method", "anil", "--head", "prototype", "--steps", "2")
    cli_here("train", *SPLIT, *options, "--data-root", image_sets, "-o", run)
    protocol = EvaluationProtocol(episodes=20, root=image_sets, normalization="group")
    copy = shutil.copytree(run, tmp_path / "whole")
    config = copy / "config.toml"
    config.write_text(config.read_text().replace('learn_from = "blocks.2"', 'learn_from = ""'))
    (copy / "config.sha256").unlink()
    parted, whole = (evaluate_run(each, protocol, "cpu") for each in (run, copy))
    assert whole["accuracy"] > 0.3  # chance is 0.2
    assert abs(parted["accuracy"] - whole["accuracy"]) < 0.02 and parted["distributions"].keys() == {"ink", "tint"}


def test_multi_maml(cli_here, image_sets, tmp_path):
    run, options = tmp_path / "multi", ("--data-root", image_sets)
    cli_here("train", *SPLIT, *options, "--method", "multi-maml", "-o", run)
    for name in ("ink", "tint"):
        part = Run(run / "distributions" / name)
        start = seeded_weights(part.config())
        assert all(torch.equal(start[n], w) == below(n) for n, w in part.checkpoint().weights.items())
    protocol = EvaluationProtocol(episodes=3, root=image_sets)
    assert evaluate_run(run, protocol, "cpu")["distributions"].keys() == {"ink", "tint"}


@pytest.mark.parametrize("ticket", [("--ticket", "mwt", "--ratio", "0.5"), ("--ticket", "pmt", "--ratio", "0.5"),
                                    ("--ticket", "snip", "--ratio", "0.3", "--scope", "layer")])  # fmt: skip
def test_tickets(cli_here, image_sets, tmp_path, ticket):
    cli_here("train", *SPLIT, "--data-root", image_sets, *ticket, "-o", tmp_path / "run")
    run = Run(tmp_path / "run")
    masks, start, last = run.ticket(run.config()).masks, run.initial(), run.checkpoint().weights
    assert not any(below(name) for name in masks) and "head.weight" in masks
    assert all(torch.equal(start[name], last[name]) for name in start if below(name))
    assert evaluate_run(tmp_path / "run", EvaluationProtocol(episodes=2, root=image_sets), "cpu")["episodes"] == 2


@pytest.mark.slow(20)
def test_a_killed_run_goes_on_to_the_same_bits(cli_here, environment, image_sets, tmp_path):
    """The second time its features are computed anew."""
    whole, run, cache = (tmp_path / name for name in ("whole", "run", "cache"))
    options = [*SPLIT, "--data-root", str(image_sets), "--method", "maml", "--iterations", "40"]
    cli_here("train", *options, "-o", whole)
    cache.mkdir()
    command = [sys.executable, "-m", "gems_edge", "train", *options, "-o", str(run)]
    settings = {"env": environment | {"GEMS_EDGE_CACHE": str(cache)}, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, **settings)
    while process.poll() is None and not (run / "last" / "checkpoint.safetensors").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert list((cache / "features").glob("*.npy"))
    shutil.rmtree(cache / "features")
    assert subprocess.run([*command, "--resume"], **settings).returncode == 0
    assert (run / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    expected, found = (load_file(each / "last" / "checkpoint.safetensors") for each in (whole, run))
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)


def test_kept_and_drawn_weights_are_whole(cli_here, image_sets, tmp_path):
    options = ("--data-root", image_sets, "--keep", "2", "--keep-general", "0.8", "-o", tmp_path / "run")
    cli_here("train", *SPLIT, *options)
    run = Run(tmp_path / "run")
    start = seeded_weights(run.config())
    for weights in (run.kept(2), run.weights(), run.trained()):
        assert weights.keys() == start.keys() and all(torch.equal(w, start[n]) for n, w in weights.items() if below(n))


@pytest.mark.slow(30)
@pytest.mark.parametrize("method", ["maml", "bmp"])
def test_its_bundle_has_the_trunk(cli_here, split_run, image_sets, tmp_path, method):
    options = ("--ratio", "0.4", "--recover-iterations", "2", "--episodes", "4", "--data-root", image_sets)
    options = (*options, "--for-data", "ink") if method == "bmp" else options
    run = shutil.copytree(split_run(method), tmp_path / method)
    result = cli_here("export", run, *options, "--round-to", "1", "-o", tmp_path / "b.gems", "--json")
    manifest = json.loads((tmp_path / "b.gems" / "manifest.json").read_text())
    assert json.loads(result.stdout) and manifest["trunk"]["cut"] in ("blocks.2", "blocks.3", "head")
    assert manifest["trunk"]["cut"] == "blocks.2" or method == "bmp"


@pytest.mark.parametrize(
    "options, message",
    [
        (
            ("--learn-from", "blocks.9"),
            "--learn-from blocks.9: conv4 has no such layer or block; choose one of blocks.1",
        ),
        (("--learn-from", "9"), "--learn-from 9: conv4 has no 9 blocks"),
        (("--normalization", "support"), "depends on the batch; use --normalization group or frozen"),
        (("--rotate-classes",), "--learn-from blocks.2 with --rotate-classes: features of turned images"),
        (("--learn-from", "head", "--method", "boil", "--head", "per-class"), "leaves nothing to learn"),
        (
            ("--ticket", "mwt", "--unit", "channel"),
            "--unit channel with --learn-from blocks.2: what stays as it is would lose channels and never learn to do "
            "without; add --learn-from all",
        ),
    ],
)
def test_what_is_refused(cli_here, image_sets, tmp_path, options, message):
    result = cli_here(
        "train", *SPLIT, "--data", "ink", *options, "--data-root", image_sets, "-o", tmp_path / "run", code=2
    )
    assert message in result.stderr and not (tmp_path / "run").exists()


def test_how_the_place_is_named(cli_here, image_sets, tmp_path):
    for number, (given, stored) in enumerate(
        (("2", "blocks.2"), ("0", "head"), ("all", "all"), ("blocks.1.conv", "blocks.1"))
    ):
        run = tmp_path / str(number)
        cli_here("train", *SPLIT, "--learn-from", given, "--iterations", "0", "--data-root", image_sets, "-o", run)
        assert Run(run).config().learn_from == stored
        cli_here("train", "--resume", "-o", run, "--data-root", image_sets)


def test_a_start_from_a_file_is_kept_whole_and_is_the_bar(split_run, image_sets, cli_here, tmp_path):
    file = tmp_path / "body.safetensors"
    shutil.copy(split_run("maml") / "weights.safetensors", file)
    options = (*SPLIT, "--head", "prototype", "--steps", "0", "--init", file, "--data-root", image_sets)
    cli_here("train", *options, "-o", tmp_path / "run")
    start, body = load_file(tmp_path / "run" / "initial.safetensors"), load_file(file)
    assert start.keys() == Run(tmp_path / "run").weights().keys()
    assert all(torch.equal(start[name], body[name]) for name in start if name.startswith("backbone."))
    file.unlink()  # the run has all it needs
    cli_here("train", "--resume", "-o", tmp_path / "run", "--data-root", image_sets)
    evaluate = ("evaluate", tmp_path / "run", "--episodes", "3", "--data-root", image_sets, "--json")
    assert 0 < json.loads(cli_here(*evaluate).stdout)["untrained"]["accuracy"] < 1


def test_what_lost_channels_learns_as_a_whole_and_is_not_drawn_back(split_run, image_sets, cli_here, tmp_path):
    run = tmp_path / "run"
    options = (*SPLIT, "--head", "prototype", "--steps", "0", "--keep-general", "0.5", "--data-root", image_sets)
    cli_here("train", *options, "--init", split_run("maml") / "weights.safetensors", "-o", run)
    export = ("export", run, "--recover-iterations", "2", "--episodes", "2", "--data-root", image_sets, "--json")
    dense = json.loads(cli_here(*export, "-o", tmp_path / "dense.gems").stdout)
    assert dense["ratio"] == 0  # the default of a network that did not start at random
    pruned = json.loads(cli_here(*export, "--ratio", "0.4", "-o", tmp_path / "pruned.gems").stdout)
    assert pruned["ratio"] > 0.3
    (recovered,) = (Run(path) for path in (run / "compact").iterdir())
    start, weights = recovered.initial(), recovered.weights()
    assert not recovered.trained_path.exists()
    assert any(below(name) and not torch.equal(weights[name], start[name]) for name in weights)
