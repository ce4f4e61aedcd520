"""A power cut at any instant of saving a change leaves the state before or after it, with all its photos."""

import shutil
from dataclasses import replace
from functools import partial

import handmade as hm
import pytest
from power_cuts import cut_power_at, in_child

from gems_edge.device import Learner
from gems_edge.device.history import files_of
from gems_edge.device.photos import read_photo
from gems_edge.device.state import load_state

IMAGES, LABELS = hm.pictures(4, 1)
VERBS = {
    "teach": lambda learner: learner.teach(IMAGES[3:], LABELS[3:]),
    "correct": lambda learner: learner.teach(IMAGES[2:3], LABELS[:1]),
    "forget": lambda learner: learner.forget("kind 1"),
    "rename": lambda learner: learner.rename("kind 1", "x"),
    "move": lambda learner: learner.move(1, "new"),
    "drop": lambda learner: learner.drop(3),
    "undo": lambda learner: learner.undo(),
    "adapt": lambda learner: learner.adapt(IMAGES[2:], LABELS[2:]),
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A bundle, and a state of two generations, of which the first was taught otherwise."""
    directory = tmp_path_factory.mktemp("begun")
    path = hm.write_bundle(directory / "h.gems", split=True, method="anil", normalization="group")
    learner = Learner.load(path, threads=1)
    learner.adapt(IMAGES[:2], LABELS[:2])
    learner.save(directory / "s.state")
    learner.teach(IMAGES[2:3], LABELS[2:3])
    learner.save(directory / "s.state")
    return directory


def check_whole(path, bundle_hash):
    """The newest state has all its photos, those of earlier versions counted; its generation and classes."""
    state = load_state(path, bundle_hash)
    for file in files_of(state.versions):
        read_photo(path, file)
    return state.generation, state.classes


@pytest.mark.parametrize("verb", VERBS)
def test_power_cut_at_every_call(begun, tmp_path, verb):
    learner = Learner.load(begun / "h.gems", threads=1)
    learner.load_state(begun / "s.state")
    before = (2, learner.classes)
    VERBS[verb](learner)
    after, found, code = (3, learner.classes), set(), 9
    instant = 0
    while code == 9:
        instant += 1
        path = tmp_path / f"{instant}.state"
        shutil.copytree(begun / "s.state", path)
        if learner._now.home is not None:
            learner._now.home = replace(learner._now.home, path=path)
        code = in_child(partial(cut_power_at, instant, partial(learner.save, path)))
        found.add(check_whole(path, learner.bundle.hash))
        other = Learner.load(begun / "h.gems")
        other.load_state(path)
        other.rename(other.classes[0], "next")  # what comes next works, and removes what was left over
        other.save(path)
        check_whole(path, learner.bundle.hash)
        other.save(path)
        named = files_of(load_state(path, learner.bundle.hash).versions)
        assert {entry.name for entry in (path / "photos").iterdir()} == named
    assert code == 0 and found == {before, after} and instant > 15
