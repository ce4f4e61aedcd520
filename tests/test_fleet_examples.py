"""The worked examples of docs/fleet: the Mender module as Mender calls it, and what systemd says of the units."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import handmade as hm
import pytest

FLEET = Path(__file__).parents[1] / "docs" / "fleet"
MODULE = FLEET / "gems-edge-bundle"

pytestmark = pytest.mark.slow(15)


@pytest.fixture
def mender(environment, tmp_path):
    """`mender("ArtifactInstall")` in Mender's directory of an update to new.gems → exit code and output."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "gems-edge").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gems_edge "$@"\n')
    (programs / "gems-edge").chmod(0o755)
    (tmp_path / "fleet.conf").write_text(f"INTO={tmp_path}/board\n")
    update = tmp_path / "update"
    for part in ("files", "tmp", "header"):
        (update / part).mkdir(parents=True)
    hm.write_tested(tmp_path / "old.gems")
    hm.write_tested(tmp_path / "new.gems", steps=4)
    subprocess.run(["tar", "-cf", update / "files/bundle.tar", "-C", tmp_path, "new.gems"], check=True)
    path = f"{programs}:{os.environ['PATH']}"
    changes = {
        "INSTALL_OPTIONS": "--most-time 1e6 --most-memory 1e6",
        "PATH": path,
        "GEMS_EDGE_FLEET": str(tmp_path / "fleet.conf"),
        "PYTHONPATH": str(FLEET.parents[1]),
    }

    def call(state):
        command = ["sh", MODULE, state, update]
        result = subprocess.run(command, cwd=update, env=environment | changes, capture_output=True, text=True)
        return result.returncode, result.stdout.strip() or result.stderr

    subprocess.run(
        [programs / "gems-edge", "install", tmp_path / "old.gems", "--into", tmp_path / "board"],
        env=environment | changes, check=True, capture_output=True,
    )  # fmt: skip
    return call


def in_use(tmp_path):
    return os.readlink(tmp_path / "board/current")


def test_an_update_that_is_committed(mender, tmp_path):
    assert (mender("SupportsRollback"), mender("NeedsArtifactReboot")) == ((0, "Yes"), (0, "No"))
    assert mender("ArtifactInstall")[0] == 0 and in_use(tmp_path) == "2"
    assert mender("ArtifactCommit")[0] == 0
    assert mender("Cleanup")[0] == 0 and not (tmp_path / "update/tmp/new").exists()
    assert mender("StateOfTheFuture") == (0, "")


def test_an_update_that_is_rolled_back(mender, tmp_path):
    assert mender("ArtifactInstall")[0] == 0
    (tmp_path / "board/2/bundle.gems/selftest.safetensors").write_bytes(b"x")
    assert mender("ArtifactCommit")[0] == 2
    assert mender("ArtifactRollback")[0] == 0 and in_use(tmp_path) == "1"
    assert mender("ArtifactRollback")[0] == 0 and in_use(tmp_path) == "1"  # it is called twice after a power cut
    assert mender("ArtifactFailure")[0] == 0


def test_an_update_that_is_refused(mender, tmp_path):
    shutil.rmtree(tmp_path / "new.gems")
    hm.write_bundle(tmp_path / "new.gems")
    (tmp_path / "new.gems/adapt.onnx").write_bytes(b"x")
    subprocess.run(["tar", "-cf", tmp_path / "update/files/bundle.tar", "-C", tmp_path, "new.gems"], check=True)
    assert mender("ArtifactInstall")[0] == 2
    assert mender("ArtifactRollback")[0] == 0 and in_use(tmp_path) == "1"


def test_systemd_takes_the_units():
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    units = [FLEET / f"gems-edge-update.{kind}" for kind in ("service", "timer")]
    units.append(FLEET / "gems-edge-serve.service")
    result = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    assert result.returncode == 0 and not [line for line in result.stderr.splitlines() if "gems-edge" in line]
