"""The two slots: whatever happens while saving, the old state or the new one is there, never neither or a mixture."""

import errno
import os
import resource
import signal
import tempfile
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from power_cuts import cut_power_at, in_child
from state_samples import BUNDLE, make, number_of

from gems_edge.device.state import (
    SLOTS,
    State,
    check_destination,
    load_state,
    save_state,
    state_bytes,
)
from gems_edge.errors import MachineError, UserError
from gems_edge.files import locked

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
tensors = st.dictionaries(
    names.filter(lambda name: name != "__metadata__"),
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=4, max_side=3), elements=st.floats(width=32)),
    max_size=4,
)
classes = st.lists(st.one_of(names, st.integers(), st.floats(allow_nan=False, allow_infinity=False)), max_size=6).map(
    tuple
)


@given(tensors, classes, st.integers(1, 10**6), st.integers(1, 10**6))
def test_round_trip(values, class_names, steps, images):
    with tempfile.TemporaryDirectory() as directory:
        saved = save_state(f"{directory}/s.state", State(BUNDLE, class_names, steps, images, values))
        loaded = load_state(f"{directory}/s.state", BUNDLE)
    assert (loaded.classes, loaded.steps, loaded.images, loaded.generation) == (class_names, steps, images, 1)
    assert saved.generation == 1 and loaded.tensors.keys() == values.keys()
    for name, value in values.items():
        assert loaded.tensors[name].dtype == np.float32 and loaded.tensors[name].shape == value.shape
        assert loaded.tensors[name].tobytes() == value.tobytes()


def test_slots_are_written_in_turn(tmp_path):
    path = tmp_path / "s.state"
    for number in range(1, 6):
        before = {slot: (path / slot).read_bytes() for slot in SLOTS if (path / slot).exists()}
        assert save_state(path, make(number)).generation == number
        after = {slot: (path / slot).read_bytes() for slot in SLOTS if (path / slot).exists()}
        changed = [slot for slot in after if after[slot] != before.get(slot)]
        assert changed == [SLOTS[(number - 1) % 2]]
        assert number_of(load_state(path, BUNDLE)) == number
    assert sorted(entry.name for entry in path.iterdir()) == sorted(SLOTS)
    assert state_bytes(path) == sum(entry.stat().st_size for entry in path.iterdir())


def falls_back(path, slot, content):
    """Load with `slot` holding `content`: the number that is found, and whether that was said."""
    (path / slot).write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return number_of(load_state(path, BUNDLE)), [str(warning.message) for warning in caught]


def test_newest_slot_damaged_or_cut_at_any_byte(tmp_path):
    path = tmp_path / "s.state"
    save_state(path, make(1))
    save_state(path, make(2))
    content = (path / SLOTS[1]).read_bytes()
    for position in range(len(content)):
        for flip in (0x01, 0x80):
            damaged = bytearray(content)
            damaged[position] ^= flip
            found, said = falls_back(path, SLOTS[1], bytes(damaged))
            assert (found, len(said)) in [(1, 1), (2, 0)], position  # 2: blanks in the header say the same
            assert found == 2 or "b.safetensors is damaged" in said[0]
        assert falls_back(path, SLOTS[1], content[:position])[0] == 1
    assert falls_back(path, SLOTS[1], content) == (2, [])


def test_saving_over_a_damaged_slot_keeps_the_good_one(tmp_path):
    path = tmp_path / "s.state"
    save_state(path, make(1))
    save_state(path, make(2))
    (path / SLOTS[1]).write_bytes(b"noise")
    good = (path / SLOTS[0]).read_bytes()
    assert save_state(path, make(3)).generation == 2
    assert (path / SLOTS[0]).read_bytes() == good and number_of(load_state(path, BUNDLE)) == 3


def test_nothing_valid(tmp_path):
    path = tmp_path / "s.state"
    with pytest.raises(UserError, match="is not a state"):
        load_state(path, BUNDLE)
    path.mkdir()
    with pytest.raises(UserError, match="holds no state"):
        load_state(path, BUNDLE)
    for slot, damaged in zip(SLOTS, ("the only slot of .* is damaged", "both slots of .* are damaged")):
        (path / slot).write_bytes(b"")
        with pytest.raises(UserError, match=damaged):
            load_state(path, BUNDLE)
    save_state(path, make(1))
    with pytest.warns(UserWarning, match="b.safetensors is damaged"):
        assert number_of(load_state(path, BUNDLE)) == 1


def test_state_of_another_bundle_is_left_alone(tmp_path):
    path = tmp_path / "s.state"
    save_state(path, make(1))
    before = (path / SLOTS[0]).read_bytes()
    for call in (lambda: load_state(path, "c" * 64), lambda: save_state(path, make(2, "c" * 64))):
        with pytest.raises(UserError, match="another bundle"):
            call()
    assert [(e.name, e.read_bytes()) for e in path.iterdir()] == [(SLOTS[0], before)]


def test_destinations_that_are_something_else(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name, message in [
        ("file", "not a state"),
        ("photos", "other files"),
        ("absent/s.state", "does not exist"),
        ("dangling", "not a state"),
    ]:
        with pytest.raises(UserError, match=message):
            save_state(tmp_path / name, make())
    (tmp_path / "empty").mkdir()
    check_destination(tmp_path / "empty", BUNDLE)
    save_state(tmp_path / "empty", make())


@pytest.mark.parametrize("generations", [0, 1, 2, 3])
def test_power_cut_at_every_call(tmp_path, generations):
    instant, codes = 0, []
    while not codes or codes[-1] == 9:
        instant += 1
        path = tmp_path / f"{instant}.state"
        for number in range(1, generations + 1):
            save_state(path, make(number))
        codes.append(in_child(partial(cut_power_at, instant, partial(save_state, path, make(77)))))
        if generations == 0 and codes[-1] == 9:
            try:
                found = number_of(load_state(path, BUNDLE))
            except UserError:  # nothing was there, and nothing is
                found = 77
        else:
            found = number_of(load_state(path, BUNDLE))
        assert found in (generations, 77)
        save_state(path, make(78))  # the next save works, and removes what was left over
        assert number_of(load_state(path, BUNDLE)) == 78
        if codes[-1] == 9:
            save_state(path, make(79))
            assert {entry.name for entry in path.iterdir()} <= set(SLOTS)
    assert codes[-1] == 0 and len(codes) > 10


@pytest.mark.parametrize("full", [True, False])
def test_write_that_ends_at_any_byte(tmp_path, full):
    """Disk full (the write fails) or power cut (the writer is killed) in the middle of the file."""
    path = tmp_path / "s.state"
    save_state(path, make(1))
    save_state(path, make(2))
    before = {slot: (path / slot).read_bytes() for slot in SLOTS}
    size = len(before[SLOTS[0]])

    def work(limit):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN if full else signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        save_state(path, make(3))

    for limit in range(0, size, 37):
        assert in_child(partial(work, limit)) == (1 if full else -signal.SIGXFSZ)
        assert {slot: (path / slot).read_bytes() for slot in SLOTS} == before
        left = {entry.name for entry in path.iterdir()} - set(SLOTS)
        assert not (left and full), "a failed write leaves nothing behind"
    assert in_child(partial(work, size)) == 0
    assert number_of(load_state(path, BUNDLE)) == 3


def test_full_disk_is_told_and_leaves_no_empty_state(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    save_state(tmp_path / "s.state", make(1))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match="No space left.*is intact"):
        save_state(tmp_path / "s.state", make(2))
    with pytest.raises(MachineError, match="No space left.*nothing was saved"):
        save_state(tmp_path / "new.state", make(2))
    monkeypatch.undo()
    assert number_of(load_state(tmp_path / "s.state", BUNDLE)) == 1
    assert not (tmp_path / "new.state").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(PermissionError):
        save_state(tmp_path / "locked/s.state", make())


def test_equal_generations_are_settled(tmp_path):
    path = tmp_path / "s.state"
    save_state(path, make(1))
    (path / SLOTS[1]).write_bytes((path / SLOTS[0]).read_bytes())
    assert save_state(path, replace(make(2), generation=50)).generation == 2
    assert number_of(load_state(path, BUNDLE)) == 2


@pytest.mark.parametrize("put", [os.mkdir, os.mkfifo, lambda slot: os.symlink("/dev/zero", slot)])
def test_slots_that_are_no_plain_files(tmp_path, put):
    """Nothing is waited for, and teaching is refused before its first step rather than lost behind its last."""
    path = tmp_path / "s.state"
    save_state(path, make(1))
    put(path / SLOTS[1])
    with pytest.warns(UserWarning, match="b.safetensors is damaged .is not a plain file, but a (directory|FIFO|link)"):
        assert number_of(load_state(path, BUNDLE)) == 1
    for call in (lambda: check_destination(path, BUNDLE), lambda: save_state(path, make(2))):
        with pytest.raises(UserError, match="b.safetensors is not a plain file, as a state's must be"):
            call()


def test_writers_of_one_state_come_one_after_the_other(tmp_path):
    path, writers, each = tmp_path / "s.state", 6, 8

    def work(writer):
        for number in range(each):
            save_state(path, make(10 * writer + number))

    children = []
    for writer in range(1, writers + 1):
        if not (child := os.fork()):
            try:
                work(writer)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    while children:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if any(path.exists() and (path / slot).exists() for slot in SLOTS):
                assert load_state(path, BUNDLE).generation >= 1
        done, status = os.waitpid(-1, os.WNOHANG)
        if done:
            assert status == 0
            children.remove(done)
    assert load_state(path, BUNDLE).generation == writers * each
    assert sorted(entry.name for entry in path.iterdir()) == sorted(SLOTS)


def test_a_writer_that_does_not_end_is_told(tmp_path):
    path = tmp_path / "s.state"
    save_state(path, make(1))
    with locked(path), pytest.raises(MachineError, match="is being written by another process; try again"):
        with locked(path, patience=0.05):
            pass
    assert save_state(path, make(2)).generation == 2


def test_a_file_system_that_syncs_no_directories(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert save_state(tmp_path / "s.state", make(1)).generation == 1
    assert number_of(load_state(tmp_path / "s.state", BUNDLE)) == 1
