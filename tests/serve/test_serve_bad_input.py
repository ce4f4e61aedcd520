"""Whatever is sent: one sentence, nothing lost, and the next one is answered."""

import errno
import json
import logging
import os
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving import photos, serving

from gems_edge.serve import limits

FILES = photos(4)
ERRORS = (400, 401, 403, 404, 405, 408, 413)
LARGE = "that is more than 24 MB; send fewer or smaller photos"


@pytest.fixture(scope="module")
def phone(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("bad")) as phone:
        phone.teach("a", FILES[0])
        phone.teach("b", FILES[1])
        yield phone


@pytest.fixture(autouse=True)
def nothing_changes(phone, capfd):
    """Nothing that a test of this file sends is learned, or written to the terminal."""
    before = phone.server.served.classroom.lesson
    yield
    assert phone.server.served.classroom.lesson is before
    assert phone.ask(FILES[0][0]).json()["class"] == "a"
    assert "".join(capfd.readouterr()) == ""


def refused(answer, words, status=400):
    assert answer.status_code == status and list(answer.json()) == ["error"], answer.text
    assert words in answer.json()["error"] and "\n" not in answer.json()["error"]


@pytest.mark.parametrize(
    "content", [b"", b"no photo", b"\xff\xd8\xff no photo", FILES[0][0][:60], b"<svg/>", b"%PDF-1.4"], ids=repr
)
def test_photos_that_are_none(phone, content):
    refused(phone.ask(content), "image")
    refused(phone.teach("c", [FILES[2][0], content]), "image")


def test_a_class_that_is_taught_nothing(phone):
    refused(phone.client.post("/api/teach", data={"class": "c"}), "no photo came with c; hold the button")
    refused(phone.client.post("/api/teach", files=[("photo", ("a.png", FILES[0][0]))]), "teach takes a form")
    refused(phone.client.post("/api/teach", data={"class": "c", "photo": "text"}), "teach takes a form")
    refused(phone.client.post("/api/teach", content=b"no form"), "teach takes a form")
    refused(phone.teach("a", FILES[0]), "taught already under these names")


@pytest.mark.parametrize(
    "name, words",
    [("", "class name is empty"), ("  \n ", "class name is empty"), ("x" * 300, "has 300 letters; take at most 100"),
     ("bell \x07", "can be seen"), ("right \u202e to left", "can be seen"), ("half \udcff", "")],
)  # fmt: skip
def test_names(phone, name, words):
    if words:
        refused(phone.teach(name, FILES[2]), words)
    refused(phone.client.post("/api/rename", content=json.dumps({"class": "a", "to": name})), words)


@pytest.mark.parametrize("content", [b"[", b"[1]", b"null", b"1e999", b"\xff", b"[" * 100_000, b'{"photo": 1e400}'])
@pytest.mark.parametrize("verb", ["forget", "rename", "move", "drop"])
def test_what_is_no_json(phone, verb, content):
    assert phone.client.post(f"/api/{verb}", content=content).status_code == 400


@pytest.mark.parametrize(
    "verb, fields, words",
    [("forget", {"class": "z"}, "there is no class z; there are a, b"), ("forget", {"class": 1}, "class is missing"),
     ("forget", {"class": "a"}, "would leave one class (b)"), ("rename", {"class": "a", "to": "b"}, "class b already"),
     ("rename", {"class": "z", "to": "y"}, "there is no class z"), ("drop", {"photo": 99}, "photo 99 is not there"),
     ("drop", {"photo": True}, "photo is missing, or no number"), ("drop", {"photo": -1}, "no number above 0"),
     ("move", {"photo": 1 << 200, "class": "a"}, "no number above 0"), ("undo", {"changes": 99}, "undo"),
     ("undo", {"changes": 0.5}, "no number above 0"), ("undo", {}, "no change to undo")],
)  # fmt: skip
def test_changes_that_cannot_be_made(phone, verb, fields, words):
    refused(phone.do(verb, **fields), words)


@pytest.mark.parametrize("coverage", ["x", "0", "1", "nan", "-1", "1e999"])
def test_coverages(phone, coverage):
    refused(phone.ask(FILES[0][0], coverage=coverage), "coverage")


def test_other_paths_and_methods(phone):
    refused(phone.client.get("/api/nothing"), "Not Found", 404)
    refused(phone.client.delete("/api/state"), "Method Not Allowed", 405)
    refused(phone.client.get("/api/teach"), "Not Found", 404)
    assert phone.client.get("/api/photos/99999999999999999999999999/x").status_code == 400


def test_more_than_a_form_may_hold(phone):
    refused(phone.teach("c", [FILES[2][0]] * 65), "Too many files")
    refused(phone.client.post("/api/teach", data={"class": "x" * 2_000_000}, files={"photo": FILES[2][0]}), "")


def test_a_body_of_a_gigabyte_is_not_read(phone):
    head = b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n"
    answer = phone.raw(head)
    assert b" 413 " in answer and LARGE.encode() in answer and b"connection: close" in answer.lower()


def test_bodies_under_way_have_a_limit_together(phone, monkeypatch):
    """And what was refused or answered counts no more."""
    monkeypatch.setattr(limits, "MOST_AT_ONCE", len(FILES[0][0]) + 10)
    refused(phone.ask(FILES[0][0] + bytes(100)), "too many photos come at once", 503)
    assert [phone.ask(FILES[0][0]).status_code for _ in range(2)] == [200, 200]
    refused(phone.client.post("/api/forget", content=b"[" + b"[]," * 30_000 + b"[]]"), "", 503)
    monkeypatch.undo()
    refused(phone.client.post("/api/forget", content=b"[" + b"[]," * 30_000 + b"[]]"), "more than 64 kB of JSON")


def test_a_body_that_does_not_say_its_length_is_read_up_to_the_limit(phone):
    def parts():
        for _ in range(1000):
            sent.append(1)
            yield bytes(1_000_000)

    sent = []
    try:
        refused(phone.client.post("/api/predict", content=parts()), LARGE, 413)
    except OSError:  # closed while it was sent
        pass
    except Exception as error:
        assert type(error).__module__.startswith("httpx")
    assert len(sent) < 100


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET /api/state HTTP/1.1\r\nHost: lo", b"\x16\x03\x01"])
def test_a_head_that_comes_too_slowly(phone, sent, monkeypatch):
    monkeypatch.setattr(limits, "HEADER_SECONDS", 0.2)
    answer = phone.raw(sent)
    assert answer == b"" or b" 400 " in answer


def test_a_body_that_comes_too_slowly(phone, monkeypatch):
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.2)
    answer = phone.raw(b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
    assert b" 408 " in answer and b"came too slowly" in answer


def test_a_client_that_goes_away(phone):
    for _ in range(20):
        phone.raw(b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc", seconds=0.01)
        phone.raw(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n", seconds=0.01)


def test_a_thousand_malformed_requests(phone, monkeypatch):
    """Random bytes, and real requests that were cut, doubled and changed; what is answered is an error or sense."""
    monkeypatch.setattr(limits, "HEADER_SECONDS", 0.05)
    monkeypatch.setattr(limits, "PER_SECOND", 1e9)
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.05)
    chance = random.Random(0)
    form = b'--x\r\nContent-Disposition: form-data; name="class"\r\n\r\nc\r\n--x--\r\n'
    real = [
        b"POST /api/predict?camera=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /api/teach HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(form), form),
        b'POST /api/drop HTTP/1.1\r\nHost: localhost\r\nContent-Length: 13\r\n\r\n{"photo":"9"}',
        b"POST /api/undo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n",
    ]
    sent = []
    for number in range(1000):
        content = bytearray(chance.choice(real) if number % 4 else chance.randbytes(chance.randrange(1, 300)))
        for _ in range(chance.randrange(1, 12)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        sent.append(bytes(content[: chance.randrange(1, len(content) + 1)] if number % 3 else content))
    with ThreadPoolExecutor(32) as together:
        for answer in together.map(phone.raw, sent):
            assert answer == b"" or int(answer.split(b" ")[1]) in ERRORS, answer


def test_a_full_disk(phone, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for answer in (
        phone.teach("c", FILES[2]),
        phone.do("rename", **{"class": "a", "to": "z"}),
        phone.do("drop", photo=1),
    ):
        assert answer.status_code == 507 and "No space left on device" in answer.json()["error"], answer.text
        assert answer.json()["error"].endswith("nothing was changed")


def test_what_nobody_expected_is_one_sentence(phone, monkeypatch):
    told = []
    log = logging.getLogger("gems_edge.serve.app")
    monkeypatch.setattr(log, "propagate", False)  # the root's handlers are those that earlier tests' libraries left
    monkeypatch.setattr(log, "handlers", [heard := logging.Handler()])
    heard.emit = lambda record: told.append(record.getMessage())
    monkeypatch.setattr(type(phone.server.served.classroom), "drop", lambda *_: {}[0])
    refused(phone.do("drop", photo=1), "unexpected KeyError", 500)
    assert told == ["/api/drop: unexpected KeyError: 0"]
