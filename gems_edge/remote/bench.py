"""`gems-edge bench BUNDLE --host HOST`: adapt, predict and bench on a board, and what came of it."""

import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gems_edge.device import Learner
from gems_edge.device.bundle import Bundle, bundle_files
from gems_edge.device.support import read_support
from gems_edge.errors import UserError
from gems_edge.predict.memory import predict_memory
from gems_edge.remote import ssh
from gems_edge.remote.answers import read_answers
from gems_edge.remote.board import Board, check, check_disk, check_memory, look
from gems_edge.remote.job import BoardJob, alive_seconds
from gems_edge.remote.wheels import build_own_wheel, gather, unpacked_bytes

# How much the packages are is not known where the board must find them itself: what they took in 2026, and a reserve.
_PACKAGES_BYTES = 250e6
_RESERVE_BYTES = 30e6
_QUERIES = 4


@dataclass(frozen=True)
class Target:
    """A board to measure on, and how."""

    host: str
    config: str | None = None  # a file for ssh's -F
    wheels: str | None = None  # a directory to install from
    keep: bool = False  # leave the environment there for the next time
    patience: int = 120  # seconds that a lost connection may take to come back


@dataclass(frozen=True)
class Delivery:
    """What is copied to the board, in one file: the bundle, the pictures and the wheels."""

    payload: Path
    own_wheel: Path  # the wheel of gems-edge
    wheels: tuple[Path, ...]  # with those that it needs; none if the board has them or has to find them itself
    environment: str  # the name under which the board keeps the environment, or will


def bench_on(bundle: Bundle, target: Target, threads: int | None, on_stage: Callable[[str], None]) -> dict[str, Any]:
    """The document of `gems-edge bench` on a board, with "remote": what adapt and predict answered there.

    Raises UserError for a host that cannot be reached or used, MachineError for what fails on the way.
    """
    host = target.host
    with (
        tempfile.TemporaryDirectory(prefix="gems-edge-bench-") as staging,
        ssh.connected(host, target.config, alive_seconds(target.patience)) as connection,
    ):
        directory = Path(staging)
        on_stage(f"looking at {host}")
        board = look(connection)
        check(board, host)
        needed = predict_memory(bundle.manifest["cost"], bundle.ways * bundle.shots, "adapt").low
        check_memory(board, host, 1e6 * needed)
        on_stage("adapting and predicting here, to compare")
        _write_pictures(bundle, directory)
        expected = _probabilities(bundle, directory, threads)
        delivery = _pack(bundle, board, target, directory, on_stage)
        with BoardJob(connection, board, target.patience, on_stage) as job:
            size = delivery.payload.stat().st_size
            on_stage(f"copying {size / 1e6:.1f} MB to {host}")
            job.copy(delivery.payload)
            outcome = job.run(_plan(delivery, target.keep, threads))
    measured, answered = read_answers(outcome, expected, host)
    remote = {
        "host": host,
        **answered,
        "copied_bytes": size,
        "reconnections": job.reconnections,
        "kept": f"{board.base}/{delivery.environment}" if target.keep else None,
    }
    return measured | {"bundle": str(bundle.path), "remote": remote}


def _pack(bundle: Bundle, board: Board, target: Target, directory: Path, on_stage: Callable[[str], None]) -> Delivery:
    """Everything for the board, in `directory`. UserError if it has no room for that."""
    own_wheel = build_own_wheel(directory)
    environment = f"env-{board.tag}-{hashlib.sha256(own_wheel.read_bytes()).hexdigest()[:12]}"
    reused = target.keep and environment in board.kept
    wheels = () if reused else _gather(own_wheel, board, target, directory, on_stage)
    payload = _write_payload(bundle, directory, wheels or (own_wheel,))
    delivery = Delivery(payload, own_wheel, wheels, environment)
    if reused:
        installed = 0.0
    else:
        installed = unpacked_bytes(wheels) if wheels else _PACKAGES_BYTES
    copied = payload.stat().st_size + 2 * unpacked_bytes([payload])  # what is taught is as large as what came
    check_disk(board, target.host, copied + installed + _RESERVE_BYTES)
    return delivery


def _gather(
    own_wheel: Path, board: Board, target: Target, directory: Path, on_stage: Callable[[str], None]
) -> tuple[Path, ...]:
    """The wheels for the board; none if it has to find them itself. UserError if it could not install them then."""
    on_stage(f"gathering packages for Python {board.version[0]}.{board.version[1]} on {board.machine}")
    gathered = directory / "wheels"
    gathered.mkdir()
    wheels = gather(own_wheel, board, target.host, Path(target.wheels) if target.wheels else None, gathered)
    if wheels is None:
        on_stage(f"no packages for it could be fetched here; {target.host} has to fetch them itself")
        if not board.ensurepip:
            raise UserError(
                f"{target.host}: its Python cannot make an environment with pip (no ensurepip); install it there: "
                "sudo apt install python3-venv, or give --wheels DIR"
            )
        return ()
    for wheel in wheels:
        if wheel.name != own_wheel.name:
            shutil.move(wheel, directory / wheel.name)
    return tuple(directory / wheel.name for wheel in wheels)


def _plan(delivery: Delivery, keep: bool, threads: int | None) -> dict[str, Any]:
    """What the keeper carries out (keeper.carry_out)."""
    with open(delivery.payload, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "payload": digest,
        "wheels": [wheel.name for wheel in delivery.wheels],
        "package": delivery.own_wheel.name,
        "keep": keep,
        "environment": delivery.environment,
        "commands": _commands(threads),
    }


def _commands(threads: int | None) -> dict[str, list[str]]:
    options = ["--json"]
    if threads:
        options += ["--threads", str(threads)]
    return {
        "adapt": ["adapt", "bundle.gems", "--support", "support", "-o", "taught.state", *options],
        "predict": ["predict", "bundle.gems", "--state", "taught.state", "query", *options],
        "bench": ["bench", "bundle.gems", *options],
    }


def _write_pictures(bundle: Bundle, directory: Path) -> None:
    """support/CLASS/N.png and query/N.png: each class a coarse pattern of its own, under noise."""
    generator = np.random.default_rng(0)
    patterns = generator.integers(0, 256, (bundle.ways, 4, 4, 3), dtype=np.uint8)

    def write(path: Path, number: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(patterns[number]).resize((bundle.image_size, bundle.image_size), Image.Resampling.BOX)
        noisy = np.asarray(coarse, np.float64) + generator.normal(0, 20, (*coarse.size, 3))
        image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        (image if bundle.channels == 3 else image.convert("L")).save(path)

    for number in range(bundle.ways):
        for shot in range(bundle.shots):
            write(directory / "support" / f"class {number:03}" / f"{shot}.png", number)
    for query in range(_QUERIES):
        write(directory / "query" / f"{query}.png", query % bundle.ways)


def _probabilities(bundle: Bundle, directory: Path, threads: int | None) -> np.ndarray:
    """Probabilities [_QUERIES, classes] on this machine after the same adaptation."""
    learner = Learner(bundle, threads)
    support = read_support(directory / "support", bundle)
    learner.adapt(support.images, support.labels)
    return learner.predict(learner.read_images(sorted((directory / "query").iterdir())))


def _write_payload(bundle: Bundle, directory: Path, wheels: Iterable[Path]) -> Path:
    """The bundle, the pictures and the wheels as one file, whose names no shell has to quote."""
    path = directory / "payload.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in bundle_files(bundle):
            archive.write(bundle.path / name, f"bundle.gems/{name}")
        for folder in ("support", "query"):
            for file in sorted((directory / folder).rglob("*.png")):
                archive.write(file, file.relative_to(directory))
        for wheel in wheels:
            archive.write(wheel, wheel.name, zipfile.ZIP_STORED)
    return path
