import time

import numpy as np
import pytest
from data_making import make_set
from hypothesis import given, settings
from hypothesis import strategies as st

from gems_edge.data.episodes import divide_groups, make_sampler
from gems_edge.data.shots import UNEQUAL, Shots
from gems_edge.errors import UserError


def shots_for(ways: int, most: int = 5) -> st.SearchStrategy[Shots]:
    """One number, a range, or a number for each class."""
    number = st.integers(1, most)
    ranges = st.tuples(number, number).map(lambda ends: Shots(min(ends), max(ends)))
    each = st.lists(number, min_size=ways, max_size=ways).map(lambda counts: Shots.given(*counts))
    return st.one_of(number.map(Shots.given), ranges, each)


def of_classes(episode):
    """Of each class its images in the support set."""
    return [episode.support[episode.labels == row] for row in range(len(episode.classes))]


def check_counts(episode, shots):
    counts = np.bincount(episode.labels, minlength=len(episode.classes))
    assert (np.diff(episode.labels) >= 0).all() and len(episode.support) == len(episode.labels)
    assert shots.least <= counts.min() and counts.max() <= shots.most
    assert not shots.of_class or counts.tolist() == list(shots.of_class)


@settings(max_examples=100)
@given(
    data=st.data(),
    ways=st.integers(2, 5),
    queries=st.integers(1, 8),
    seed=st.integers(0, 2**31),
    extra=st.lists(st.integers(0, 5), min_size=12, max_size=12),
)
def test_ungrouped_episode(data, ways, queries, seed, extra):
    shots = data.draw(shots_for(ways))
    image_set = make_set([shots.most + queries + more for more in extra], ["train", "test"] * 6)
    sampler = make_sampler(image_set, "test", ways, shots, queries, seed)
    episode = sampler.draw(3, 1)
    check_counts(episode, shots)
    assert episode.query.shape == (ways, queries)
    assert len(set(episode.classes.tolist())) == ways
    assert set(image_set.split[episode.classes]) == {"test"}
    drawn = np.concatenate([episode.support, episode.query.reshape(-1)])
    assert len(set(drawn.tolist())) == drawn.size
    assert (image_set.label[episode.support] == episode.classes[episode.labels]).all()
    assert (image_set.label[episode.query] == episode.classes[:, None]).all()
    sampler.draw(0, 0)
    again = make_sampler(image_set, "test", ways, shots, queries, seed).draw(3, 1)
    for part in ("classes", "support", "labels", "query"):
        assert np.array_equal(getattr(again, part), getattr(episode, part))


@settings(max_examples=100)
@given(
    data=st.data(),
    sizes=st.lists(st.lists(st.integers(1, 6), min_size=2, max_size=9), min_size=3, max_size=3),
    queries=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_grouped_episode_shares_no_group(data, sizes, queries, seed):
    shots = data.draw(shots_for(3, most=4))
    counts = [sum(groups) for groups in sizes]
    group = np.concatenate([np.repeat(np.arange(len(groups)) + 100 * i, groups) for i, groups in enumerate(sizes)])
    image_set = make_set(counts, ["train"] * 3, group)
    try:
        sampler = make_sampler(image_set, "train", 3, shots, queries, seed)
    except UserError:
        # Refused only if some class really has no division: try all of its subsets of groups.
        assert any(not _divisible(groups, shots.most, queries) for groups in sizes)
        return
    assert all(_divisible(groups, shots.most, queries) for groups in sizes)
    for task in range(4):
        episode = sampler.draw(0, task)
        check_counts(episode, shots)
        for class_id, support, query in zip(episode.classes, of_classes(episode), episode.query):
            assert len(set(support.tolist()) | set(query.tolist())) == len(support) + queries
            assert (image_set.label[support] == class_id).all() and (image_set.label[query] == class_id).all()
            assert not set(group[support].tolist()) & set(group[query].tolist())


def test_a_range_draws_every_number_and_some_unequal_episodes():
    sampler = make_sampler(make_set([20] * 10, ["train"] * 10), "train", 5, Shots(1, 5), 4, 0)
    counts = np.array([np.bincount(sampler.draw(i, 0).labels, minlength=5) for i in range(600)])
    unequal = (counts != counts[:, :1]).any(1).mean()
    assert abs(unequal - UNEQUAL * (1 - 5.0**-4)) < 0.08
    shares = np.bincount(counts.reshape(-1), minlength=6)[1:] / counts.size
    assert abs(shares - 0.2).max() < 0.04 and abs(counts.mean() - Shots(1, 5).mean) < 0.15


def test_shots_in_words():
    for text in ("3", "1-5"):
        assert str(Shots.parse(text)) == text and Shots.from_value(Shots.parse(text).value, "here") == Shots.parse(text)
    assert Shots.parse("3").value == 3 and Shots.parse("1-5").value == "1-5" and Shots.parse("2-2") == Shots.given(2)
    assert Shots.parse_given("5,1,1").value == [5, 1, 1] and Shots.parse_given("2,2") == Shots.given(2)
    assert (Shots.given(5, 1, 1).images(3), Shots(1, 5).images(3)) == (7, 15)
    assert Shots(1, 5).ends == (Shots.given(1), Shots.given(5)) and Shots.given(5, 1).ends == (Shots.given(5, 1),)


@pytest.mark.parametrize("text", ["", "0", "-1", "1-", "5-1", "0-3", "1,2", "two", "1.5", "²"])
def test_shots_that_are_none(text):
    with pytest.raises(UserError, match=r"^--shots .*give"):
        Shots.parse(text)


@pytest.mark.parametrize("text", ["", "0", "1,0", "1-5", "1,", "x"])
def test_given_shots_that_are_none(text):
    with pytest.raises(UserError, match=r"^--shots .*give"):
        Shots.parse_given(text)


def _divisible(groups, shots, queries):
    subsets = range(1 << len(groups))
    inside = [sum(size for i, size in enumerate(groups) if subset >> i & 1) for subset in subsets]
    return any(images >= shots and sum(groups) - images >= queries for images in inside)


def test_support_comes_evenly_from_as_many_groups_as_possible():
    group = np.tile(np.repeat(np.arange(8), 3), 2)
    sampler = make_sampler(make_set([24, 24], ["test"] * 2, group), "test", 2, 5, 15, 0)
    for task in range(20):
        # 24 images, 15 of them queries: nine are left, three groups of three.
        used = [group[images] for images in of_classes(sampler.draw(0, task))]
        assert all(sorted(np.unique(row, return_counts=True)[1].tolist()) == [1, 2, 2] for row in used)


def test_division_that_random_orders_hardly_find():
    assert divide_groups([1, 5, 14], 5, 15) == frozenset({1})
    assert divide_groups([10, 10], 5, 15) is None
    sizes = [1] * 12 + [40, 28]
    group = np.concatenate([np.repeat(np.arange(len(sizes)), sizes)] * 2)
    # Only the group of 28 with nothing beside it can be the support set.
    sampler = make_sampler(make_set([80, 80], ["test"] * 2, group), "test", 2, 28, 52, 0)
    for task in range(10):
        assert (group[sampler.draw(0, task).support] == 13).all()


def test_numbers_of_a_draw_matter():
    sampler = make_sampler(make_set([20] * 10, ["train"] * 10), "train", 5, 1, 15, 0)
    draws = {sampler.draw(i, t).support.tobytes() for i in range(5) for t in range(5)}
    assert len(draws) == 25
    # Two splits with equal numbers of classes do not get equal tasks.
    both = make_set([20] * 20, ["train"] * 10 + ["test"] * 10)
    train, test = (make_sampler(both, split, 5, 1, 15, 0).draw(0, 0) for split in ("train", "test"))
    assert (train.classes != test.classes - 10).any()


def test_every_image_takes_both_roles_about_equally():
    sampler = make_sampler(make_set([10] * 5, ["train"] * 5), "train", 5, 2, 4, 1)
    support = np.bincount(np.concatenate([sampler.draw(i, 0).support for i in range(1000)]), minlength=50)
    assert support.sum() == 10_000 and abs(support - 200).max() < 70  # 5 standard deviations


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "split val has 0 classes, too few for 2-way episodes; add classes"),
        ({"ways": 3}, "split train has 2 classes, too few for 3-way episodes; add classes or use --ways 2"),
        (
            {"queries": 16},
            "class 'c1' (train) has 12 images, but 1 shots and 16 queries need 17; add images or use --queries 11",
        ),
        (
            {"shots": 12},
            "class 'c1' (train) has 12 images, but 12 shots and 5 queries need 17; add images or use fewer --shots",
        ),
        ({"split": "all"}, "unknown split 'all'; use train, val or test"),
        (
            {"shots": Shots(1, 12)},
            "class 'c1' (train) has 12 images, but 12 shots and 5 queries need 17; add images or use fewer --shots",
        ),
        ({"shots": Shots.given(2, 1, 1)}, "--shots 2,1,1 are 3 numbers for 2 ways; give one, or one for each"),
        ({"ways": 1}, "--ways is 1; it must be 2 or more"),
        ({"seed": -1}, "--seed is -1; it must be 0 or more"),
    ],
)
def test_refusals(options, message):
    image_set = make_set([20, 12, 20], ["train", "train", "test"])
    arguments = {"split": "train", "ways": 2, "shots": 1, "queries": 5, "seed": 0} | options
    with pytest.raises(UserError) as error:
        make_sampler(image_set, **arguments)
    assert message in str(error.value)


def test_class_of_one_group_is_named():
    image_set = make_set([20, 20], ["train"] * 2, [*range(20), *[50] * 20])
    with pytest.raises(UserError, match="class 'c1' \\(train\\) has 1 groups of near-duplicates"):
        make_sampler(image_set, "train", 2, 1, 5, 0)


def test_drawing_is_fast():
    sampler = make_sampler(make_set([20] * 500, ["train"] * 500), "train", 5, 1, 15, 0)
    times = []
    for i in range(300):
        start = time.perf_counter()
        sampler.draw(i, 0)
        times.append(time.perf_counter() - start)
    assert np.median(times) < 400e-6  # about 100 µs; a linear search through the labels would take several ms
