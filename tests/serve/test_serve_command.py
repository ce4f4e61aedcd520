"""gems-edge serve as a program of its own: its start, its end, and what is left of a killed one."""

import contextlib
import json
import os
import random
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time

import httpx
import pytest
from serving import BUNDLE, Phone, bundle_in, handmade, photos

from gems_edge.cli.main import main
from gems_edge.device import Learner

FILES = photos(5)


@contextlib.contextmanager
def started(place, *options):
    """The program and what it said on stdout; it is killed at the end."""
    command = [
        sys.executable,
        "-m",
        "gems_edge",
        "serve",
        bundle_in(place),
        "--state",
        place / "s.state",
        "--port",
        "0",
    ]
    command += ["--threads", "1", "--json", *options]
    program = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = program.stdout.readline()
        assert line, program.stderr.read()
        yield program, json.loads(line)
    finally:
        program.kill()
        program.communicate()


def phone_of(document, **options):
    return Phone(httpx.Client(base_url=document["urls"][0].partition("?")[0], timeout=120, **options), None)


def ended(program, number):
    program.send_signal(number)
    out, err = program.communicate(timeout=120)
    return program.returncode, out, err


def test_what_was_taught_is_there_after_a_restart(tmp_path):
    with started(tmp_path) as (program, document):
        assert document["token"] is None and document["state"] == str(tmp_path / "s.state")
        phone = phone_of(document)
        phone.teach("a", FILES[0])
        phone.teach("b", FILES[1])
        before = phone.state
        with phone.client.stream("GET", "/api/events") as told:  # a page that is open keeps nobody from ending
            lines = told.iter_lines()
            next(lines)
            code, out, err = ended(program, signal.SIGTERM)
            assert list(lines) == [""]
        assert (code, out) == (143, "") and "Traceback" not in err
        assert err.splitlines()[-1] == f"gems-edge: stopped by SIGTERM; what was taught is in {tmp_path / 's.state'}"
    with started(tmp_path) as (program, document):
        phone = phone_of(document)
        assert phone.state == before
        assert phone.client.post("/api/undo").status_code == 400
        phone.teach("c", FILES[2])
        assert ended(program, signal.SIGINT)[0] == 130
    learner = Learner.load(bundle_in(tmp_path))
    assert learner.load_state(tmp_path / "s.state").generation == 2 and learner.classes == ("a", "b", "c")


def test_a_change_that_is_under_way_is_answered_before_the_end(tmp_path):
    with started(tmp_path) as (program, document):
        phone = phone_of(document)
        phone.teach("a", FILES[0])
        done = []
        teaching = threading.Thread(target=lambda: done.append(phone.teach("b", FILES[1])))
        teaching.start()
        time.sleep(0.02)
        assert ended(program, signal.SIGTERM)[0] == 143
        teaching.join()
    if done:  # else it came after the end, and was told so by the connection
        assert done[0].json()["generation"] == 1
        assert Learner.load(bundle_in(tmp_path)).load_state(tmp_path / "s.state").generation == 1


def test_kills_while_it_is_taught_leave_the_old_or_the_new(tmp_path):
    """What was answered is there; what was not may be."""
    chance = random.Random(0)
    for kill in range(5):
        with started(tmp_path) as (program, document):
            phone, known = phone_of(document), 0
            known = phone.state["generation"]
            timer = threading.Timer(0.05 + 0.1 * chance.random(), program.kill)
            timer.start()
            with contextlib.suppress(httpx.HTTPError):
                for number in range(1000):
                    name, files = f"{kill} {number % 4}", photos(1, 1, seed=1000 * kill + number)[0]
                    done = phone.teach(name, files)
                    assert done.status_code == 200, done.text
                    known = done.json()["generation"]
            timer.join()
        if known:
            learner = Learner.load(bundle_in(tmp_path))
            assert learner.load_state(tmp_path / "s.state").generation in (known, known + 1)
            assert all(map(learner.thumbnail, (photo.number for photo in learner.taught.versions[-1].album.photos)))


def test_tls_and_a_token_for_others(tmp_path):
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    with started(tmp_path, "--tls", "--host", "0.0.0.0") as (program, document):
        url = document["urls"][0]
        assert url.startswith("https://") and url.endswith(f"/?token={document['token']}")
        certificate = tmp_path / "s.state.pem"
        assert oct(certificate.stat().st_mode)[-3:] == "600"
        trusted = ssl.create_default_context(cafile=certificate)
        with httpx.Client(verify=trusted, base_url=url.partition("?")[0]) as client:
            assert client.get("/api/state").status_code == 401
            assert "secure" in client.get("/", params={"token": document["token"]}).headers["set-cookie"].lower()
            assert client.get("/api/state").status_code == 200
        first = certificate.read_bytes()
        port = httpx.URL(url).port
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{port}/")
        code, _, err = ended(program, signal.SIGTERM)
        assert code == 143 and "Traceback" not in err
    with started(tmp_path, "--tls", "--host", "0.0.0.0") as (_, again):
        assert again["token"] == document["token"] and certificate.read_bytes() == first


@pytest.fixture
def serve(tmp_path, monkeypatch, capsys):
    """The command in this process, which does not come as far as listening: exit code and last line."""

    def call(*options, bundle=None):
        arguments = [bundle or bundle_in(tmp_path), "--state", tmp_path / "s.state", "--port", "0", *options]
        monkeypatch.setattr(sys, "argv", ["gems-edge", "serve", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        assert out == "" and "Traceback" not in err
        return end.value.code, err.splitlines()[-1]

    return call


NEW = "remove it, and a new one is made"


def test_what_cannot_be_served(serve, tmp_path, monkeypatch):
    other = handmade.write_bundle(tmp_path / "other.gems", seed=1, **BUNDLE)
    learner = Learner.load(bundle_in(tmp_path))
    learner.adapt(*handmade.pictures(2, 1))
    learner.save(tmp_path / "s.state")
    for (code, line), words in [
        (serve(bundle=other), "taught with another bundle"),
        (serve(bundle=tmp_path / "absent.gems"), "absent.gems"),
        (serve("--host", "256.0.0.1"), "cannot listen at 256.0.0.1 port 0"),
        (serve("--host", "192.0.2.77"), "choose another --host or --port"),
        (serve("--precision", "int8"), "no quantised graph"),
    ]:
        assert code == 2 and words in line, line
    if shutil.which("openssl"):
        (certificate := tmp_path / "s.state.pem").write_text("no certificate")
        assert serve("--tls") == (2, f"gems-edge: {certificate} holds no certificate with its key; {NEW}")
        certificate.unlink(), os.mkfifo(certificate)
        assert "is not a plain file, but a FIFO" in serve("--tls")[1]
    monkeypatch.setenv("PATH", str(tmp_path))
    code, line = serve("--tls")
    assert code == 2 and "openssl, which is not installed here" in line
    (tmp_path / "s.state.waiting.json").write_text("{")
    code, line = serve()
    assert code == 2 and "s.state.waiting.json is damaged" in line


def test_a_port_that_is_taken(serve, tmp_path):
    with started(tmp_path) as (_, document):
        port = httpx.URL(document["urls"][0]).port
        code, line = serve("--port", port)
        assert code == 2 and f"port {port} (Address already in use)" in line
    assert os.path.isdir(bundle_in(tmp_path))
