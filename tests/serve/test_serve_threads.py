"""Teaching and asking at once, by many."""

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from serving import bundle_in, photos, serving

from gems_edge.device import Learner
from gems_edge.device.state import SLOTS
from gems_edge.serve import limits

FILES = photos(6)


@pytest.fixture
def phone(tmp_path):
    with serving(tmp_path) as phone:
        yield phone


def test_answers_beside_teaching_never_mix_old_and_new(phone, tmp_path, monkeypatch):
    """Eight threads ask while classes come, go and change; each answer is that of the generation it names."""
    monkeypatch.setattr(limits, "PER_SECOND", 1e9)
    phone.teach("a", FILES[0])
    phone.teach("b", FILES[1])
    taught, ended, answers = {1: reference(tmp_path)}, threading.Event(), []

    def ask():
        with httpx.Client(base_url=phone.client.base_url, timeout=120) as client:
            while not ended.is_set():
                answers.append(client.post("/api/predict", content=FILES[2][0]).json())

    with ThreadPoolExecutor(8) as phones:
        asking = [phones.submit(ask) for _ in range(8)]
        for change in range(12):
            if change % 3 == 0:
                done = phone.teach(f"class {change}", FILES[3 + change // 3 % 3])
            elif change % 3 == 1:
                done = phone.do("rename", **{"class": f"class {change - 1}", "to": f"new {change}"})
            else:
                done = phone.do("forget", **{"class": f"new {change - 1}"})
            assert done.status_code == 200, done.text
            taught[done.json()["generation"]] = reference(tmp_path)
        ended.set()
        for each in asking:
            each.result()
    assert len({answer["generation"] for answer in answers}) > 3
    for answer in answers:
        classes, shares = taught[answer["generation"]]
        assert tuple(share["class"] for share in answer["shares"]) == classes
        assert np.allclose([share["share"] for share in answer["shares"]], shares, atol=1e-4)


def reference(place):
    """What the saved state answers, in a learner of its own: classes and shares."""
    learner = Learner.load(bundle_in(place), threads=1)
    learner.load_state(place / "s.state")
    return learner.classes, learner.predict(learner.read_images([FILES[2][0]]))[0]


def test_phones_that_teach_at_once_all_are_heard(phone, tmp_path):
    phone.teach("a", FILES[0][:1])
    phone.teach("b", FILES[1][:1])
    lessons = [("a", FILES[0][1]), ("a", FILES[0][2]), ("b", FILES[1][1]), ("c", FILES[2][0]), ("d", FILES[3][0])]
    with ThreadPoolExecutor(5) as phones:
        done = list(phones.map(lambda lesson: phone.teach(lesson[0], [lesson[1]]), lessons))
    assert {answer.status_code for answer in done} == {200}
    # Each is told the newest state when it was answered, which may be that of a later change.
    assert {answer.json()["generation"] for answer in done} <= set(range(2, 7))
    assert phone.state["generation"] == 6
    assert {name: len(numbers) for name, numbers in phone.classes.items()} == {"a": 3, "b": 2, "c": 1, "d": 1}


def test_two_that_change_the_same(phone):
    for name, files in zip("abc", FILES):
        phone.teach(name, files)
    with ThreadPoolExecutor(2) as phones:
        done = list(phones.map(lambda _: phone.do("drop", photo=1), range(2)))
    assert sorted(answer.status_code for answer in done) == [200, 400]
    assert "somebody has changed the classes meanwhile" in max(done, key=lambda each: each.status_code).json()["error"]


def test_another_program_that_teaches_the_same_state(phone, tmp_path):
    phone.teach("a", FILES[0])
    phone.teach("b", FILES[1])
    other = Learner.load(bundle_in(tmp_path), threads=1)
    other.load_state(tmp_path / "s.state")
    other.teach(other.read_images(FILES[2]), ["from elsewhere"] * 3)
    other.save(tmp_path / "s.state")
    answer = phone.ask(FILES[2][0]).json()
    assert answer["generation"] == 2 and answer["shares"][2]["class"] == "from elsewhere"
    other.rename("from elsewhere", "elsewhere")
    other.save(tmp_path / "s.state")
    assert list(phone.classes) == ["a", "b", "elsewhere"]
    assert phone.teach("c", FILES[3]).json()["generation"] == 4
    assert list(phone.classes) == ["a", "b", "elsewhere", "c"]
    for slot in SLOTS:  # a state that is gone is answered with
        (tmp_path / "s.state" / slot).unlink()
    assert phone.ask(FILES[3][0]).json()["generation"] == 4 and len(phone.classes) == 4


def test_another_program_that_teaches_while_the_first_class_waits(phone, tmp_path):
    phone.teach("a", FILES[0])
    other = Learner.load(bundle_in(tmp_path), threads=1)
    other.teach(other.read_images([*FILES[1], *FILES[2]]), ["b"] * 3 + ["c"] * 3)
    other.save(tmp_path / "s.state")
    assert phone.ask(FILES[1][0]).json()["generation"] == 1 and phone.state["waiting"] == {"class": "a", "photos": 3}
    assert phone.do("rename", **{"class": "a", "to": "d"}).json()["generation"] == 1  # nothing is saved yet
    phone.teach("e", FILES[3])
    assert list(phone.classes) == ["b", "c", "d", "e"] and phone.state["waiting"] is None
