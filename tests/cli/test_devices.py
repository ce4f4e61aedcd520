"""gems-edge devices, through the real command."""

import json
import subprocess
import sys
from importlib import resources

import pytest


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "gems_edge", "devices", *map(str, arguments)], capture_output=True, text=True
    )


def test_list():
    done = run("list")
    assert done.returncode == 0 and "rpi-4b" in done.stdout and "rpi-zero-2w" in done.stdout
    document = json.loads(run("list", "--json").stdout)
    assert {"rpi-4b", "rpi-zero-2w"} <= {entry["id"] for entry in document}


def test_show():
    done = run("show", "rpi-zero-2w")
    assert done.returncode == 0 and "Cortex-A53" in done.stdout and "sbc-bench" in done.stdout
    facts = json.loads(run("show", "rpi-zero-2w", "--json").stdout)["facts"]
    assert facts["cores"]["value"] == 4
    assert all(fact["source"] for fact in facts.values())


def test_check():
    done = run("check")
    assert done.returncode == 0 and done.stdout.count("in range") >= 2
    assert all(entry["ok"] for entry in json.loads(run("check", "--json").stdout))


def test_check_of_files(tmp_path):
    text = (resources.files("gems_edge.device_profiles") / "rpi-4b.toml").read_text()
    good, bad = tmp_path / "mine.toml", tmp_path / "bad.toml"
    good.write_text(text.replace('id = "rpi-4b"', 'id = "mine"'))
    bad.write_text(text.replace('id = "rpi-4b"', 'id = "bad"').replace("value = 1.8", "value = 1800.0"))
    assert run("check", good).returncode == 0
    done = run("check", good, bad)
    assert done.returncode == 2 and "clock = 1800.0 is outside" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [("show", "rpi-9"), ("check", "absent.toml"), ("show",), ("check", ".")])
def test_bad_input(arguments):
    done = run(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("gems-edge: ") and done.stderr.count("\n") == 1
