"""Debian packages without installing them: apt resolves and downloads in a directory of its own, tar unpacks.

Needs no root and changes nothing on the host; the sources (and their keys) are the host's. What was unpacked is kept in
the cache directory of gems-edge under a hash of its recipe.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gems_edge.files import cache_directory

HOST_STATUS = Path("/var/lib/dpkg/status")
# apt in directories of its own: as the user who runs it, no translations, no host configuration that would pin or hook.
_APT_CONFIG = """
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Debug::NoLocking "true";
Dir::Etc::Parts "/dev/null";
Dir::State "{place}";
Dir::State::lists "{place}/lists";
Dir::State::status "{status}";
Dir::Cache "{place}";
Dir::Cache::archives "{place}/archives";
Dir::Log "{place}";
"""


class Unavailable(Exception):
    """Why this machine cannot do it, in one line; tests skip with it."""


def need(*programs: str) -> None:
    """Raises Unavailable unless all `programs` can be started."""
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        raise Unavailable(f"{', '.join(missing)} not found on this machine")


def unpacked(name: str, recipe: dict[str, Any], make: Callable[[Path], None]) -> Path:
    """The directory that `make(directory)` filled for this `recipe`: from the cache, or made now.

    It appears whole or not at all; of several processes that want it one makes it and the others wait. Directories of
    the same `name` and another recipe are removed.
    """
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    place = cache_directory() / "arm64"
    place.mkdir(parents=True, exist_ok=True)
    target = place / f"{name}-{key}"
    with open(place / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            for old in [*place.glob(f"{name}-*"), *place.glob(f".{name}-*")]:
                shutil.rmtree(old)
            making = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=place))
            making.chmod(0o755)
            try:
                make(making)
                (making / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")
                making.rename(target)
            except BaseException:
                shutil.rmtree(making, ignore_errors=True)
                raise
    return target


@contextlib.contextmanager
def downloaded(
    packages: Sequence[str], architectures: Sequence[str], status: Path | None = None
) -> Iterator[list[Path]]:
    """The .deb files of `packages` (names, NAME:ARCHITECTURE, apt patterns) and of all they depend on, while it lasts.

    `architectures`: the first is the native one. `status`: what counts as installed, None for nothing. Raises
    Unavailable where there is no apt, no network, or no such package.
    """
    need("apt-get", "dpkg-deb", "tar")
    with tempfile.TemporaryDirectory(prefix="gems-edge-apt-") as place:
        config = _configure(Path(place), architectures, status)
        # An update that fails for one of the host's sources may still have found all that is needed.
        updated = _apt(config, "update")
        error = _apt(config, "install", "--download-only", "--yes", "--reinstall", *packages)
        if error:
            wanted = f"{', '.join(packages)} for {' and '.join(architectures)}"
            raise Unavailable(f"apt cannot download {wanted}: {updated or error}")
        yield sorted((Path(place) / "archives").glob("*.deb"))


def source_file(package: str, member: str) -> bytes:
    """The content of the one file `member` (*/include/x.h) of the source package's upstream archive.

    Raises Unavailable as `downloaded`.
    """
    need("apt-get", "tar", "xz")
    with tempfile.TemporaryDirectory(prefix="gems-edge-apt-") as directory:
        place = Path(directory)
        config = _configure(place, [], None)
        for sources in [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]:
            if sources.suffix in (".list", ".sources") and sources.exists():
                text = re.sub(r"^Types:.*", "Types: deb-src", sources.read_text(), flags=re.MULTILINE)
                text = re.sub(r"^deb\s", "deb-src ", text, flags=re.MULTILINE)
                (place / "sources" / sources.name).write_text(text)
        with open(config, "a") as file:
            file.write(f'Dir::Etc::SourceList "/dev/null";\nDir::Etc::SourceParts "{place}/sources";\n')
        updated = _apt(config, "update")
        error = _apt(config, "source", "--download-only", "--tar-only", package, cwd=place)
        archives = [found for found in place.glob(f"{package}_*.orig.tar.*") if found.suffix != ".asc"]
        if error or not archives:
            raise Unavailable(f"apt cannot download the source of {package}: {updated or error or 'it has no archive'}")
        extract = ["tar", "--extract", "--to-stdout", "--wildcards", "--file", str(archives[0]), member]
        done = subprocess.run(extract, capture_output=True)
        if done.returncode:
            raise Unavailable(f"the source of {package} holds no {member}")
        return done.stdout


def _configure(place: Path, architectures: Sequence[str], status: Path | None) -> Path:
    """apt's configuration in `place`, where it keeps all that it writes."""
    for name in ("lists/partial", "archives/partial", "sources"):
        (place / name).mkdir(parents=True)
    (place / "status").touch()
    text = _APT_CONFIG.format(place=place, status=status or place / "status")
    if architectures:
        names = " ".join(f'"{name}";' for name in architectures)
        text += f'APT::Architecture "{architectures[0]}";\nAPT::Architectures {{ {names} }};\n'
    (place / "apt.conf").write_text(text)
    return place / "apt.conf"


def _apt(config: Path, *arguments: str, cwd: Path | None = None) -> str:
    """What went wrong, in a line; empty if nothing."""
    environment = os.environ | {"APT_CONFIG": str(config), "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "-q", "-o", "Acquire::Retries=3", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=300)
    except subprocess.TimeoutExpired:
        return "apt-get took more than 5 minutes"
    said = [line for line in (done.stderr + done.stdout).splitlines() if line.startswith("E:")]
    return "" if done.returncode == 0 else (said or [f"exit code {done.returncode}"])[0]


def unpack(packages: Sequence[Path], root: Path, leave_out: Sequence[str] = ()) -> None:
    """Unpack .deb files into `root` over a merged /usr, as Debian and Raspberry Pi OS have it.

    No maintainer script runs. `leave_out`: patterns of files, as ./usr/share/doc/*. (`dpkg-deb -x` would replace the
    links /bin, /lib and /sbin by the directories in the packages.)
    """
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (root / name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    extract = ["tar", "--extract", "--keep-directory-symlink", "--no-same-owner", "--directory", str(root)]
    extract += [f"--exclude={pattern}" for pattern in leave_out]
    for package in packages:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as archive:
            done = subprocess.run(extract, stdin=archive.stdout, capture_output=True, text=True)
        if archive.returncode or done.returncode:
            raise Unavailable(f"{package.name} cannot be unpacked: {done.stderr.strip()[-200:] or 'dpkg-deb failed'}")


def package_names(packages: Sequence[Path]) -> list[str]:
    """NAME_VERSION_ARCHITECTURE of each file."""
    return [package.stem.replace("%3a", ":") for package in packages]
