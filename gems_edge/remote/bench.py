"""`gems-edge bench BUNDLE --host HOST`: adapt, predict and bench on a board, and what they said there."""

import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gems_edge.device import Learner
from gems_edge.device.bundle import Bundle
from gems_edge.device.support import read_support
from gems_edge.errors import UserError
from gems_edge.predict.memory import predict_memory
from gems_edge.remote import ssh
from gems_edge.remote.board import Board, check, check_disk, check_memory, look
from gems_edge.remote.job import Job, alive_seconds
from gems_edge.remote.wheels import build_own_wheel, gather, unpacked_bytes

# Where the board must find the packages itself, how much they are is not known: what they took in 2026, and a reserve.
_PACKAGES_BYTES = 250e6
_RESERVE_BYTES = 30e6
_QUERIES = 4


def bench_on(
    bundle: Bundle,
    host: str,
    *,
    threads: int | None,
    config: str | None,
    wheels: str | None,
    keep: bool,
    patience: float,
    on_stage: Callable[[str], None],
) -> dict[str, Any]:
    """The document of `gems-edge bench` on `host`, with "remote": what adapt and predict said there, and how it went.

    `config`: a file for ssh's -F; `wheels`: a directory to install from; `keep`: leave the environment for the next
    time; `patience`: seconds that a lost connection may take to come back. Raises UserError for a host that cannot be
    reached or used, MachineError for what fails on the way.
    """
    with (
        tempfile.TemporaryDirectory(prefix="gems-edge-bench-") as staging,
        ssh.connected(host, config, alive_seconds(patience)) as connection,
    ):
        place = Path(staging)
        on_stage(f"looking at {host}")
        board = look(connection)
        check(board, host)
        support = bundle.ways * bundle.shots
        check_memory(board, host, 1e6 * predict_memory(bundle.manifest["cost"], support, "adapt").low)
        on_stage("adapting and predicting here, to compare")
        _write_pictures(bundle, place)
        expected = _answers(bundle, place, threads)
        own = build_own_wheel(place)
        environment = f"env-{board.tag}-{hashlib.sha256(own.read_bytes()).hexdigest()[:12]}"
        reused = keep and environment in board.kept
        sent = [] if reused else _gather(own, board, host, wheels, place, on_stage)
        _write_payload(bundle, place)
        names = ["payload.zip", *(wheel.name for wheel in sent or [own])]
        size = sum((place / name).stat().st_size for name in names)
        unpacked = 0 if reused else unpacked_bytes(sent) if sent else _PACKAGES_BYTES
        check_disk(board, host, size + unpacked + 3 * (place / "payload.zip").stat().st_size + _RESERVE_BYTES)
        plan = {
            "files": {name: hashlib.sha256((place / name).read_bytes()).hexdigest() for name in names},
            "wheels": [wheel.name for wheel in sent],
            "own": own.name,
            "keep": keep,
            "environment": f"{board.base}/{environment}",
            "commands": _commands(threads),
        }
        with Job(connection, board, patience, on_stage) as job:
            on_stage(f"copying {size / 1e6:.1f} MB to {host}")
            job.copy(place, names)
            done = job.run(plan)
    document = done["results"].pop("bench")
    document["bundle"] = str(bundle.path)
    answers = done["results"]["predict"]
    for answer in answers:
        answer.pop("image")
    document["remote"] = {
        "host": host,
        **done["versions"],
        **done["results"],
        "agreement": _agreement(expected, answers),
        "seconds": {name: round(value, 2) for name, value in done["seconds"].items()},
        "copied_bytes": size,
        "reconnections": job.reconnections,
        "kept": plan["environment"] if keep else None,
    }
    return document


def _gather(
    own: Path, board: Board, host: str, wheels: str | None, place: Path, on_stage: Callable[[str], None]
) -> list[Path]:
    """The wheels for the board, in `place`; none if the board shall find them. UserError if it could not install."""
    on_stage(f"gathering packages for Python {board.version[0]}.{board.version[1]} on {board.machine}")
    gathered = place / "wheels"
    gathered.mkdir()
    found = gather(own, board, host, Path(wheels) if wheels else None, gathered)
    if found is None:
        on_stage(f"no packages for it could be fetched here; {host} has to fetch them itself")
        if not board.ensurepip:
            raise UserError(
                f"{host}: its Python cannot make an environment with pip (no ensurepip); install it there: "
                "sudo apt install python3-venv, or give --wheels DIR"
            )
        return []
    for wheel in found:
        if wheel.name != own.name:
            shutil.move(wheel, place / wheel.name)
    return [place / wheel.name for wheel in found]


def _commands(threads: int | None) -> dict[str, list[str]]:
    options = ["--json", *(["--threads", str(threads)] if threads else [])]
    return {
        "adapt": ["adapt", "bundle.gems", "--support", "support", "-o", "taught.state", *options],
        "predict": ["predict", "bundle.gems", "--state", "taught.state", "query", *options],
        "bench": ["bench", "bundle.gems", *options],
    }


def _write_pictures(bundle: Bundle, place: Path) -> None:
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
            write(place / "support" / f"class {number:03}" / f"{shot}.png", number)
    for query in range(_QUERIES):
        write(place / "query" / f"{query}.png", query % bundle.ways)


def _answers(bundle: Bundle, place: Path, threads: int | None) -> np.ndarray:
    """Probabilities [_QUERIES, classes] on this machine after the same adaptation."""
    learner = Learner(bundle, threads)
    shown = read_support(place / "support", bundle)
    learner.adapt(shown.images, shown.labels)
    return learner.predict(learner.read_images(sorted((place / "query").iterdir())))


def _agreement(expected: np.ndarray, answers: list[dict[str, Any]]) -> dict[str, Any]:
    """How far the board's answers are from this machine's, both after their own adaptation."""
    got = np.array([list(answer["probabilities"].values()) for answer in answers])
    return {
        "largest_difference": float(np.abs(got - expected).max()),
        "same_labels": bool((got.argmax(axis=1) == expected.argmax(axis=1)).all()),
        "images": len(answers),
    }


def _write_payload(bundle: Bundle, place: Path) -> None:
    """The bundle and the pictures as one file, whose names no shell and no sftp has to quote."""
    with zipfile.ZipFile(place / "payload.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("manifest.json", *bundle.manifest["files"]):
            archive.write(bundle.path / name, f"bundle.gems/{name}")
        for folder in ("support", "query"):
            for file in sorted((place / folder).rglob("*.png")):
                archive.write(file, file.relative_to(place))
