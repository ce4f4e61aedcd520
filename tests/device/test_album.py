"""Classes and photos that come, go and move: what always holds."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gems_edge.device.album import (
    Album,
    Photo,
    Version,
    added,
    capped,
    check_name,
    dropped,
    forgotten,
    moved,
    news_of,
    renamed,
)
from gems_edge.device.history import history_document, history_of, next_number
from gems_edge.device.representative import representatives, vector
from gems_edge.errors import UserError

NAMES = st.sampled_from(["mug", "cup", "a/b", "👩‍🔬 tea", "<b>x</b>", 7])
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.tuples(NAMES, st.integers(0, 15)), min_size=1, max_size=6)),
        st.tuples(st.just("forget"), NAMES),
        st.tuples(st.just("rename"), NAMES, NAMES),
        st.tuples(st.just("move"), st.integers(1, 20), NAMES),
        st.tuples(st.just("drop"), st.integers(1, 20)),
    ),
    max_size=12,
)


def lesson(pairs, first):
    return [Photo(first + i, name, f"picture {picture}", "", f"{picture:032x}.safetensors")
            for i, (name, picture) in enumerate(pairs)]  # fmt: skip


def first_ones(photos, most, newest):
    ranked = [*newest, *(photo for photo in photos if photo not in newest)]
    return {photo.number for photo in ranked[:most]}


def changed(album, change, first):
    kind, *rest = change
    if kind == "add":
        news = news_of(album, lesson(*rest, first))
        return capped(added(album, news), news, 3, first_ones)
    return {"forget": forgotten, "rename": renamed, "move": moved, "drop": dropped}[kind](album, *rest)


@given(CHANGES)
def test_an_album_stays_in_order_whatever_changes(changes):
    versions = [Version(Album(), 0, "")]
    for change in changes:
        album = versions[-1].album
        try:
            after = changed(album, change, next_number(versions))
        except UserError as error:
            assert "\n" not in str(error)
            continue
        versions.append(Version(after, 5, str(change)))
        assert {photo.label for photo in after.photos} == set(after.classes)
        places = [(after.classes.index(photo.label), photo.number) for photo in after.photos]
        assert places == sorted(places) and len({number for _, number in places}) == len(places)
        assert len({photo.picture for photo in after.photos}) == len(after.photos)
        stayed = [name for name in album.classes if name in after.classes]
        assert change[0] == "rename" or list(after.classes[: len(stayed)]) == stayed
        if change[0] == "add":
            assert all(len(after.of(name)) <= 3 for name, _ in change[1])
    assert history_of(json.loads(json.dumps(history_document(versions)))) == tuple(versions)


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "\n"])
def test_blank_and_endless_names_are_refused(name):
    with pytest.raises(UserError) as caught:
        check_name(name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    str(caught.value).encode()


@pytest.mark.parametrize("name", ["a/b", "..", "👩‍🔬", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "<script>alert(1)</script>", "x" * 100, "茶", 7, 1.5])
def test_other_names_are_taken_as_they_are(name):
    assert check_name(name) == name


def test_one_picture_under_two_names_is_refused():
    with pytest.raises(UserError, match="given as mug and as cup"):
        news_of(Album(), lesson([("mug", 1), ("cup", 1)], 1))


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 12), st.just(3)), elements=st.floats(-1, 1, width=32)),
    st.integers(1, 12), st.data(),
)  # fmt: skip
def test_representatives_are_so_many_with_the_fixed_ones(vectors, most, data):
    fixed = data.draw(st.sets(st.integers(0, len(vectors) - 1)))
    chosen = representatives(vectors, most, fixed)
    assert chosen == sorted(set(chosen)) and len(chosen) == min(most, len(vectors))
    assert set(fixed) <= set(chosen) if len(fixed) <= most else set(chosen) <= set(fixed)


def test_herding_takes_what_brings_the_mean_nearest():
    vectors = np.array([[0], [10], [5], [5.1], [9]], np.float32)  # their mean is 5.82
    assert representatives(vectors, 1) == [3]
    assert representatives(vectors, 2) == [2, 3]  # (5 + 5.1) / 2 is nearer than (5.1 + 9) / 2
    assert representatives(vectors, 2, {4}) == [2, 4]  # 7, of 7.05 and 4.5


@pytest.mark.parametrize(
    "fed, length",
    [(np.ones((4, 3, 3), np.float16), 4), (np.ones(9, np.float16), 9), (np.ones((20, 20, 3), np.uint8), 192)],
)  # fmt: skip
def test_what_photos_are_compared_by(fed, length):
    assert vector(fed).shape == (length,) and np.linalg.norm(vector(fed)) == pytest.approx(1)
    assert not vector(np.zeros_like(fed)).any()
