"""gems-edge install and rollback on a board's directory: what stays, what is carried over, and what is refused."""

import json
import os
import resource
import shutil

import numpy as np
import pytest
from board import assert_refused, gems_edge, handmade  # noqa: F401
from signing import make_key, trust_line, write_signed

from gems_edge.device import Learner
from gems_edge.device.bundle import read_bundle
from gems_edge.device.carry import read_lesson
from gems_edge.device.install import Options, install
from gems_edge.device.trial import Limits
from gems_edge.files import locked

pytestmark = pytest.mark.slow(20)

# A busy machine decides nothing here.
EASY = ("--threads", "1", "--most-time", "1e6", "--most-memory", "1e6")
CURRENT, STATE = "board/current/bundle.gems", "board/current/taught.state"
TRUNK = {"method": "anil", "normalization": "group", "split": True}


@pytest.fixture
def board(gems_edge, tmp_path):  # noqa: F811
    """board/ with a.gems, taught three classes of three photos; b.gems is as good."""
    handmade.write_tested(tmp_path / "a.gems")
    handmade.write_tested(tmp_path / "b.gems", steps=4)
    handmade.write_pictures(tmp_path / "photos", *handmade.pictures(3, 3))
    assert gems_edge("install", "a.gems", "--into", "board", *EASY).code == 0
    assert gems_edge("adapt", CURRENT, "--support", "photos", "-o", STATE, "--threads", "1").code == 0
    return tmp_path / "board"


def in_use(board):
    """The name of the bundle in use, and the generation and the photos of what it was taught."""
    bundle = read_bundle(board / "current/bundle.gems")
    lesson = read_lesson(bundle, board / "current/taught.state")
    return bundle.name, lesson.state.generation, [(each.number, each.label) for each in lesson.album.photos]


def slots(board):
    return {entry.name for entry in board.iterdir()}


def test_a_new_bundle_is_taught_what_the_old_one_was(gems_edge, board):  # noqa: F811
    name, _, photos = in_use(board)
    assert gems_edge("teach", CURRENT, STATE, "--rename", "kind 2=mug", "--threads", "1").code == 0
    done = json.loads(gems_edge("install", "b.gems", "--into", "board", *EASY, "--json").out)
    assert (done["new"], done["slot"], done["previous"], done["carried"]) == (True, 2, 1, "as kept")
    assert done["marks"]["asked"] == done["before"]["asked"] == done["photos"] == 9
    assert done["marks"]["right"] >= done["before"]["right"] == 9 and done["marks"]["predict_ms"] > 0
    now, _, taught = in_use(board)
    assert (name, now) == ("a", "b") and taught == [(n, "mug" if c == "kind 2" else c) for n, c in photos]
    images, labels = handmade.pictures(3, 3)
    anew = Learner.load("b.gems", threads=1)
    anew.adapt(images, labels)
    learner = Learner.load(CURRENT, threads=1)
    learner.load_state(STATE)
    assert np.array_equal(learner.predict(images), anew.predict(images))
    assert gems_edge("teach", CURRENT, STATE, "--undo", "--threads", "1").code == 0  # of the rename before
    assert "kind 2" in Learner.load(CURRENT).load_state(STATE).classes


def test_back_and_forth(gems_edge, board):  # noqa: F811
    assert_refused(gems_edge("rollback", "board"), "holds no bundle to go back to")
    gems_edge("install", "b.gems", "--into", "board", *EASY)
    assert gems_edge("teach", CURRENT, STATE, "--photo", "photos/kind 0/000.png", "--class", "x", *EASY[:2]).code == 0
    after = in_use(board)
    handmade.write_pictures(board.parent / "new", *handmade.pictures(3, 1, seed=7))
    assert gems_edge("teach", CURRENT, STATE, "--add", "new", *EASY[:2]).code == 0
    later = in_use(board)
    back = gems_edge("rollback", "board")
    assert back.code == 0 and "3 photos taught since then stayed in board/2" in back.out
    assert in_use(board)[0] == "a" and len(in_use(board)[2]) == 9
    forth = json.loads(gems_edge("rollback", "board", "--json").out)
    assert (forth["slot"], forth["left"], forth["photos_left"]) == (2, 1, 0) and in_use(board) == later != after
    assert slots(board) == {"current", "1", "2"}


def test_two_are_kept(gems_edge, board):  # noqa: F811
    for number in (3, 2):
        handmade.write_tested(board.parent / f"{number}.gems", steps=number)
        assert gems_edge("install", f"{number}.gems", "--into", "board", *EASY, "--worse", "100").code == 0
    assert slots(board) == {"current", "3", "2", "1"}
    again = gems_edge("install", "b.gems", "--into", "board", *EASY, "--worse", "100")
    assert again.code == 0 and slots(board) == {"current", "4", "3", "2"}
    same = gems_edge("install", "b.gems", "--into", "board")
    assert same.code == 0 and "in use already" in same.out and slots(board) == {"current", "4", "3", "2"}


def refused(gems_edge, board, message, *arguments, code=2):  # noqa: F811
    before, there = in_use(board), slots(board)
    assert_refused(gems_edge("install", *arguments, "--into", "board", *EASY), message, code)
    assert in_use(board) == before and slots(board) == there


def test_a_worse_bundle_never_stays(gems_edge, board):  # noqa: F811
    """One that answers nothing right by learning: its trunk is a foreign one."""
    handmade.write_tested(board.parent / "worse.gems", **TRUNK)
    refused(
        gems_edge, board, "of 9 photos that the owner taught it answers 6 right, and the bundle in use 9", "worse.gems"
    )
    done = gems_edge("install", "worse.gems", "--into", "board", *EASY, "--worse", "40", "--json")
    assert json.loads(done.out)["carried"] == "pictures" and in_use(board)[0] == "worse"


def test_a_bundle_that_computes_otherwise_here(gems_edge, board):  # noqa: F811
    handmade.write_tested(board.parent / "odd.gems", seed=4)
    shutil.copy("a.gems/selftest.safetensors", "test")
    handmade.replace_file(board.parent / "odd.gems", "selftest.safetensors", (board.parent / "test").read_bytes())
    refused(gems_edge, board, "odd.gems is not installed: odd.gems answers its self-test otherwise", "odd.gems")


def test_what_cannot_be_installed(gems_edge, board):  # noqa: F811
    root = board.parent
    handmade.write_bundle(root / "two.gems", head="per-class", ways=2)
    refused(gems_edge, board, "learns at most 2 classes (per-class head), not 3; ", "two.gems")
    refused(gems_edge, board, "is not a bundle", "missing.gems")
    handmade.write_bundle(root / "damaged.gems")
    (root / "damaged.gems/adapt.onnx").write_bytes(b"x")
    refused(gems_edge, board, "was altered", "damaged.gems")


@pytest.mark.parametrize("what", ["file", "photos", "slot", "link"])
def test_a_directory_that_is_something_else(gems_edge, tmp_path, what):  # noqa: F811
    handmade.write_bundle(tmp_path / "a.gems")
    if what == "file":
        (tmp_path / "board").write_text("mine")
    else:
        place = {"photos": "board/2024", "slot": "board/1/photos", "link": "board/current"}[what]
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / "board/note.txt").write_text("mine") if what == "photos" else None
    before = sorted(map(str, tmp_path.rglob("board*")))
    assert_refused(gems_edge("install", "a.gems", "--into", "board"), "board")
    assert sorted(map(str, tmp_path.rglob("board*"))) == before
    assert_refused(gems_edge("install", "a.gems", "--into", "no/where"), "the directory no does not exist")
    assert_refused(gems_edge("rollback", "nowhere"), "does not exist")


def test_one_at_a_time(gems_edge, board):  # noqa: F811
    with locked(board):
        refused(gems_edge, board, "is being written by another process; try again", "b.gems", code=1)
        assert_refused(gems_edge("rollback", "board"), "is being written by another process", code=1)


def test_a_full_disk(gems_edge, board):  # noqa: F811
    """As a limit on a file's size: what was begun is gone."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        refused(gems_edge, board, "board/2 has no room for", "b.gems", code=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_state_that_is_lost(gems_edge, board):  # noqa: F811
    for slot in "ab":
        (board / f"1/taught.state/{slot}.safetensors").write_bytes(b"x")
    result = gems_edge("install", "b.gems", "--into", "board", *EASY)
    assert_refused(result, "both slots of board/1/taught.state are damaged")
    assert "--fresh" in result.err
    assert gems_edge("install", "b.gems", "--into", "board", *EASY, "--fresh").code == 0
    assert read_bundle(board / "current/bundle.gems").name == "b" and not (board / "current/taught.state").exists()
    assert (board / "1/taught.state").is_dir()


def test_a_link_that_leads_nowhere(gems_edge, board):  # noqa: F811
    gems_edge("install", "b.gems", "--into", "board", *EASY)
    for target in ("9", "../a.gems"):
        (board / "current").unlink()
        (board / "current").symlink_to(target)
        assert_refused(
            gems_edge("install", "a.gems", "--into", "board"), "leads to no bundle; gems-edge rollback board"
        )
        assert gems_edge("rollback", "board").code == 0 and in_use(board)[0] == "b"


def test_a_record_that_is_damaged(gems_edge, board):  # noqa: F811
    gems_edge("install", "b.gems", "--into", "board", *EASY)
    (board / "2/installed.json").write_text("{")
    assert gems_edge("rollback", "board").code == 0 and in_use(board)[0] == "a"


def test_what_is_taught_meanwhile_is_carried_over_too(board):
    said = []

    def teach(text):
        said.append(text)
        if said == [*said[:1], "examining it"]:
            learner = Learner.load(CURRENT, threads=1)
            learner.load_state(STATE)
            learner.teach(handmade.pictures(3, 1, seed=5)[0], ["new", "new", "kind 0"])
            learner.save(STATE)

    done = install(board.parent / "b.gems", board, Options(Limits(1e6, 1e6), threads=1), teach)
    assert done.trial.photos == 12 and "something was taught meanwhile; once more, with that" in said
    assert len(in_use(board)[2]) == 12 and slots(board) == {"current", "1", "2"}


@pytest.fixture
def signed(gems_edge, tmp_path):  # noqa: F811
    """board/ with old.gems, release 5 of plates, taught; release 6 is new.gems, and `makers` trusts their key."""
    key = make_key(tmp_path / "maker")
    for name, product, release in (("old", "plates", 5), ("new", "plates", 6), ("lock", "locks", 9)):
        write_signed(tmp_path / f"{name}.gems", key, product, release)
    write_signed(tmp_path / "worse.gems", key, "plates", 7, **TRUNK)
    (tmp_path / "makers").write_text(trust_line(key))
    handmade.write_pictures(tmp_path / "photos", *handmade.pictures(3, 3))
    assert gems_edge("install", "old.gems", "--into", "board", *EASY, "--trust", "makers").code == 0
    assert gems_edge("adapt", CURRENT, "--support", "photos", "-o", STATE, "--trust", "makers").code == 0
    return tmp_path / "board"


def highest(board):
    return json.loads((board.parent / "makers.releases").read_text())["releases"]


def test_releases(gems_edge, signed):  # noqa: F811
    """Of a bundle that is turned away nothing is remembered: the one in use must still be opened."""
    trust = ("--trust", "makers")
    refused(gems_edge, signed, "and the bundle in use 9", "worse.gems", *trust)
    assert highest(signed) == {"plates": 5}
    refused(gems_edge, signed, "is product 'locks', and 'plates' is installed", "lock.gems", *trust)
    assert gems_edge("install", "new.gems", "--into", "board", *EASY, *trust).code == 0
    assert highest(signed) == {"plates": 6}
    refused(gems_edge, signed, "release 5", "old.gems", *trust)
    refused(gems_edge, signed, "release 6 is installed; get a newer one, or give --allow-older", "old.gems")
    assert_refused(gems_edge("rollback", "board", *trust), "release 6 was opened here")
    assert gems_edge("rollback", "board", *trust, "--allow-older").code == 0
    assert highest(signed) == {"plates": 5} and os.readlink(signed / "current") == "1"
    assert gems_edge("predict", CURRENT, "--state", STATE, "photos/kind 0", *trust).code == 0
    handmade.write_bundle(signed.parent / "nobodys.gems")
    refused(gems_edge, signed, "is not signed", "nobodys.gems", *trust)
    refused(gems_edge, signed, "names no product, and 'plates' is installed", "nobodys.gems")
