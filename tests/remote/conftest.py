"""A board to log in to on loopback (tools/arm64/sshd.py: a real sshd, the system's ssh), and a bundle to take there."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import handmade
import pytest
from on_board import running_sshd
from small_settings import hear_ctrl_c
from sshd import Server


@pytest.fixture(scope="session")
def server(environment) -> Iterator[Server]:
    """A board that is this machine, with a user and a home of its own."""
    with running_sshd(environment) as running:
        yield running


@pytest.fixture(scope="session")
def strange(environment, tmp_path_factory) -> Iterator[Server]:
    """A board whose sessions begin with what the test wrote into ~/enter: in the state that the test is about."""
    file = tmp_path_factory.mktemp("strange") / "enter"
    file.write_text('. "$HOME/enter"\n')
    with running_sshd(environment, f"/bin/sh {file}") as running:
        yield running


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Path:
    return handmade.write_bundle(tmp_path_factory.mktemp("bundles") / "h.gems")


@pytest.fixture(scope="session")
def start_bench(environment, bundle, tmp_path_factory) -> Callable[..., subprocess.Popen]:
    """`start_bench(config, …)` begins `gems-edge bench BUNDLE --host board` in a process of its own."""
    temporary = str(tmp_path_factory.mktemp("t"))  # where a command that is killed leaves what it was about to send

    def start(config: Path, *options, host: str = "board") -> subprocess.Popen:
        command = [sys.executable, "-m", "gems_edge", "bench", bundle, "--host", host, "-F", config, "--threads", 1]
        command += ["--json", *options]
        return subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment | {"OMP_NUM_THREADS": "1", "TMPDIR": temporary}, start_new_session=True,
            preexec_fn=hear_ctrl_c,
        )  # fmt: skip

    return start


@pytest.fixture(scope="session")
def refused(start_bench) -> Callable[..., str]:
    """`refused(config, …)`: the one line on stderr with which the command ends, beside lines of progress."""

    def call(config: Path, *options, code: int = 2, host: str = "board") -> str:
        process = start_bench(config, *options, host=host)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code and out == "" and "Traceback" not in err, (process.returncode, out, err)
        assert err.count("gems-edge: ") == 1
        return err.splitlines()[-1].removeprefix("gems-edge: ")

    return call
