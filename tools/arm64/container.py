"""Carry out a container file in the arm64 userland: its steps as user pi, with /srv at home.

No image is made: what a step of the file runs, and what the image would start, run in a Debian with the same Python.
"""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from debian import Unavailable, unpacked
from userland import PLATFORMS, REPOSITORY

SRV = "/home/pi/srv"  # /srv of the image
_CONTEXT, _WHEELS = "/home/pi/context", "/home/pi/wheels"
PATH = "/home/pi/.local/bin:/usr/bin:/bin"
# Beside Debian's packages, which a user without privilege leaves as they are, and without a network.
_PIP = (
    "PIP_USER", "PIP_BREAK_SYSTEM_PACKAGES", "PIP_NO_INDEX", "PIP_NO_COMPILE", "PIP_NO_WARN_SCRIPT_LOCATION",
    "PIP_DISABLE_PIP_VERSION_CHECK",
)  # fmt: skip
_NOTHING_TO_DO = ("FROM", "USER", "VOLUME")


@dataclass(frozen=True)
class Container:
    """What a file says: a shell script of its steps, and the command that its image starts."""

    steps: str
    command: tuple[str, ...]


def container_of(file: Path) -> Container:
    """Raises ValueError for an instruction that is not carried out here."""
    steps, start = ["set -e"], {"ENTRYPOINT": [], "CMD": []}
    for line in file.read_text().replace("/srv", SRV).splitlines():
        name, _, rest = line.partition(" ")
        if name == "RUN":
            steps.append(rest)
        elif name == "COPY":
            *sources, target = rest.split()
            steps.append(f"mkdir -p {target} && cp {' '.join(f'{_CONTEXT}/{each}' for each in sources)} {target}")
        elif name == "WORKDIR":
            steps.append(f"mkdir -p {rest} && cd {rest}")
        elif name in start:
            start[name] = json.loads(rest)
        elif name and not name.startswith("#") and name not in _NOTHING_TO_DO:
            raise ValueError(f"{file.name}: nothing here carries out {name}")
    return Container("\n".join(steps), (*start["ENTRYPOINT"], *start["CMD"]))


def context(home: Path, wheel: Path) -> dict[str, str]:
    """In `home` what the steps copy, with the wheel of gems-edge, and the wheels that pip finds without a network; the
    environment that says so."""
    requirements = REPOSITORY / "requirements" / "board-serve.txt"
    for source, directory in ((requirements, "requirements"), (wheel, "dist")):
        (home / "context" / directory).mkdir(parents=True)
        shutil.copy(source, home / "context" / directory)
    shutil.copytree(_wheels(requirements), home / "wheels")
    return dict.fromkeys(_PIP, "1") | {"PIP_FIND_LINKS": _WHEELS}


def _wheels(requirements: Path) -> Path:
    """The arm64 wheels of locked requirements, fetched once. Raises Unavailable where they cannot be had."""

    def fetch(directory: Path) -> None:
        _download(requirements, directory / "wheels")

    return unpacked("serve-wheels", {"requirements": requirements.read_text()}, fetch) / "wheels"


def _download(requirements: Path, directory: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    command += ["--only-binary", ":all:", "--implementation", "cp", "--python-version", "3.11"]
    command += [f"--platform={name}" for name in PLATFORMS]
    done = subprocess.run([*command, "-d", directory, "-r", requirements], capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr[-200:]]
        raise Unavailable(f"pip cannot fetch the arm64 wheels: {said[0]}")


def unit_command(unit: Path, state_directory: str) -> list[str]:
    """What a systemd unit starts, with another state directory."""
    [line] = [line for line in unit.read_text().splitlines() if line.startswith("ExecStart=")]
    return shlex.split(line.removeprefix("ExecStart=").replace("/var/lib/gems-edge", state_directory))


def until_a_line(command: Sequence[str]) -> list[str]:
    """`command` in a shell that ends it with SIGTERM when a line comes on stdin, and ends as it does."""
    script = '"$@" </dev/null & read line; kill -TERM $!; wait $!'
    return ["sh", "-c", script, "sh", *command]
