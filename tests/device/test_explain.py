"""Have I taught enough? Against a plain leave-one-out that makes every class mean anew, and through a learner."""

import json

import handmade as hm
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gems_edge.device import Learner
from gems_edge.device.album import Album, Photo, in_order
from gems_edge.device.confusion import leave_one_out, wilson
from gems_edge.device.explanation import ENOUGH, explained
from gems_edge.device.photos import Kept
from gems_edge.errors import UserError

SPLIT = {"method": "anil", "normalization": "group", "split": True}


def album_of(labels, features):
    """Photos numbered from 1, in an album and by picture."""
    photos = [Photo(number, f"kind {label}", f"p{number}") for number, label in enumerate(labels, 1)]
    kept = {p.picture: Kept(np.asarray(row, np.float16), b"") for p, row in zip(photos, features)}
    return in_order([photo.label for photo in photos], photos), kept


def plainly(album, kept, gone=()):
    """Number of photo → what it is taken for, of photos that can be asked, in float64 and without those of `gone`."""
    vectors = {}
    for photo in album.photos:
        value = kept[photo.picture].fed.astype(np.float32).astype(np.float64)
        vectors[photo.number] = value / np.linalg.norm(value)
    guesses = {}
    for asked in album.photos:
        cosines = {}
        for name in album.classes:
            others = [vectors[p.number] for p in album.of(name) if p is not asked and p.number not in gone]
            if others:
                mean = np.mean(others, axis=0)
                cosines[name] = mean @ vectors[asked.number] / np.linalg.norm(mean)
        if len(album.of(asked.label)) > 1 and asked.number not in gone:
            guesses[asked.number] = max(cosines, key=cosines.get)
    return guesses


@given(st.lists(st.integers(0, 2), min_size=4, max_size=14).filter(lambda labels: len(set(labels)) > 1), st.integers())
def test_each_photo_is_asked_of_the_others_alone(labels, seed):
    features = np.random.default_rng(abs(seed)).normal(0.5, 1, (len(labels), 6))
    album, kept = album_of(labels, features)
    left_out, guesses = leave_one_out(album, kept), plainly(album, kept)
    if not guesses:
        assert left_out is None
        return
    truth = {photo.number: photo.label for photo in album.photos}
    wrong = {number: guess for number, guess in guesses.items() if guess != truth[number]}
    assert left_out.asked == len(guesses)
    assert {photo.number: guess for photo, guess in left_out.confused} == wrong
    if left_out.pull:
        number = left_out.pull.photo.number
        without = plainly(album, kept, {number})
        before = sum(guess == truth[n] for n, guess in guesses.items() if n != number)
        assert left_out.pull.righted == sum(guess == truth[n] for n, guess in without.items()) - before > 0


@given(st.integers(1, 300).flatmap(lambda asked: st.tuples(st.integers(0, asked), st.just(asked))))
def test_the_interval_holds_the_share_and_narrows(pair):
    right, asked = pair
    low, high = wilson(right, asked)
    wider = wilson(0, 0)
    assert 0 <= low <= right / asked <= high <= 1 and high - low < wider[1] - wider[0]
    assert wilson(10 * right, 10 * asked)[1] - wilson(10 * right, 10 * asked)[0] < high - low


def test_the_interval_is_as_published():
    """Newcombe 1998, table I: 81 of 263, and 0 of 20, by Wilson's method without correction."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=1e-4)


def explain(labels, features, steps=0):
    return explained(*album_of(labels, features), True, steps)


# Three classes along three axes; the last photo of kind 0 shows kind 1.
AXES = np.eye(3)
TAUGHT = [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_photo_that_shows_another_class_is_named():
    explanation = explain(TAUGHT, [AXES[label] for label in (0, 0, 1, 1, 1, 1, 2, 2, 2)])
    [(photo, guess)] = explanation.left_out.confused
    assert (photo.number, guess) == (3, "kind 1") and explanation.wish.name == "kind 0"
    assert "photo 3 (kind 0) looks like kind 1" in explanation.lines()
    assert "another photo would help kind 0 most: it has 3, 2 of 3 right when left out" in explanation.lines()


def test_a_photo_that_pulls_its_class_away_is_named():
    """Without photo 4 both others of kind 0 are nearer to their own mean than to kind 1's."""
    features = [[1, 0.7, 0], [1, 0.7, 0], [1, 0.7, 0], [-3, 1, 8], [1, 1, 0], [1, 1, 0], [1, 1, 0]]
    explanation = explain([0, 0, 0, 0, 1, 1, 1], features)
    pull = explanation.left_out.pull
    assert pull.photo.number == 4 and pull.righted == 3
    said = "photo 4 pulls kind 0 away: without it 3 more photos would be right; is it kind 0?"
    assert said in explanation.lines()
    assert explanation.to_json()["pulls_away"] == {"photo": 4, "class": "kind 0", "righted": 3}


def test_enough_is_said_where_nothing_is_missing():
    labels = np.repeat([0, 1, 2], ENOUGH)
    explanation = explain(labels, AXES[labels])
    assert explanation.wish is None and explanation.left_out.pull is None
    assert (
        explanation.lines()[0]
        == "each photo left out in turn, 100 % of 15 photos right; of new photos probably 80 to 100 %"
    )
    assert explanation.lines()[1].startswith("enough is taught")
    fewer = explain(labels[:-1], AXES[labels[:-1]])
    assert fewer.wish.name == "kind 2" and fewer.wish.photos == ENOUGH - 1
    assert "a rough figure" in explain(labels, AXES[labels], steps=5).lines()[0]


def test_a_class_of_one_photo_wants_another_and_is_not_asked():
    explanation = explain([0, 0, 1], AXES[[0, 0, 1]])
    assert explanation.left_out.asked == 2 and (explanation.wish.name, explanation.wish.asked) == ("kind 1", 0)
    alone = explain([0, 1], AXES[[0, 1]])
    assert alone.left_out is None and "no class has two photos" in alone.lines()[0]


def test_many_confusions_are_counted_and_all_in_json():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    explanation = explain(labels, generator.normal(0, 1, (40, 8)))
    confused = len(explanation.left_out.confused)
    assert confused > 8 and sum("looks like" in line for line in explanation.lines()) == 8
    assert f"and {confused - 8} other photos" in explanation.lines()
    assert len(explanation.to_json()["leave_one_out"]["confusions"]) == confused


def test_a_learner_explains_what_it_was_taught_and_after_it_was_loaded(tmp_path):
    learner = Learner.load(hm.write_bundle(tmp_path / "h.gems", **SPLIT), threads=1)
    with pytest.raises(UserError, match="nothing was taught"):
        learner.explain()
    learner.adapt(*hm.pictures(3, 3))
    explanation = learner.explain()
    assert explanation.rough and explanation.left_out.asked == 9
    learner.save(tmp_path / "s.state")
    other = Learner.load(tmp_path / "h.gems", threads=1)
    other.load_state(tmp_path / "s.state")
    assert json.loads(json.dumps(other.explain().to_json())) == explanation.to_json()
    learner.forget("kind 2")
    assert learner.explain().left_out.asked == 6


def test_lost_photos_are_left_out_of_the_forecast(tmp_path):
    learner = Learner.load(hm.write_bundle(tmp_path / "h.gems", **SPLIT), threads=1)
    learner.adapt(*hm.pictures(2, 2))
    learner.save(tmp_path / "s.state")
    other = Learner.load(tmp_path / "h.gems", threads=1)
    state = other.load_state(tmp_path / "s.state")
    for photo in state.album.of("kind 1"):
        (tmp_path / "s.state/photos" / photo.file).unlink()
    with pytest.warns(UserWarning, match="missing"):
        explanation = other.explain()
    assert explanation.left_out is None and explanation.no_forecast


def test_without_a_trunk_no_forecast_is_made_up(tmp_path):
    learner = Learner.load(hm.write_bundle(tmp_path / "h.gems"), threads=1)
    images, labels = hm.pictures(3, 3)
    learner.adapt(images[:8], labels[:8])
    explanation = learner.explain()
    document = explanation.to_json()
    assert document["leave_one_out"] is None and "no layers" in document["no_forecast"]
    assert document["wants_photo"] == {"class": "kind 2", "photos": 2, "right": 0, "asked": 0}
    assert explanation.lines() == [
        f"no forecast for new photos: {explanation.no_forecast}",
        "another photo would help kind 2 most: it has 2",
    ]


def test_an_empty_album_says_so():
    explanation = explained(Album(), {}, True, 0)
    assert explanation.left_out is None and explanation.wish is None and len(explanation.lines()) == 1
