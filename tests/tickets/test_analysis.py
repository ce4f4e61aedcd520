"""What tickets have in common, against plain counting, and the invariants of the definitions."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gems_edge.errors import UserError
from gems_edge.tickets import analysis
from gems_edge.tickets.analysis import emergence, hamming, layer_ratios, overlap, overlap_of, primary

SHAPES = {"first": (3, 2, 2), "second": (5, 3), "head": (2, 5)}


@st.composite
def tickets(draw, most=5):
    """Tickets of one small network; every layer keeps something."""
    made = []
    for _ in range(draw(st.integers(1, most))):
        masks = {name: draw(arrays(bool, shape)) for name, shape in SHAPES.items()}
        for mask in masks.values():
            mask.flat[draw(st.integers(0, mask.size - 1))] = True
        made.append(masks)
    return made


def positions(mask):
    return {place for place in itertools.product(*map(range, mask.shape)) if mask[place]}


def hand(*bits):
    return np.array(bits, dtype=bool)


def test_by_hand():
    a, b = {"x": hand(1, 1, 1, 0), "y": hand(1, 0)}, {"x": hand(0, 1, 1, 1), "y": hand(0, 1)}
    assert layer_ratios(a) == {"x": 0.25, "y": 0.5}
    assert overlap([a, b]) == {"x": [1.0, pytest.approx(2 / 3)], "y": [1.0, 0.0]}
    assert primary([a, b], "x").tolist() == [False, True, True, False]
    assert emergence([(7, hand(1, 0, 1, 1)), (9, hand(0, 1, 1, 0))], hand(0, 1, 1, 0)) == [(7, 0.5), (9, 1.0)]
    assert hamming([a, b])[0, 1] == pytest.approx(4 / 6)
    assert overlap_of(hand(1, 1, 1, 0), hand(0, 0, 1, 1)) == 0.5
    assert overlap_of(hand(1, 0, 0, 0), hand(1, 1, 1, 1)) == 0.25, "the denominator is the current mask's count"


@given(tickets())
@settings(max_examples=60)
def test_overlap_against_sets(made):
    measured = overlap(made)
    for name in SHAPES:
        kept = [positions(masks[name]) for masks in made]
        wanted = [len(set.intersection(*kept[:g])) / len(kept[0]) for g in range(1, len(made) + 1)]
        assert measured[name] == pytest.approx(wanted)
        assert measured[name][0] == 1
        assert all(later <= earlier for earlier, later in itertools.pairwise(measured[name]))


@given(tickets())
@settings(max_examples=60)
def test_hamming_against_counting(made):
    distances = hamming(made)
    size = sum(int(np.prod(shape)) for shape in SHAPES.values())
    for i, j in itertools.product(range(len(made)), repeat=2):
        differ = sum(len(positions(made[i][name]) ^ positions(made[j][name])) for name in SHAPES)
        assert distances[i, j] == pytest.approx(differ / size, abs=1e-12)
    assert np.array_equal(distances, distances.T) and not distances.diagonal().any()
    bound = distances[:, :, None] + distances[None, :, :]
    assert (distances[:, None, :] <= bound + 1e-12).all(), "triangle inequality"


def test_hamming_over_several_chunks(monkeypatch):
    rng = np.random.default_rng(0)
    made = [{"a": rng.random((7, 11)) < 0.4, "b": rng.random(100) < 0.2} for _ in range(4)]
    whole = hamming(made)
    monkeypatch.setattr(analysis, "_CHUNK", 13)
    assert np.array_equal(hamming(made), whole)
    flat = [np.concatenate([masks["a"].ravel(), masks["b"]]) for masks in made]
    assert np.allclose(whole, [[np.mean(one != other) for other in flat] for one in flat], atol=1e-15)


@given(tickets())
@settings(max_examples=60)
def test_primary_is_in_every_ticket_and_all_of_it_emerges(made):
    common = set.intersection(*(positions(masks["first"]) for masks in made))
    if not common:
        with pytest.raises(UserError, match="primary mask is empty"):
            primary(made, "first")
        return
    mask = primary(made, "first")
    assert positions(mask) == common and mask.shape == SHAPES["first"]
    looks = [(10 * number, masks["first"]) for number, masks in enumerate(made)]
    assert emergence(looks, mask) == [(iteration, 1.0) for iteration, _ in looks]
    assert emergence([(5, ~mask)], mask) == [(5, 0.0)]


@given(arrays(bool, (4, 3)), arrays(bool, (4, 3)), st.integers(0, 11))
@settings(max_examples=60)
def test_overlap_of_against_sets(previous, current, place):
    current.flat[place] = True
    assert overlap_of(previous, current) == len(positions(previous) & positions(current)) / len(positions(current))
    assert overlap_of(current, current) == 1


@given(tickets(1))
@settings(max_examples=30)
def test_layer_ratios_add_up_to_the_whole(made):
    ratios = layer_ratios(made[0])
    sizes = {name: int(np.prod(shape)) for name, shape in SHAPES.items()}
    removed = sum(ratios[name] * sizes[name] for name in SHAPES)
    assert removed == pytest.approx(sum(sizes.values()) - sum(len(positions(mask)) for mask in made[0].values()))


def test_first_difference_and_its_ticket_are_named():
    good = {"first": hand(1, 1), "head": hand(1)}
    shorter, longer, other = {"first": hand(1, 1)}, good | {"skip": hand(1)}, good | {"first": hand(1, 1, 1)}
    for compare in (overlap, hamming, lambda made: primary(made, "first")):
        with pytest.raises(UserError, match=r"first has the shape \(3,\) in (ticket|checkpoint) 3 and \(2,\)"):
            compare([good, good, other])
    with pytest.raises(UserError, match="ticket 2 has no layer head, which ticket 1 has"):
        overlap([good, shorter])
    with pytest.raises(UserError, match="ticket 1 has no layer skip, which ticket 2 has"):
        overlap([good, longer])
    with pytest.raises(UserError, match="b.ticket has no layer head, which a.ticket has"):
        analysis.check_alike([good, shorter], names=["a.ticket", "b.ticket"])
    with pytest.raises(UserError, match="no checkpoint"):
        hamming([])


def test_what_has_no_share_is_refused_in_one_line():
    empty, full = {"first": hand(0, 0)}, {"first": hand(1, 1)}
    calls = {
        "keeps nothing of first": lambda: overlap([empty, full]),
        "kept by all 2 tickets": lambda: primary([empty, full], "first"),
        "no layer third": lambda: primary([full], "third"),
        "primary mask is empty": lambda: emergence([(1, full["first"])], empty["first"]),
        "iteration 500 has the shape": lambda: emergence([(500, hand(1))], full["first"]),
        "mask of the first layer keeps nothing": lambda: overlap_of(full["first"], empty["first"]),
        "have no overlap": lambda: overlap_of(hand(1), full["first"]),
    }
    for words, call in calls.items():
        with pytest.raises(UserError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_nothing_of_torch_is_imported():
    import subprocess
    import sys

    code = "import sys, gems_edge.tickets.analysis, gems_edge.report.ticket_sections\nassert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""
