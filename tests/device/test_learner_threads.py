"""A learner that several threads ask and teach."""

import copy
import pickle
import sys
import threading
import time
import weakref
from concurrent import futures

import handmade as hm
import numpy as np
import pytest
import race_learner

from gems_edge.device import Learner
from gems_edge.device import taught as module


class Rivals:
    """A learner, two lessons, and what it answers after each. It was taught the older and has loaded no graph since."""

    def __init__(self, path):
        self.learner = Learner.load(hm.write_bundle(path), threads=1)
        self.queries, _ = hm.pictures(4, 2, seed=3)
        images, _ = hm.pictures(4, 2)
        names = {"older": list("ab"), "newer": list("cdef")}
        self.lessons = {name: (images[: 2 * len(classes)], np.repeat(classes, 2)) for name, classes in names.items()}
        self.answers = {}
        for name in self.lessons:
            self.teach(name)
            self.answers[name] = self.learner.predict(self.queries)
        self.teach("older")

    def teach(self, name, **options):
        self.learner.adapt(*self.lessons[name], **options)

    def named(self, answer) -> str:
        alike = (
            name
            for name, right in self.answers.items()
            if answer.shape == right.shape and np.allclose(answer, right, atol=1e-6)
        )
        return next(alike, "neither")


@pytest.fixture
def rivals(tmp_path):
    return Rivals(tmp_path / "h.gems")


def in_thread(work):
    """`work` begun in a thread; a call that waits for its end and gives its result or raises its error."""
    pool = futures.ThreadPoolExecutor(1)
    waiting = pool.submit(work)
    pool.shutdown(wait=False)
    return lambda: waiting.result(timeout=120)


def test_a_graph_loaded_while_teaching_ends_is_not_kept(rivals, monkeypatch):
    loading, taught, load = threading.Event(), threading.Event(), module.predict_session

    def slow(*arguments):
        session = load(*arguments)
        loading.set()
        assert taught.wait(20)
        return session

    def ask_at_the_last_step(step, loss, seconds):
        if step == rivals.learner.bundle.steps:
            asked.append(in_thread(lambda: rivals.learner.predict(rivals.queries)))
            assert loading.wait(20)

    asked = []
    monkeypatch.setattr(module, "predict_session", slow)
    rivals.teach("newer", on_step=ask_at_the_last_step)
    taught.set()
    assert rivals.named(asked[0]()) == "older"
    assert rivals.named(rivals.learner.predict(rivals.queries)) == "newer"


@pytest.mark.parametrize("moment", ["loading", "between batches"])
@pytest.mark.parametrize("way", ["adapt", "load_state"])
def test_an_answer_is_of_one_teaching(rivals, monkeypatch, tmp_path, moment, way):
    rivals.teach("newer")
    rivals.learner.save(tmp_path / "newer.state")
    rivals.teach("older")
    ways = {
        "adapt": lambda: rivals.teach("newer"),
        "load_state": lambda: rivals.learner.load_state(tmp_path / "newer.state"),
    }
    load, begun = module.predict_session, []

    def teach_once():
        if not begun:
            begun.append(True)
            in_thread(ways[way])()

    def loaded(*arguments):
        session = load(*arguments)
        run = session.run
        session.run = lambda *feeds: (run(*feeds), teach_once())[0]
        if moment == "loading":
            teach_once()
        return session

    monkeypatch.setattr(module, "predict_session", loaded)
    monkeypatch.setattr(Learner, "batch_size", lambda self: 3)
    assert rivals.named(rivals.learner.predict(rivals.queries)) == "older" and begun
    assert rivals.named(rivals.learner.predict(rivals.queries)) == "newer"


def test_threads_that_ask_first_load_one_graph(rivals, monkeypatch):
    load, loads = module.predict_session, []

    def slow(*arguments):
        loads.append(arguments)
        time.sleep(0.2)
        return load(*arguments)

    monkeypatch.setattr(module, "predict_session", slow)
    asked = [in_thread(lambda: rivals.learner.predict(rivals.queries)) for _ in range(4)]
    assert {rivals.named(answer()) for answer in asked} == {"older"} and len(loads) == 1


def test_teachings_wait_for_each_other(rivals):
    order, other = [], []

    def first(step, loss, seconds):
        if step == 1:
            other.append(in_thread(lambda: rivals.teach("newer", on_step=lambda *_: order.append("newer"))))
            time.sleep(0.2)
        order.append("older")

    rivals.teach("older", on_step=first)
    other[0]()
    steps = rivals.learner.bundle.steps
    assert order == ["older"] * steps + ["newer"] * steps
    assert rivals.named(rivals.learner.predict(rivals.queries)) == "newer"


def test_a_step_may_ask_and_teach(rivals):
    def step(number, loss, seconds):
        assert rivals.named(rivals.learner.predict(rivals.queries)) == "older"
        rivals.teach("older")

    rivals.teach("newer", on_step=step)
    assert rivals.named(rivals.learner.predict(rivals.queries)) == "newer"


def test_the_predict_graph_leaves_room_for_teaching(rivals, monkeypatch):
    load, seen = module.predict_session, []

    def watched(*arguments):
        session = load(*arguments)
        seen.append(weakref.ref(session))
        return session

    monkeypatch.setattr(module, "predict_session", watched)
    rivals.learner.predict(rivals.queries)
    rivals.teach("newer", on_step=lambda *_: seen.append(seen[0]()))
    assert seen[1:] == [None] * rivals.learner.bundle.steps


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda learner: pickle.loads(pickle.dumps(learner))])
def test_a_copy_keeps_what_was_taught(rivals, again):
    rivals.learner.predict(rivals.queries)
    kept = again(rivals.learner)
    rivals.teach("newer")
    assert kept.classes == ("a", "b") and rivals.named(kept.predict(rivals.queries)) == "older"
    kept.adapt(*rivals.lessons["newer"])
    assert rivals.named(kept.predict(rivals.queries)) == "newer"


def test_many_threads_ask_while_one_teaches(rivals):
    """With Python passing from thread to thread as often as it can."""
    end, found = time.monotonic() + 2, set()

    def ask():
        while time.monotonic() < end:
            still = copy.copy(rivals.learner)
            name = rivals.named(still.predict(rivals.queries))
            found.add((name, len(still.classes)))
            found.add((rivals.named(rivals.learner.predict(rivals.queries)), None))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        asked = [in_thread(ask) for _ in range(3)]
        while time.monotonic() < end:
            for name in ("newer", "older"):
                rivals.teach(name)
                assert rivals.named(rivals.learner.predict(rivals.queries)) == name
        for answer in asked:
            answer()
    finally:
        sys.setswitchinterval(interval)
    assert found and found <= {("older", 2), ("newer", 4), ("older", None), ("newer", None)}


def test_eight_threads_ask_while_one_teaches(tmp_path):
    """The small version of tools/race_learner.py."""
    lessons = race_learner.Lessons(hm.write_bundle(tmp_path / "h.gems"))
    assert lessons.of(lessons.answers[0]) == "first" and lessons.of(lessons.answers[0][:, ::-1]) == "neither"
    tally = race_learner.race(lessons, 8, 2_000)
    assert tally["first"] + tally["second"] >= 2_000 and tally.keys() <= {"first", "second", "teachings"}, tally
    assert min(tally["first"], tally["second"], tally["teachings"]) > 1
