"""Names that are not UTF-8 or hold control characters, terminals of other encodings, users without a home."""

import json
import os
import subprocess
import sys

import pytest
from board import handmade


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    place = tmp_path_factory.mktemp("odd")
    handmade.write_bundle(place / "h.gems")
    handmade.write_pictures(place / "photos", *handmade.pictures(2, 2))
    return place


def run(here, *arguments, **environment):
    inherited = {name: value for name, value in os.environ.items() if name not in ("LC_ALL", "PYTHONIOENCODING")}
    command = [sys.executable, "-m", "gems_edge", *arguments]
    return subprocess.run(command, cwd=here, env=inherited | environment, capture_output=True, timeout=100)


def test_a_class_that_is_not_utf_8_is_refused_before_teaching(here, tmp_path):
    handmade.write_pictures(tmp_path / "photos", *handmade.pictures(2, 2))
    os.rename(tmp_path / "photos/kind 0", os.fsencode(tmp_path) + b"/photos/caf\xe9")
    done = run(here, "adapt", "h.gems", "--support", str(tmp_path / "photos"), "-o", "bytes.state")
    assert done.returncode == 2 and not (here / "bytes.state").exists()
    assert done.stderr.splitlines()[-1].endswith(rb"the class folder caf\xe9 is not UTF-8 text; rename it")
    assert b"loss" not in done.stderr


def test_an_image_that_is_not_utf_8_is_answered(here):
    name = os.fsdecode(b"caf\xe9.png")
    os.link(here / "photos/kind 0/000.png", here / name)
    done = run(here, "predict", "h.gems", name, "--json")
    assert done.returncode == 0 and json.loads(done.stdout.decode("ascii"))[0]["image"] == name
    shown = run(here, "predict", "h.gems", name)
    assert shown.returncode == 0 and shown.stdout.decode()


def test_no_name_speaks_to_the_terminal(here, tmp_path):
    handmade.write_pictures(tmp_path / "photos", *handmade.pictures(2, 2))
    os.rename(tmp_path / "photos/kind 0", tmp_path / "photos/\x1b]0;pwned\x07\x1b[31mred")
    taught = run(here, "adapt", "h.gems", "--support", str(tmp_path / "photos"), "-o", "escape.state")
    answered = run(here, "predict", "h.gems", "--state", "escape.state", "photos/kind 0/000.png")
    refused = run(here, "predict", "h.gems", "no\x1b[31m.png")
    for done, code in ((taught, 0), (answered, 0), (refused, 2)):
        assert done.returncode == code and b"\x1b" not in done.stdout + done.stderr, done
    assert b"[31mred" in answered.stdout and b"no?[31m.png" in refused.stderr


@pytest.mark.parametrize("how", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_terminals_that_are_not_utf_8(here, tmp_path, how):
    handmade.write_pictures(tmp_path / "photos", *handmade.pictures(2, 2))
    os.rename(tmp_path / "photos/kind 0", tmp_path / "photos/ĐÉ")
    how = how | {"PYTHONCOERCECLOCALE": "0"}
    state = str(tmp_path / "a.state")
    taught = run(here, "adapt", "h.gems", "--support", str(tmp_path / "photos"), "-o", state, **how)
    answered = run(here, "predict", "h.gems", "--state", state, "photos/kind 0/000.png", **how)
    assert taught.returncode == 0 == answered.returncode, taught.stderr + answered.stderr
    assert rb"\u0110" in answered.stdout or "Đ".encode() in answered.stdout


def test_a_path_that_cannot_be_is_bad_input(here):
    for path in ("x" * 300 + ".state", "photos/kind 0/000.png/a.state"):
        done = run(here, "adapt", "h.gems", "--support", "photos", "-o", path)
        assert done.returncode == 2 and b"loss" not in done.stderr, done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_a_user_whom_the_system_does_not_know(here, tmp_path):
    code = "import os, sys; from gems_edge.cli.main import main; os.setgid(54321); os.setuid(54321); "
    code += "os.environ.pop('HOME', None); "
    code += "os.environ.pop('GEMS_EDGE_CACHE', None); os.environ.pop('XDG_CACHE_HOME', None); "
    code += "sys.argv = ['gems-edge', '--version']; main()"
    tmp_path.chmod(0o777)
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd="/", env=environment, capture_output=True, timeout=100)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
