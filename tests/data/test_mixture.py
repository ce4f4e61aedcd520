"""Several image sets as one: how they are named, what their images become, and which of them a task comes from."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_making import make_set, write_tree
from hypothesis import given
from hypothesis import strategies as st

from gems_edge.data.episodes import make_sampler
from gems_edge.data.mixture import Mixture, MixtureSampler, load_mixture, mixture_sampler
from gems_edge.data.packed import write_packed
from gems_edge.data.sources import load_images
from gems_edge.data.specs import distribution_name, located, split_specs
from gems_edge.data.tensors import episode_tensors
from gems_edge.errors import UserError

SPLIT = ["train", "train", "train", "val", "val", "test", "test"]


def lines(size, channels, seed, inverted=False):
    """A set of random line drawings, dark on light paper unless `inverted` says that it is stored so and read light on
    dark; in colour the channels differ."""
    made = make_set([9] * 7, SPLIT, size=size, channels=channels, inverted=inverted)
    random = np.random.default_rng(seed)
    images = random.integers(200, 256, made.images.shape, dtype=np.uint8)
    ink = random.random((len(images), size, size, 1)) < 0.3
    ink[:, :2], ink[:, -2:], ink[:, :, :2], ink[:, :, -2:] = False, False, False, False
    images = np.where(ink, random.integers(0, 90, images.shape, dtype=np.uint8), images)
    return replace(made, images=255 - images if inverted else images)


@pytest.fixture
def sets(tmp_path):
    """ink.npz: grey and inverted; tint.npz: colour JPEGs; photos/: a folder of colour images; each of another size."""
    write_packed(lines(20, 1, 1, inverted=True), tmp_path / "ink.npz")
    write_packed(lines(30, 3, 2), tmp_path / "tint.npz")
    write_tree(tmp_path / "photos", classes=7, images=9, size=(36, 50))
    return tmp_path


def specs(place, *names):
    return tuple(f"packed:{place / name}.npz" if name != "photos" else f"folder:{place / name}" for name in names)


# What the user names


@given(st.lists(st.text("abz09:/._-", min_size=1), min_size=1))
def test_names_between_commas(names):
    assert split_specs(",".join(names)) == tuple(names)
    assert split_specs(" , ".join(names)) == tuple(names)


def test_a_path_with_commas_that_is_there_stays_whole(tmp_path):
    (tmp_path / "red, green").mkdir()
    (tmp_path / "a,b.npz").write_bytes(b"")
    folder, packed = f"folder:{tmp_path}/red, green", f"packed:{tmp_path}/a,b.npz"
    assert split_specs(folder) == (folder,) and distribution_name(folder) == "red, green"
    assert split_specs(packed) == (packed,) and distribution_name(packed) == "a,b"
    gone = f"folder:{tmp_path}/red, blue"
    assert split_specs(gone) == (f"folder:{tmp_path}/red", "blue")
    assert split_specs(f"glyphs,packed:{tmp_path}/c.npz") == ("glyphs", f"packed:{tmp_path}/c.npz")


@pytest.mark.parametrize("spec", ["", ",", "glyphs,", ",glyphs", "glyphs,,omniglot", "glyphs, "])
def test_empty_names(spec):
    with pytest.raises(UserError, match="empty"):
        split_specs(spec)


def test_located_means_the_same_from_anywhere(sets, monkeypatch, tmp_path):
    monkeypatch.chdir(sets)
    there = f"packed:{sets / 'ink.npz'}"
    assert located(("packed:ink.npz", "glyphs"), None) == (there, "glyphs")
    assert located(("ink", "glyphs"), Path(".")) == (there, "glyphs")  # NAME.npz where the root has it
    assert located(("ink", "glyphs"), None) == ("ink", "glyphs")
    assert located(("folder:photos", "ink"), sets) == (f"folder:{sets / 'photos'}", there)
    once = located(("tint", "folder:photos", "ink"), sets)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert located(once, Path("/nowhere")) == once
    assert load_mixture(once).names == ("tint", "photos", "ink")


def test_a_name_stands_for_one_set(sets):
    (sets / "other").mkdir()
    write_packed(lines(20, 1, 5), sets / "other" / "ink.npz")
    for other in ("ink", f"packed:{sets / 'ink.npz'}", f"packed:{sets}/other/ink.npz"):
        with pytest.raises(UserError, match="names ink twice"):
            load_mixture(("ink", other), root=sets)


# What the images become


def test_sizes_and_channels_are_unified_and_said(sets):
    said = []
    mixture = load_mixture(specs(sets, "ink", "tint", "photos"), say=said.append)
    assert mixture.shape == (20, 3) and mixture.images.shape == (3 * 63, 20, 20, 3)
    assert [one.images.shape for one in mixture.sets] == [(63, 20, 20, 3)] * 3
    assert np.array_equal(mixture.images[63:126], mixture.sets[1].images)
    (line,) = said
    assert "ink 20×20×1, tint 30×30×3, photos 84×84×3" in line and "20×20×3" in line
    load_mixture(specs(sets, "ink"), say=said.append)
    load_mixture(specs(sets, "tint"), image_size=28, channels=1, say=said.append)
    load_mixture(specs(sets, "tint", "photos"), image_size=28, say=said.append)
    assert len(said) == 1  # alike as they are asked for


@pytest.mark.parametrize("names", [("ink", "tint"), ("photos", "tint"), ("tint", "photos", "ink")])
def test_the_automatic_format_reads_what_the_explicit_one_does(sets, names):
    spec = specs(sets, *names)
    found = load_mixture(spec)
    size, channels = found.shape
    again = load_mixture(spec, image_size=size, channels=channels)
    assert np.array_equal(found.images, again.images)
    for number, name in enumerate(
        names
    ):  # and each set alone, as a multi-maml run's own run or `evaluate --data` reads it
        alone = load_mixture(specs(sets, name), image_size=size, channels=channels)
        assert np.array_equal(alone.images, found.alone(number).images) and found.alone(number).names == (name,)


def test_line_art_is_inverted_as_alone(sets):
    """By the file's word, by the border of a packed file that says nothing, and by that of a folder."""
    paper = lines(20, 1, 3)
    np.savez(
        sets / "bare.npz", images=paper.images, label=paper.label, split=paper.split, classes=np.array(paper.classes)
    )
    write_tree(sets / "sketches", classes=7, images=9, mode="L", paper=True, size=(20, 20))
    for spec in (*specs(sets, "ink", "bare"), f"folder:{sets / 'sketches'}"):
        alone = load_images(spec)
        mixture = load_mixture((spec, *specs(sets, "tint")))
        assert alone.inverted and np.median(alone.images[:, 0]) < 60
        assert np.array_equal(mixture.sets[0].images, np.repeat(alone.images, 3, 3))
        assert mixture.sets[0].inverted and not mixture.inverted  # photos for a board: not of all the sets
        assert mixture.alone(0).inverted
    # Asked for in grey, a set is read as it is alone; a drawing with crayons on white paper is line art then.
    write_tree(sets / "crayons", classes=7, images=9, paper=True, size=(20, 20))
    spec = f"folder:{sets / 'crayons'}"
    for channels, inverted in ((1, True), (3, False)):
        alone = load_images(spec, image_size=20, channels=channels)
        (found, _) = load_mixture((spec, *specs(sets, "ink")), image_size=20, channels=channels).sets
        assert alone.inverted == found.inverted == inverted and np.array_equal(alone.images, found.images)


# Which distribution a task comes from


def made_sampler(shares, seed):
    return MixtureSampler(tuple(map(str, range(len(shares)))), (None,) * len(shares), tuple(shares), seed)


def counted(sampler, iteration, meta_batch):
    sources = [sampler.source(iteration, task, meta_batch) for task in range(meta_batch)]
    return np.bincount(sources, minlength=len(sampler.samplers))


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 20), st.integers(0, 10**6), st.integers(0, 99)
)
def test_every_meta_batch_has_each_share_to_within_one(weights, meta_batch, iteration, seed):
    shares = np.array(weights) / sum(weights)
    counts = counted(made_sampler(shares, seed), iteration, meta_batch)
    assert counts.sum() == meta_batch and (np.abs(counts - meta_batch * shares) < 1 + 1e-9).all()


@given(st.integers(1, 8), st.integers(1, 4), st.integers(0, 10**6), st.integers(0, 99))
def test_alike_sets_get_equally_many_tasks(sets, each, iteration, seed):
    assert (counted(made_sampler([1 / sets] * sets, seed), iteration, sets * each) == each).all()


@pytest.mark.parametrize("weights, meta_batch", [((1, 1), 1), ((3, 1), 1), ((5, 2, 1), 3)])
def test_shares_hold_in_the_long_run(weights, meta_batch):
    shares, rounds = np.array(weights) / sum(weights), 2000
    counts = sum(counted(made_sampler(shares, 4), iteration, meta_batch) for iteration in range(rounds))
    assert np.abs(counts / (rounds * meta_batch) - shares).max() < 0.04  # 3.6 standard deviations of 2000 free draws


def mixture(sets):
    made = load_mixture(specs(sets, "ink", "tint"))
    return made, mixture_sampler(made, "train", 3, 2, 4, 7, weights=(2.0, 1.0), rotate=True)


def test_a_task_is_one_of_its_own_set(sets):
    """Its numbers are those of the set's own images, moved to where these lie, and its pixels are the same."""
    made, sampler = mixture(sets)
    tensors, seen = episode_tensors(made), set()
    alone = [replace(make_sampler(one, "train", 3, 2, 4, 7), rotate=True) for one in made.sets]
    assert sampler.ways == 3 and sampler.shares == pytest.approx((2 / 3, 1 / 3))
    for task in range(6):
        source, drawn = sampler.draw(11, task, 6)
        own = alone[source].draw(11, task)
        first = 63 * source
        assert np.array_equal(drawn.support, own.support + first) and np.array_equal(drawn.query, own.query + first)
        assert (
            first <= min(drawn.support.min(), drawn.query.min())
            and max(drawn.support.max(), drawn.query.max()) < first + 63
        )
        one, other = tensors.episode(drawn), episode_tensors(made.sets[source]).episode(own)
        for part in ("support_images", "support_labels", "query_images", "query_labels"):
            assert np.array_equal(getattr(one, part), getattr(other, part)), part
        label = made.sets[source].label
        assert (label[drawn.support - first] == drawn.classes[drawn.labels]).all()
        assert (label[drawn.query - first] == drawn.classes[:, None]).all()
        seen.add(source)
    assert seen == {0, 1}


def test_drawing_is_a_pure_function(sets):
    _, sampler = mixture(sets)
    order = [(iteration, task) for iteration in range(3) for task in range(4)]
    first = {key: sampler.draw(*key, 4) for key in order}
    _, anew = mixture(sets)
    for key in reversed(order):
        (source, one), (other, again) = first[key], anew.draw(*key, 4)
        assert source == other and np.array_equal(one.turns, again.turns)
        assert np.array_equal(one.support, again.support) and np.array_equal(one.query, again.query)
    assert not np.array_equal(first[0, 0][1].query, first[1, 0][1].query)


@pytest.mark.parametrize("weights", [(1,), (1, 2, 3), (0, 1), (-1, 2), (math.nan, 1), (math.inf, 1)])
def test_bad_weights(sets, weights):
    made = load_mixture(specs(sets, "ink", "tint"))
    with pytest.raises(UserError, match=r"--data-weights .*ink, tint"):
        mixture_sampler(made, "train", 3, 2, 4, 0, weights=weights)


def test_a_set_with_too_few_classes_is_named(sets):
    made = load_mixture(specs(sets, "ink", "tint"))
    few = Mixture(made.names, (made.sets[0], replace(made.sets[1], split=np.array(["train"] * 5 + ["val"] * 2))))
    mixture_sampler(few, "train", 3, 2, 4, 0)
    with pytest.raises(UserError, match=r"tint.*test has 0 classes"):
        mixture_sampler(few, "test", 2, 2, 4, 0)
