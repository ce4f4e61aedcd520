"""Workers of one session share what they make: one makes it, a failure leaves nothing, and changing it is found out."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from made_once import MadeOnce


def test_one_makes_it_and_the_others_wait(tmp_path):
    calls = []

    def make(path):
        calls.append(path)
        path.mkdir()
        (path / "a").write_text("once")

    with ThreadPoolExecutor(4) as pool:  # each opens the lock's file for itself, as a process does
        paths = list(pool.map(lambda _: MadeOnce(tmp_path)("thing", make), range(4)))
    assert len(calls) == 1 and set(paths) == {tmp_path / "thing"} and (paths[0] / "a").read_text() == "once"


def test_a_failed_attempt_is_made_anew(tmp_path):
    made_once = MadeOnce(tmp_path)

    def fail(path):
        path.mkdir()
        (path / "half").touch()
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        made_once("thing", fail)
    assert list(made_once("thing", lambda path: path.mkdir()).iterdir()) == []


def test_a_test_that_changes_what_is_shared_is_found_out(tmp_path):
    made_once = MadeOnce(tmp_path)
    file = made_once("thing", lambda path: path.write_text("before"))
    made_once.check_untouched()
    file.write_text("after!")
    with pytest.raises(AssertionError, match="changed the shared thing"):
        made_once.check_untouched()
