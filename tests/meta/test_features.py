"""Features of a trunk: what they are, when a file of them is used, and what happens where there is no room."""

import errno
import os
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_split import CONFIG, ONE, mixture, parted

from gems_edge.data.mixture import mixture_sampler
from gems_edge.data.tensors import episode_tensors
from gems_edge.errors import MachineError, UserError
from gems_edge.meta import features
from gems_edge.meta.features import EpisodeFeatures, episodes_of
from gems_edge.models.split import Trunk


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of this test's own; its directory of features."""
    monkeypatch.setenv("GEMS_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def computed(parts, images, splits=("train",), **options) -> tuple[EpisodeFeatures, int]:
    """The features, and how many images went through the trunk for them."""
    totals = []

    @contextmanager
    def phase(label, total):
        seen = []
        yield seen.append
        assert label == "features" and seen[-1] == total
        totals.append(total)

    found = episodes_of(parts, images, splits, ONE, phase, **options)
    return found, sum(totals)


def same(one: EpisodeFeatures, other: EpisodeFeatures) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one.parts, other.parts, strict=True))


def test_an_episode_has_what_the_trunk_gives():
    images, parts = mixture(), parted()
    found, count = computed(parts, images, ("train", "val"))
    assert count == 2 * 2 * (7 + 8) and [len(part) for part in found.parts] == [14, 14, 16, 16]
    pictures = episode_tensors(images)
    for split in ("train", "val"):
        sampler = mixture_sampler(images, split, 2, 1, 3, seed=1)
        for task in range(8):
            _, drawn = sampler.draw(0, task, 8)
            features, plain = found.episode(drawn), pictures.episode(drawn)
            assert torch.equal(features.query_labels, plain.query_labels)
            with torch.no_grad():
                for got, given in (
                    (features.support_images, plain.support_images),
                    (features.query_images, plain.query_images),
                ):
                    expected = parts.parts.trunk(parts.below, given)
                    assert got.shape[1:] == parts.learned.model.input_shape and got.dtype == torch.float32
                    assert got.is_contiguous(memory_format=torch.channels_last)
                    assert torch.allclose(got, expected, rtol=2e-3, atol=1e-5)


def test_of_some_sets_alone():
    found, count = computed(parted(), mixture(), ("test",), sets=[1])
    assert count == 16 and (found.part >= 0).sum() == 16


def test_below_the_head_features_are_vectors():
    images, parts = mixture(), parted(replace(CONFIG, learn_from="head"))
    found, _ = computed(parts, images)
    _, drawn = mixture_sampler(images, "train", 2, 1, 3, seed=1).draw(0, 0, 1)
    assert found.episode(drawn).support_images.shape == (2, parts.whole.model.spec.feature_size)


def test_the_next_command_finds_them(cache):
    first, count = computed(parted(), mixture())
    assert count == 30 and len(list(cache.glob("*.npy"))) == 2 and len(list(cache.iterdir())) == 2
    again, count = computed(parted(replace(CONFIG, head="per-class", ways=7)), mixture(), ("train", "val"))
    assert count == 30 and same(
        first, EpisodeFeatures((again.parts[0], again.parts[2]), again.part, again.row, ONE.device)
    )


@pytest.mark.parametrize(
    "other",
    [
        lambda: (parted(**{"backbone.features.0.1.bias": torch.ones(8)}), mixture()),
        lambda: (parted(replace(CONFIG, learn_from="features.8")), mixture()),
        lambda: (parted(), mixture(seed=1)),
    ],
    ids=["weights", "cut", "images"],
)
def test_features_of_others_are_not_used(other):
    first, _ = computed(parted(), mixture())
    found, count = computed(*other())
    assert count == 30 and not same(first, found)


def test_the_top_may_change():
    computed(parted(), mixture())
    assert computed(parted(**{"backbone.features.18.1.bias": torch.ones(320)}), mixture())[1] == 0


@pytest.mark.parametrize(
    "content",
    [
        lambda b: b[:-1],
        lambda b: b[:90],
        lambda b: b"",
        lambda b: b + b"\0",
        lambda b: b[::-1],
        lambda b: b[:-40] + bytes([b[-40] ^ 1]) + b[-39:],
    ],
    ids=["short", "header", "empty", "long", "turned", "bit"],
)
def test_a_damaged_file_is_not_used(cache, content):
    first, _ = computed(parted(), mixture())
    for path in cache.glob("*.npy"):
        path.write_bytes(content(path.read_bytes()))
    found, count = computed(parted(), mixture())
    assert count == 30 and same(first, found)
    assert computed(parted(), mixture())[1] == 0


def test_a_fifo_in_the_place_of_a_file_is_not_waited_for(cache):
    first, _ = computed(parted(), mixture())
    for path in cache.glob("*.npy"):
        path.unlink()
        os.mkfifo(path)
    found, count = computed(parted(), mixture())
    assert count == 30 and same(first, found)


def test_what_memory_does_not_hold_is_mapped(monkeypatch):
    first, _ = computed(parted(), mixture())
    shutil.rmtree(os.environ["GEMS_EDGE_CACHE"])
    monkeypatch.setattr(features, "MEMORY_SHARE", 0.0)
    for count in (30, 0):
        found, computed_now = computed(parted(), mixture())
        assert computed_now == count and same(first, found) and all(isinstance(p, np.memmap) for p in found.parts)


def full(*_):
    return shutil._ntuple_diskusage(10**9, 10**9, 0)


def test_a_full_disk_is_no_loss_where_memory_holds_them(cache, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", full)
    found, count = computed(parted(), mixture())
    assert count == 30 and not list(cache.iterdir())


def test_a_disk_that_fills_meanwhile_is_no_loss_where_memory_holds_them(cache, monkeypatch):
    def fails(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    assert computed(parted(), mixture())[1] == 30 and not list(cache.iterdir())
    monkeypatch.setattr(features, "MEMORY_SHARE", 0.0)
    with pytest.raises(OSError, match="No space left"):
        computed(parted(), mixture())
    assert not list(cache.iterdir())


def test_a_full_disk_is_known_before_anything_is_computed(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", full)
    monkeypatch.setattr(features, "MEMORY_SHARE", 0.0)
    with pytest.raises(MachineError, match="features of 14 images take 0.0 GB.*free some.*GEMS_EDGE_CACHE"):
        computed(parted(), mixture())


def test_old_features_make_room(cache, monkeypatch):
    computed(parted(), mixture())
    old, *_ = sorted(cache.glob("*.npy"))
    os.utime(old, (1, 1))
    left = cache / ".x.npy.abc.tmp"
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    monkeypatch.setattr(features, "KEPT_BYTES", sum(path.stat().st_size for path in cache.glob("*.npy")) + 100)
    computed(parted(), mixture(), ("val",), sets=[0])
    assert not old.exists() and not left.exists() and len(list(cache.iterdir())) == 2


def test_beyond_half_precision():
    with pytest.raises(UserError, match="features below features.7 are beyond half precision"):
        computed(parted(**{"backbone.features.6.conv.3.weight": torch.full((8,), 1e6)}), mixture())


def test_what_others_delete_or_own_is_no_loss(cache, monkeypatch):
    computed(parted(), mixture())
    gone = cache / "gone.npy"
    gone.symlink_to(cache / "nothing")  # listed, and not there when it is looked at
    monkeypatch.setattr(os, "utime", refused)
    found, count = computed(parted(), mixture(), ("train", "val"))
    assert count == 30 and len(found.parts) == 4


def refused(*_):
    raise PermissionError(errno.EPERM, "Operation not permitted")


def test_images_without_features_are_not_taken():
    found, _ = computed(parted(), mixture(), ("train",), sets=[0])
    _, drawn = mixture_sampler(mixture(), "val", 2, 1, 3, seed=1).draw(0, 0, 1)
    with pytest.raises(AssertionError, match="were not asked for"):
        found.episode(drawn)


def test_trunks_that_give_the_same_are_known_by_their_key():
    same_key = features.trunk_key(parted(replace(CONFIG, head="prototype", metric="euclidean", ways=7)))
    assert features.trunk_key(parted()) == same_key
    assert features.trunk_key(parted(replace(CONFIG, learn_from="features.8"))) != same_key


def test_a_trunk_computes_in_float32_without_gradients(monkeypatch):
    """Whatever torch's defaults are, which are the caller's between two batches."""
    inside, between, call = [], [], Trunk.__call__

    def seen(trunk, *arguments):
        inside.append((torch.backends.cudnn.allow_tf32, torch.is_grad_enabled()))
        return call(trunk, *arguments)

    @contextmanager
    def phase(*_):
        yield lambda _: between.append((torch.backends.cudnn.allow_tf32, torch.is_grad_enabled()))

    monkeypatch.setattr(Trunk, "__call__", seen)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    episodes_of(parted(), mixture(), ("train",), ONE, phase)
    assert set(inside) == {(False, False)} and set(between) == {(True, True)}
