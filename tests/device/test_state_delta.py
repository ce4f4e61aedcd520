"""A state that holds only what changed from the bundle's start: bit for bit what the whole one would be."""

import tempfile
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from state_samples import BUNDLE, bits, header, make, number_of, write_by_hand

from gems_edge.device.delta import as_delta, restored
from gems_edge.device.state import FORMAT_VERSION, SLOTS, State, load_state, save_state, state_bytes
from gems_edge.errors import UserError


def moved(start, places, values):
    """A copy of `start` with `values` at the flat `places`."""
    value = start.copy()
    value.flat[places] = values
    return value


floats = st.one_of(st.floats(width=32), st.sampled_from([0.0, -0.0]))


@st.composite
def start_and_moved(draw):
    start = draw(
        hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=3, max_side=9), elements=floats, fill=floats)
    )
    places = draw(st.lists(st.integers(0, start.size - 1), max_size=start.size))
    return start, moved(start, places, draw(st.lists(floats, min_size=len(places), max_size=len(places))))


@given(st.dictionaries(st.sampled_from(["head.weight", "backbone.layers.10.norm.weight", "ö"]), start_and_moved()))
def test_delta_round_trip(pairs):
    start = {name: before for name, (before, _) in pairs.items()}
    state = State(BUNDLE, ("a", "b"), 5, 10, {name: after for name, (_, after) in pairs.items()})
    with tempfile.TemporaryDirectory() as directory:
        save_state(f"{directory}/full.state", state)
        save_state(f"{directory}/s.state", as_delta(state, start))
        loaded = load_state(f"{directory}/s.state", BUNDLE)
        assert state_bytes(f"{directory}/s.state") <= state_bytes(f"{directory}/full.state")
    assert bits(restored(loaded, start).tensors) == bits(state.tensors)
    for name, (before, after) in pairs.items():
        changed = sum(a.tobytes() != b.tobytes() for a, b in zip(before.ravel(), after.ravel()))
        if name in loaded.delta:
            assert loaded.tensors[f"{name}.values"].size == changed
        else:
            assert before.size / 8 + 4 * changed + 200 > 4 * before.size


def delta_state(number):
    """A state whose one tensor moved in `number` of 200 places, and the start."""
    start = np.linspace(-1, 1, 200, dtype=np.float32).reshape(10, 20)
    state = replace(make(), tensors={"w": moved(start, range(number), 7.0)})
    return as_delta(state, {"w": start}), {"w": start}


def test_a_zero_that_changed_its_sign_is_kept():
    start = {"w": np.zeros(100, np.float32)}
    state = as_delta(replace(make(), tensors={"w": moved(start["w"], [3], -0.0)}), start)
    assert state.delta == ("w",) and state.tensors["w.values"].size == 1
    assert np.flatnonzero(np.signbit(restored(state, start).tensors["w"])).tolist() == [3]


def test_a_delta_takes_less_space_and_a_full_tensor_no_more(tmp_path):
    sizes = []
    for number in (0, 10, 100, 150, 200):
        save_state(tmp_path / f"{number}.state", delta_state(number)[0])
        sizes.append(state_bytes(tmp_path / f"{number}.state"))
    assert sizes == sorted(sizes) and sizes[1] < sizes[-1] - 500
    assert delta_state(200)[0].delta == () and "w" in delta_state(200)[0].tensors


def test_delta_damaged_at_any_byte(tmp_path):
    path = tmp_path / "s.state"
    state, start = delta_state(9)
    assert state.delta == ("w",)
    save_state(path, delta_state(5)[0])
    save_state(path, state)
    content = (path / SLOTS[1]).read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x01
        (path / SLOTS[1]).write_bytes(bytes(damaged))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = int((restored(load_state(path, BUNDLE), start).tensors["w"] == 7).sum())
        assert (found, len(caught)) in [(5, 1), (9, 0)], position


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("w.values"),
        lambda t: t.pop("w.changed"),
        lambda t: t.update({"w.values": t["w.values"][:-1]}),
        lambda t: t.update({"w.values": t["w.values"][:, None]}),
        lambda t: t.update({"w.values": t["w.values"].astype(np.float64)}),
        lambda t: t.update({"w.changed": t["w.changed"][:-1]}),
        lambda t: t.update({"w.changed": t["w.changed"].astype(np.float32)}),
        lambda t: t.update({"w.changed": t["w.changed"] | 2}),
        lambda t: t.update({"w.changed": np.append(t["w.changed"], np.uint8(0))}),
        lambda t: t.update({"other": t["w.values"]}),
    ],
)
def test_a_delta_that_does_not_fit_is_refused(tmp_path, change):
    state, start = delta_state(9)
    tensors = dict(state.tensors)
    change(tensors)
    save_state(tmp_path / "s.state", replace(state, tensors=tensors))  # under a checksum that fits
    loaded = load_state(tmp_path / "s.state", BUNDLE)
    with pytest.raises(ValueError):
        restored(loaded, start)


def test_a_delta_on_another_start_is_refused():
    state, start = delta_state(9)
    for other in ({}, {"w": start["w"][:9]}, {"v": start["w"]}, start | {"v": start["w"]}):
        with pytest.raises(ValueError):
            restored(state, other)
    with pytest.raises(ValueError):  # 199 places: the bits are as many bytes, the last bit is beyond
        full = as_delta(replace(make(), tensors={"w": moved(start["w"], [199], 7.0)}), start)
        restored(full, {"w": start["w"].ravel()[:199]})


@pytest.mark.parametrize("delta", ["5", "[[1]]", "[null]", "{", "null"])
def test_a_list_of_deltas_that_is_none(tmp_path, delta):
    (tmp_path / "s.state").mkdir()
    write_by_hand(tmp_path / "s.state" / SLOTS[0], make(1).tensors, format_version="2", delta=delta)
    with pytest.raises(UserError, match="the only slot of .* is damaged"):
        load_state(tmp_path / "s.state", BUNDLE)


def test_states_from_before_deltas_are_read_and_still_written(tmp_path):
    (tmp_path / "s.state").mkdir()
    state = make(4)
    write_by_hand(tmp_path / "s.state" / SLOTS[0], state.tensors)
    loaded = load_state(tmp_path / "s.state", BUNDLE)
    assert (loaded.generation, loaded.delta, number_of(loaded)) == (3, (), 4)
    assert bits(restored(loaded, make(0).tensors).tensors) == bits(state.tensors)
    write_by_hand(tmp_path / "by-hand", state.tensors, generation="1")
    save_state(tmp_path / "new.state", state)  # a state without a delta is one that an older gems-edge reads
    written, by_hand = (tmp_path / "new.state" / SLOTS[0]), tmp_path / "by-hand"
    assert header(written) == header(by_hand)


def test_newer_format_is_neither_read_nor_overwritten(tmp_path, monkeypatch):
    path = tmp_path / "s.state"
    monkeypatch.setattr("gems_edge.device.state.PLAIN_VERSION", FORMAT_VERSION + 1)
    save_state(path, delta_state(1)[0])
    monkeypatch.undo()
    for call in (lambda: load_state(path, BUNDLE), lambda: save_state(path, make(2))):
        with pytest.raises(UserError, match="install a newer gems-edge"):
            call()
