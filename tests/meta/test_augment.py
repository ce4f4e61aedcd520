"""Augmentation: what it does to images, whom it does it to, and that a training with it can be repeated."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from gems_runs import TWO_SETS
from small_split import CONFIG, ONE, mixture, parted

from gems_edge.data.mixture import mixture_sampler
from gems_edge.data.shots import Shots
from gems_edge.data.tensors import episode_tensors
from gems_edge.meta.augment import AUGMENTATIONS, STRENGTHS, Augmentation, augmentation_of, of_task, of_view
from gems_edge.meta.features import BATCH, episodes_of
from gems_edge.meta.run import Run
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.meta.train import train

LIGHT, STRONG = (Augmentation(STRENGTHS[name], 32, 3) for name in ("light", "strong"))
SPLIT = (*TWO_SETS, "--normalization", "group", "--learn-from", "blocks.2")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of this test's own; its directory of features."""
    monkeypatch.setenv("GEMS_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def images(channels: int = 3) -> torch.Tensor:
    return torch.rand(6, channels, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("augmentation", [LIGHT, STRONG])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_stay_images(augmentation, channels, dtype):
    plain = images(channels).to(dtype)
    changed = augmentation(plain, of_view(1))
    assert changed.shape == plain.shape and changed.dtype == dtype
    assert 0 <= changed.min() and changed.max() <= 1 and changed.std() > 0.05
    assert all((one - other).abs().max() > 0.01 for one, other in zip(plain, changed))


def test_every_image_has_random_numbers_of_its_own():
    alike = images()[:1].expand(6, -1, -1, -1).contiguous()
    changed = LIGHT(alike, of_view(1))
    assert all(not torch.equal(changed[0], other) for other in changed[1:])


def test_the_same_numbers_give_the_same_images_and_torchs_own_are_left():
    plain = images()
    torch.manual_seed(5)
    first = STRONG(plain, of_task(1, 2, 3))
    drawn = torch.rand(3)
    assert torch.equal(first, STRONG(plain, of_task(1, 2, 3))) and not torch.equal(
        first, STRONG(plain, of_task(1, 2, 4))
    )
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))


def test_light_mirrors_nothing_and_keeps_most_of_an_image():
    """Of an image that is dark on the left and light on the right."""
    ramp = torch.linspace(0.2, 0.8, 32).expand(200, 1, 32, 32).contiguous()

    def slopes(augmentation: Augmentation) -> torch.Tensor:
        changed = augmentation(ramp, of_view(1))
        return (changed[:, 0, :, -1] - changed[:, 0, :, 0]).mean(1) / 0.6

    light, strong = slopes(LIGHT), slopes(STRONG)
    assert light.min() > 0.68 and light.max() < 1.22  # √(0.8 / 1.1) of the width or more, times colours
    assert 0.35 < (strong < 0).float().mean() < 0.65


def test_settings_name_what_there_is():
    assert AUGMENTATIONS == ("none", "light", "strong") and augmentation_of(TrainConfig()) is None
    made = augmentation_of(TrainConfig(augment="strong", image_size=32, views=3))
    assert made == STRONG and "RandomHorizontalFlip" in made.text and "Flip" not in LIGHT.text


def drawn_episode(split: str = "train"):
    return mixture_sampler(mixture(), split, 2, 1, 3, seed=1).draw(0, 0, 1)[1]


def test_without_a_cut_an_episodes_images_are_changed():
    config = replace(CONFIG, learn_from="")
    whole = episodes_of(parted(config), mixture(), ("train", "val"), ONE, augmentation=LIGHT)
    plain, indices = episode_tensors(mixture()).episode(drawn_episode()), drawn_episode()
    assert torch.equal(whole.episode(indices).support_images, plain.support_images)
    changed = [whole.episode(indices, random=of_task(0, 4, task)) for task in (0, 0, 1)]
    for part in ("support_images", "query_images"):
        first, again, other = (getattr(each, part) for each in changed)
        assert torch.equal(first, again) and not torch.equal(first, other)
        assert not torch.equal(first, getattr(plain, part)) and first.shape == getattr(plain, part).shape


def test_above_a_cut_views_are_kept_beside_the_images(cache):
    compute = partial(episodes_of, parted(), mixture(), ("train", "val"), ONE)
    plain = compute()
    files = set(cache.glob("*.npy"))
    found = compute(augmentation=LIGHT)
    assert all(np.array_equal(one, other) for one, other in zip(plain.parts, found.parts, strict=True))
    assert files < set(cache.glob("*.npy"))  # those of the images themselves are used again
    assert {part: len(views) for part, views in found.views.items()} == {0: 2, 2: 2}  # train of both sets
    kept = found.views[0]
    assert kept[0].shape == plain.parts[0].shape and not np.array_equal(kept[0], kept[1])
    assert not np.array_equal(kept[0], plain.parts[0])
    again = compute(augmentation=replace(LIGHT, views=2))
    assert np.array_equal(again.views[0][0], kept[0]) and len(again.views[0]) == 1
    assert not np.array_equal(compute(augmentation=STRONG).views[0][0], kept[0])


def test_a_view_is_what_the_trunk_gives_of_the_changed_images():
    parts, sets = parted(), mixture()
    found = episodes_of(parts, sets, ("train",), ONE, augmentation=LIGHT, sets=[0])
    numbers = np.flatnonzero(np.isin(sets.sets[0].label, sets.sets[0].of_split("train")))
    pixels = episode_tensors(sets).taken(numbers, torch.float32)
    with torch.no_grad():
        expected = parts.parts.trunk(parts.below, LIGHT(pixels, of_view(2)))
    assert np.allclose(found.views[0][1], expected.permute(0, 2, 3, 1).numpy(), rtol=2e-3, atol=1e-4)
    assert len(numbers) < BATCH


def test_each_image_of_a_training_episode_takes_a_view():
    found = episodes_of(parted(), mixture(), ("train", "val"), ONE, augmentation=LIGHT)
    indices, rows = drawn_episode(), []
    part = int(found.part[indices.query[0, 0]])
    views = np.stack([found.parts[part], *found.views[part]])
    for task in range(40):
        queries = found.episode(indices, random=of_task(0, 0, task)).query_images.permute(0, 2, 3, 1).half().numpy()
        for number, features in zip(indices.query.reshape(-1), queries):
            (view,) = [v for v in range(3) if np.array_equal(views[v, found.row[number]], features)]
            rows.append(view)
    assert np.bincount(rows, minlength=3).min() > 0.25 * len(rows)
    validation = drawn_episode("val")
    seeded = found.episode(validation, random=of_task(0, 0, 0))
    assert torch.equal(seeded.query_images, found.episode(validation).query_images)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("learn_from", ["blocks.2", ""])
def test_a_stopped_run_goes_on_to_the_same_bits(image_sets, cache, tmp_path, learn_from):
    """From its second checkpoint; what features there were are gone."""
    config = TrainConfig(
        data=("ink", "tint"), widths=(8,), shots=Shots.given(1), queries=3, steps=2, normalization="group",
        meta_batch=2, iterations=6, validate_every=3, validation_episodes=4, checkpoint_every=2, compute="cpu",
        learn_from=learn_from, augment="strong", views=3 if learn_from else 4,
    )  # fmt: skip

    def stop(record):
        if record["iteration"] == 5:
            raise Stopped

    whole, stopped = Run(tmp_path / "whole"), Run(tmp_path / "stopped")
    train(whole, config, root=image_sets)
    with pytest.raises(Stopped):
        train(stopped, config, progress=stop, root=image_sets)
    assert stopped.checkpoint().iteration == 4
    shutil.rmtree(cache, ignore_errors=True)
    train(stopped, config, resume=True, root=image_sets)
    expected, found = whole.checkpoint().tensors, stopped.checkpoint().tensors
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)


def test_what_is_learned_depends_on_it_and_validation_does_not(cli_here, image_sets, tmp_path):
    options = (*SPLIT, "--data-root", image_sets, "--iterations", "0")
    lines = []
    for name in AUGMENTATIONS:
        cli_here("train", *options, "--augment", name, "-o", tmp_path / name)
        *_, line = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        lines.append(line["accuracy"])
    assert lines[0] == lines[1] == lines[2]
    trained = []
    for name in AUGMENTATIONS:
        cli_here("train", *options, "--iterations", "2", "--augment", name, "-o", tmp_path / f"{name}-2")
        trained.append(Run(tmp_path / f"{name}-2").checkpoint().weights["head.weight"])
    assert not torch.equal(trained[0], trained[1]) and not torch.equal(trained[1], trained[2])


@pytest.mark.parametrize(
    "options, message",
    [
        (("--augment", "weak"), "weak"),
        (("--views", "3"), "--views 3 belongs to --augment light or strong; add one, or leave it out"),
        (("--views", "0", "--augment", "light"), "--views"),
        (("--views", "1", "--augment", "light"), "--views 1: the one view is the image itself; take 2 or more"),
    ],
)
def test_what_is_refused(cli_here, image_sets, tmp_path, options, message):
    result = cli_here("train", *SPLIT, *options, "--data-root", image_sets, "-o", tmp_path / "run", code=2)
    assert message in result.stderr and not (tmp_path / "run").exists()


def test_a_config_with_views_can_be_used_without_augmentation(cli_here, image_sets, tmp_path):
    options = ("--data-root", image_sets, "--iterations", "0")
    cli_here("train", *SPLIT, *options, "--augment", "light", "--views", "2", "-o", tmp_path / "one")
    cli_here(
        "train", "--config", tmp_path / "one" / "config.toml", *options, "--augment", "none", "-o", tmp_path / "two"
    )
    config = Run(tmp_path / "two").config()
    assert (config.augment, config.views) == ("none", TrainConfig.views)
