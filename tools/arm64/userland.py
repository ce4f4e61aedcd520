"""A Debian arm64 userland under qemu-user: what 64-bit Raspberry Pi OS is made of, on an x86-64 Debian.

    python tools/arm64/userland.py setup
    python tools/arm64/userland.py run --cpu cortex-a72 [--home DIR] -- COMMAND…

It is made once (a minute, kept in the cache directory of gems-edge) and holds Debian's base with Python, the board's
dependencies from their arm64 wheels, and qemu itself with its libraries. Nothing is installed on the host and no root
is needed. Emulated times and memory say nothing of a Pi; results, kernels chosen and instruction counts do.
"""

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from boards import BOARDS, write_board
from debian import Unavailable, downloaded, need, package_names, unpack, unpacked

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
_REQUIREMENTS = HERE / "requirements.txt"
_ENTER = HERE / "enter.sh"
# qemu is of the host's architecture: multiarch keeps the libraries of both apart.
_PACKAGES = (
    "?and(?essential,?architecture(arm64))", "python3", "python3-venv", "python3-pip", "libstdc++6", "ca-certificates",
    "procps", "openssh-sftp-server", "rsync", "qemu-user:amd64",
)  # fmt: skip
_LEFT_OUT = ("./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*", "./usr/share/qemu/*")
PLATFORMS = [f"manylinux_2_{minor}_aarch64" for minor in range(36, 16, -1)] + ["manylinux2014_aarch64"]
# Raised with what a person changes here, so that every cache is made anew.
_VERSION = 1
_NAMESPACES = ("unshare", "--user", "--map-root-user", "--mount", "--uts", "--pid", "--fork", "--kill-child")


def check_machine() -> None:
    """Raises Unavailable, saying why, where no arm64 userland can be entered."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise Unavailable(f"the arm64 userland needs x86-64 Linux, not {platform.system()} on {platform.machine()}")
    need("unshare", "mount", "apt-get", "dpkg-deb", "tar")
    namespaces = subprocess.run([*_NAMESPACES, "true"], capture_output=True, text=True)
    if namespaces.returncode:
        raise Unavailable(f"no user namespaces here: {namespaces.stderr.strip()}")
    script = "mount -t tmpfs run /run && mount -t binfmt_misc binfmt /run && test -w /run/register"
    table = subprocess.run([*_NAMESPACES, "sh", "-c", script], capture_output=True, text=True)
    if table.returncode:
        raise Unavailable(
            f"Linux {platform.release()} gives namespaces no binfmt_misc of their own (6.7 and later do): "
            f"{table.stderr.strip()}"
        )


def userland() -> Path:
    """The root of the userland, made if it is not in the cache. Unavailable where it cannot be made or entered."""
    check_machine()
    recipe = {
        "version": _VERSION,
        "packages": _PACKAGES,
        "requirements": [line for line in _REQUIREMENTS.read_text().splitlines() if not line.startswith("#")],
        "release": platform.freedesktop_os_release().get("VERSION_CODENAME", ""),
    }
    return unpacked("userland", recipe, _make) / "root"


def _make(directory: Path) -> None:
    root = directory / "root"
    root.mkdir()
    with downloaded(_PACKAGES, ["arm64", "amd64"]) as packages:
        names = package_names(packages)
        unpack(packages, root, leave_out=_LEFT_OUT)
    for program in (root / "usr" / "bin").glob("qemu-*"):
        if program.name != "qemu-aarch64":
            program.unlink()
    for name in ("dev", "home/pi", "proc", "run", "sys", "tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "usr" / "bin" / "vcgencmd").touch()  # a place for the board's
    users = {"root": (0, "/root", "/bin/sh"), "pi": (1000, "/home/pi", "/bin/bash")}
    etc = {
        "passwd": [f"{name}:x:{uid}:{uid}:{name}:{home}:{shell}" for name, (uid, home, shell) in users.items()],
        "group": [f"{name}:x:{uid}:" for name, (uid, *_) in users.items()],
        "hosts": ["127.0.0.1 localhost board"],
    }
    for name, lines in etc.items():
        (root / "etc" / name).write_text("\n".join(lines) + "\n")
    python = os.readlink(root / "usr" / "bin" / "python3")  # python3.11
    wheels = root / "usr" / "local" / "lib" / python / "dist-packages"
    names += _install_wheels(wheels, python.removeprefix("python"))
    if python == f"python{sys.version_info.major}.{sys.version_info.minor}":  # else each start compiles them once more
        compiled = [wheels, root / "usr" / "lib" / python, root / "usr" / "lib" / "python3"]
        command = [sys.executable, "-m", "compileall", "-q", "-s", root, "-p", "/", *compiled]
        subprocess.run(list(map(str, command)), stdout=subprocess.DEVNULL)  # a file that no Python compiles is no harm
    (directory / "holds.txt").write_text("\n".join(sorted(names)) + "\n")


def _install_wheels(directory: Path, python: str) -> list[str]:
    """The pinned dependencies as arm64 wheels; their names and versions."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    command += ["--only-binary", ":all:", "--implementation", "cp", "--python-version", python]
    command += [f"--platform={name}" for name in PLATFORMS]
    command += ["--target", str(directory), "--requirement", str(_REQUIREMENTS)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr[-200:]]
        raise Unavailable(f"pip cannot fetch the arm64 wheels: {said[0]}")
    return [place.name.removesuffix(".dist-info") for place in directory.glob("*.dist-info")]


def enter(root: Path, board: Path, home: Path | str) -> list[str]:
    """The command that runs what is appended to it inside, on the `board` of write_board, with the home of user pi."""
    return [*_NAMESPACES, "sh", str(_ENTER), str(root), str(board), str(home)]


def run(
    root: Path, cpu: str, home: Path, command: Sequence[str], environment: Mapping[str, str] | None = None, **options
) -> subprocess.CompletedProcess:
    """Run `command` inside. `environment`: variables without blanks; `options` as of subprocess.run."""
    passed = {"PATH": os.environ["PATH"]}
    passed["ARM64_ENVIRONMENT"] = " ".join(f"{name}={value}" for name, value in (environment or {}).items())
    with tempfile.TemporaryDirectory(prefix="gems-edge-board-") as board:
        write_board(cpu, Path(board))
        return subprocess.run([*enter(root, Path(board), home), *map(str, command)], env=passed, **options)


def forced_command(root: Path, board: Path) -> str:
    """A ForceCommand for sshd: every session runs inside, on what is the `board` of write_board by then."""
    inside = shlex.join(enter(root, board, "HOME")).removesuffix("HOME") + '"$HOME" bash'
    return (
        f'if [ -n "$SSH_ORIGINAL_COMMAND" ]; then exec {inside} -c "$SSH_ORIGINAL_COMMAND"; else exec {inside} -l; fi'
    )


def build_wheel(directory: Path) -> Path:
    """A wheel of the working tree, built from a copy: setuptools would take what older builds left beside it."""
    with tempfile.TemporaryDirectory(prefix="gems-edge-wheel-") as place:
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(REPOSITORY / name, place)
        for name in ("gems_edge", "export", "device_profiles"):
            shutil.copytree(REPOSITORY / name, Path(place) / name, ignore=shutil.ignore_patterns("__pycache__"))
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
        if find_spec("setuptools") and int(version("setuptools").split(".")[0]) >= 77:  # needs no network then
            command.append("--no-build-isolation")
        subprocess.run([*command, "--wheel-dir", str(directory), place], check=True)
    return next(directory.glob("gems_edge-*.whl"))


def install_board_package(root: Path, home: Path, cpu: str = "cortex-a72") -> None:
    """What a user does on a board, without a network: ~/env with `gems-edge` from a wheel of the working tree."""
    wheel = build_wheel(home)
    steps = "python3 -m venv --system-site-packages --without-pip env && env/bin/python -m pip install --no-index"
    script = f"{steps} --quiet --disable-pip-version-check --no-compile {wheel.name}"
    run(root, cpu, home, ["sh", "-c", script], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="A Debian arm64 userland under qemu-user.")
    commands = parser.add_subparsers(dest="action", required=True)
    commands.add_parser("setup", help="make it, or say where it is")
    inside = commands.add_parser("run", help="run a command inside")
    inside.add_argument("--cpu", choices=BOARDS, default="cortex-a72")
    inside.add_argument("--home", type=Path, help="a directory as the home inside; a throwaway one if left out")
    inside.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    try:
        root = userland()
    except Unavailable as reason:
        print(f"userland: {reason}", file=sys.stderr)
        return 1
    if arguments.action == "setup":
        print(root)
        return 0
    with tempfile.TemporaryDirectory(prefix="gems-edge-home-") as throwaway:
        return run(root, arguments.cpu, (arguments.home or Path(throwaway)).resolve(), arguments.command).returncode


if __name__ == "__main__":
    sys.exit(main())
