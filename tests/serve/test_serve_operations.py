"""What a server answers: every operation, over HTTP."""

import io
import json
import threading
import zipfile

import pytest
from serving import bundle_in, photos, serving
from starlette.routing import Route

from gems_edge.device import Learner
from gems_edge.serve.app import make_app
from gems_edge.serve.operations import OPERATIONS

FILES = photos(5)


@pytest.fixture
def phone(tmp_path):
    with serving(tmp_path) as phone:
        yield phone


def test_the_life_of_a_class(phone, tmp_path):
    assert phone.ask(FILES[0][0]).json() == {
        "error": "nothing was taught yet; show two kinds of things, and teach each"
    }
    first = phone.teach("mug", FILES[0]).json()
    assert first["waiting"] == {"class": "mug", "photos": 3} and not first["classes"] and first["generation"] == 0
    second = phone.teach("  cup ", FILES[1]).json()
    assert second["change"] == "taught mug (3 photos), cup (3 photos)" and second["waiting"] is None
    assert phone.classes == {"mug": [1, 2, 3], "cup": [4, 5, 6]}
    phone.teach("pot", FILES[2])
    assert phone.do("rename", **{"class": "pot", "to": "🍵 <b>tea</b>/1"}).json()["change"] == (
        "renamed pot to 🍵 <b>tea</b>/1"
    )
    assert phone.do("move", photo=9, **{"class": "mug"}).status_code == 200
    assert phone.classes == {"mug": [1, 2, 3, 9], "cup": [4, 5, 6], "🍵 <b>tea</b>/1": [7, 8]}
    assert phone.do("drop", photo=9).json()["change"] == "dropped photo 9"
    assert phone.do("forget", **{"class": "cup"}).json()["change"] == "forgot cup"
    assert list(phone.classes) == ["mug", "🍵 <b>tea</b>/1"]
    assert phone.client.post("/api/undo").json()["change"] == "undone: forgot cup"
    assert phone.do("undo", changes=3).json()["change"] == "undone: 3 changes"
    assert phone.classes == {"mug": [1, 2, 3], "cup": [4, 5, 6], "pot": [7, 8, 9]}
    state = phone.state
    assert state["history"] == ["taught pot (3 photos)", "taught mug (3 photos), cup (3 photos)"] and state["undo"] == 1
    assert state["bundle"] == {"name": "h", "image_size": 16, "channels": 1, "knows_unknown": False}
    learner = Learner.load(bundle_in(tmp_path), threads=1)
    assert learner.load_state(tmp_path / "s.state").generation == state["generation"] == 8


def test_answers_are_those_of_the_learner(phone, tmp_path):
    for name, files in zip("abc", FILES):
        phone.teach(name, files)
    learner = Learner.load(bundle_in(tmp_path), threads=1)
    learner.load_state(tmp_path / "s.state")
    for file in FILES[3] + FILES[0]:
        answer = phone.ask(file, coverage=0.9).json()
        [expected] = learner.answers(learner.read_images([file]), coverage=0.9)
        assert answer["class"] == expected.name and answer["guess"] == expected.guess and answer["ms"] > 0
        assert [share["share"] for share in answer["shares"]] == pytest.approx(expected.shares.tolist(), abs=1e-4)
        assert [share["class"] for share in answer["shares"]] == list("abc")
        assert answer["set"] == list(expected.candidates) and answer["generation"] == 2
    assert phone.ask(FILES[0][0], accept_all=1).json()["set"] is None


def test_whether_enough_is_taught(phone):
    for name, files in zip("ab", FILES):
        told = phone.teach(name, files).json()["enough"]
    assert told["leave_one_out"]["photos"] == 6 and any("of 6 photos right" in line for line in told["lines"])
    assert told["wants_photo"]["class"] in "ab"


def test_the_first_class_waits_for_a_second_and_can_be_changed(phone, tmp_path):
    phone.teach("mug", FILES[0])
    assert phone.do("rename", **{"class": "mug", "to": "cup"}).json()["waiting"]["class"] == "cup"
    assert phone.teach("cup", FILES[0]).json()["waiting"]["photos"] == 6
    assert phone.client.post("/api/undo").json()["waiting"] is None
    phone.teach("mug", FILES[0])
    assert phone.do("forget", **{"class": "mug"}).json()["change"] == "forgot mug"
    assert not (tmp_path / "s.state.waiting.json").exists() and phone.state["waiting"] is None


def test_photos_have_small_pictures(phone):
    phone.teach("mug", FILES[0])
    phone.teach("cup", FILES[1])
    [mug, _] = phone.state["classes"]
    small = phone.client.get(mug["photos"][0]["src"])
    assert small.headers["content-type"] == "image/jpeg" and "immutable" in small.headers["cache-control"]
    assert small.content.startswith(b"\xff\xd8")
    other = phone.client.get(mug["photos"][0]["src"].replace("/1/", "/2/"))
    assert other.status_code == 400 and "photo 2 is not there any more" in other.json()["error"]


def test_the_state_can_be_taken_away(phone, tmp_path):
    assert phone.client.get("/api/state.zip").status_code == 400
    for name, files in zip("abc", FILES):
        phone.teach(name, files)
    taken = phone.client.get("/api/state.zip")
    assert taken.headers["content-type"] == "application/zip"
    zipfile.ZipFile(io.BytesIO(taken.content)).extractall(tmp_path / "away")
    learner = Learner.load(bundle_in(tmp_path), threads=1)
    learner.load_state(tmp_path / "away/s.state")
    learner.forget("b")
    assert learner.classes == ("a", "c")


def test_listeners_hear_answers_and_changes(phone):
    phone.teach("a", FILES[0])
    phone.teach("b", FILES[1])
    heard, listens = [], threading.Event()

    def listen():
        with phone.client.stream("GET", "/api/events") as told:
            assert told.headers["content-type"].startswith("text/event-stream")
            for line in told.iter_lines():
                listens.set()
                if line.startswith("data: "):
                    heard.append(json.loads(line[6:]))
                if len(heard) == 2:
                    return

    listener = threading.Thread(target=listen)
    listener.start()
    assert listens.wait(10)
    phone.ask(FILES[0][0])  # of no camera: told to nobody
    answer = phone.ask(FILES[0][0], camera="left").json()
    phone.teach("c", FILES[2])
    listener.join(10)
    assert heard[0] == {"event": "answer", "camera": "left", **answer}
    assert heard[1] == {"event": "changed", "generation": 2, "change": "taught c (3 photos)"}


def test_a_cameras_answers_are_steadied_and_begin_anew_after_a_change(phone):
    phone.teach("a", FILES[0])
    phone.teach("b", FILES[1])
    first = phone.ask(FILES[0][0], camera="left").json()
    assert first["steady"]["class"] == first["class"] == "a" and first["steady"]["shares"] == first["shares"]
    other = phone.ask(FILES[1][0], camera="left").json()
    assert other["class"] == "b" and other["steady"]["class"] == "a"  # one frame changes nothing yet
    assert phone.ask(FILES[1][0], camera="right").json()["steady"]["class"] == "b"
    phone.teach("c", FILES[2])
    assert phone.ask(FILES[1][0], camera="left").json()["steady"]["class"] == "b"


def test_health_says_what_answers_cost(phone):
    before = phone.client.get("/api/health").json()["cost"]
    assert before["answer_ms"] is before["wait_ms"] is None
    phone.teach("a", FILES[0])
    phone.teach("b", FILES[1])
    answer = phone.ask(FILES[0][0]).json()
    health = phone.client.get("/api/health").json()
    assert health["ok"] and health["generation"] == 1
    assert health["cost"]["answer_ms"] == answer["ms"] > 0 and health["cost"]["wait_ms"] == answer["waited_ms"] >= 0
    assert health["cost"]["peak_mb"] > 10 < health["cost"]["predicted_peak_mb"]


def test_every_route_is_described(phone):
    described = phone.client.get("/api/openapi.json").json()
    routes = [route for route in make_app(phone.server.served).routes if isinstance(route, Route)]
    there = {(route.path.replace(":int", ""), method.lower()) for route in routes for method in route.methods}
    documented = {(path, method) for path, methods in described["paths"].items() for method in methods}
    assert documented == {(path, method) for path, method in there if method != "head"}
    assert len(documented) == len(OPERATIONS)
    names = [operation["operationId"] for methods in described["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names)
    for path, methods in described["paths"].items():
        for operation in methods.values():
            given = {item["name"] for item in operation.get("parameters", ()) if item["in"] == "path"}
            assert given == {part[1:-1] for part in path.split("/") if part.startswith("{")}


def test_what_the_description_demands_is_demanded(phone):
    for operation in OPERATIONS:
        if operation.takes and "default" not in str(operation.takes):
            missing = phone.client.post(operation.path, json={})
            assert missing.status_code == 400 and "is missing" in missing.json()["error"]
