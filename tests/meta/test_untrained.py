"""The bar: class means of the network as it was before training, on the episodes that a run is tested on."""

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_settings import EXPORT, SMALL

from gems_edge.data.mixture import load_mixture, mixture_sampler
from gems_edge.data.shots import Shots
from gems_edge.data.tensors import episode_tensors
from gems_edge.meta.evaluation.episodes import episode_accuracies, evaluate
from gems_edge.meta.evaluation.still import still_shares
from gems_edge.meta.evaluation.untrained import untrained
from gems_edge.meta.run import Run, seeded_weights
from gems_edge.meta.task_threads import TaskThreads
from gems_edge.models.fewshot import body

EPISODES = 6


@pytest.fixture(scope="module")
def run(cli_here, made_once):
    options = ("train", *SMALL, "--widths", "8", "--iterations", "3", "--normalization", "group", "-o")
    return made_once("untrained", lambda run: cli_here(*options, run))


@pytest.fixture(scope="module")
def drawn(run, environment):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])
        config = Run(run).config()
        images = load_mixture(config.data, image_size=config.image_size, channels=config.channels)
    return images, mixture_sampler(images, "test", 5, Shots(2, 2), 4, 1).samplers[0]


def test_it_is_the_nearest_class_mean_by_cosine(run, drawn):
    images, sampler = drawn
    config = Run(run).config()
    bar, tensors = untrained(Run(run), config), episode_tensors(images)
    weights = seeded_weights(config)
    expected = []
    for task in range(EPISODES):
        episode = tensors.episode(sampler.draw(0, task))
        support, queries = (
            F.normalize(body(bar.model, weights, part).features)
            for part in (episode.support_images, episode.query_images)
        )
        means = torch.stack([support[episode.support_labels == label].mean(0) for label in range(5)])
        nearest = F.cosine_similarity(queries[:, None], means[None], dim=2).argmax(1)
        expected.append(float((nearest == episode.query_labels).float().mean()))
    threads = TaskThreads(bar.model, EPISODES)
    shares = evaluate(
        threads, bar.weights, tensors, sampler, bar.rule, steps=[0], modes=["group"], tasks=range(EPISODES)
    )
    assert shares["group", 0] == pytest.approx(expected)


def test_images_that_are_computed_once_answer_alike(run, drawn):
    images, sampler = drawn
    bar, tensors = untrained(Run(run), Run(run).config()), episode_tensors(images)
    each = [
        episode_accuracies(bar.model, bar.weights, tensors.episode(sampler.draw(0, task)), 5, bar.rule, [0], ["group"])
        for task in range(EPISODES)
    ]
    expected = [shares["group", 0] for _, shares in each]
    assert still_shares(bar.model, bar.weights, tensors, sampler, range(EPISODES)) == pytest.approx(expected)


def test_it_stands_beside_every_accuracy(run, cli_here, tmp_path):
    result = json.loads(cli_here("evaluate", run, "--episodes", "4", "--shots", "1", "--json").stdout)
    assert result["untrained"].keys() == {"accuracy", "ci95"} and 0.2 < result["untrained"]["accuracy"] <= 1
    assert all("untrained" in entry for entry in result["distributions"].values())
    text = cli_here("evaluate", run, "--episodes", "4", "--shots", "1").stdout
    assert "untrained" in text and f"{100 * result['untrained']['accuracy']:.2f}" in text
    assert "training gained nothing here" in text  # 3 iterations of a head that starts from one row
    shutil.copytree(run, tmp_path / "run")  # export leaves a compact run there
    exported = cli_here("export", tmp_path / "run", *EXPORT, "-o", tmp_path / "small.gems", "--json")
    document = json.loads(exported.stdout)
    assert 0.2 < document["untrained"]["accuracy"] <= 1 and document["untrained"]["steps"] == 0
    of_bundle = cli_here("evaluate", tmp_path / "small.gems", "--episodes", "2", "--shots", "1", "--json").stdout
    assert np.isclose(json.loads(of_bundle)["untrained"]["accuracy"], document["untrained"]["accuracy"])


@pytest.mark.parametrize("method", ["bmp", "multi-maml"])
def test_of_several_image_sets_each_has_its_own(two_set_run, image_sets, cli_here, method):
    options = ("--data-root", image_sets, "--episodes", "4", "--shots", "1", "--json")
    result = json.loads(cli_here("evaluate", two_set_run(method), *options).stdout)
    bars = [entry["untrained"]["accuracy"] for entry in result["distributions"].values()]
    assert len(bars) == 2 and result["untrained"]["accuracy"] == pytest.approx(sum(bars) / 2)


def test_no_tasks_have_no_answers_and_progress_is_told(run, drawn):
    images, sampler = drawn
    bar, tensors = untrained(Run(run), Run(run).config()), episode_tensors(images)
    assert still_shares(bar.model, bar.weights, tensors, sampler, []) == []
    seen, threads = [], TaskThreads(bar.model, EPISODES)
    options = {"steps": [0], "modes": ["group"], "progress": seen.append}
    evaluate(threads, bar.weights, tensors, sampler, bar.rule, tasks=range(EPISODES), **options)
    assert seen == [EPISODES]
    assert evaluate(threads, bar.weights, tensors, sampler, bar.rule, tasks=range(0), **options) == {("group", 0): []}


def test_the_start_of_another_network_is_refused(run, cli_here, tmp_path):
    own = shutil.copytree(run, tmp_path / "run")
    shutil.copy(own / "last/checkpoint.safetensors", own / "initial.safetensors")
    told = cli_here("evaluate", own, "--episodes", "3", code=2).stderr
    assert "initial.safetensors does not fit the run's config: it has no backbone." in told


@pytest.mark.parametrize("ticket, known", [("rm", True), ("channel", False)])
def test_the_bar_of_a_ticket_needs_no_file_or_is_left_out(run, cli_here, tmp_path, ticket, known):
    file = tmp_path / "body.safetensors"
    shutil.copy(run / "weights.safetensors", file)
    options = {"rm": ("--ticket", "rm"), "channel": ("--ticket", "mwt", "--unit", "channel", "--round-to", "1")}
    cli_here(
        "train", *SMALL, "--widths", "8", "--iterations", "2", "--normalization", "group", "--init", file,
        *options[ticket], "--ratio", "0.4", "--learn-from", "all", "-o", tmp_path / "run",
    )  # fmt: skip
    with_file = json.loads(cli_here("evaluate", tmp_path / "run", "--episodes", "3", "--json").stdout)
    file.unlink()
    result = json.loads(cli_here("evaluate", tmp_path / "run", "--episodes", "3", "--json").stdout)
    assert result.get("untrained") == (with_file["untrained"] if known else None) and "untrained" in with_file
    assert result["accuracy"] == with_file["accuracy"]
    exported = json.loads(cli_here("export", tmp_path / "run", *EXPORT, "-o", tmp_path / "b.gems", "--json").stdout)
    assert (exported["untrained"] is not None) == known
