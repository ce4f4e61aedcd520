"""Every single bit of the files of a bundle, a state or a run: flipped, the file is refused or read as before."""

import hashlib
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError

from gems_edge.errors import UserError

# A file's folder and itself → what is read of it, as text; UserError for what is refused.
Read = Callable[[Path, Path], str]


def flips(place: Path, target: str, step: int = 1) -> Iterator[tuple[Path, int, str]]:
    """For every `step`-th bit of the subject in `place`: the file, the number of the bit, and "" where the flip was
    refused or without effect, else the fault. The files are left as they were."""
    read = READS[target]
    for file in sorted(path for path in (place / SUBJECTS[target]).rglob("*") if path.is_file()):
        content = file.read_bytes()
        before = _outcome(read, place, file)
        for bit in range(0, 8 * len(content), step):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            file.write_bytes(flipped)
            after = _outcome(read, place, file)
            yield file, bit, "" if after in (before, REFUSED) else f"is read as {after[:200]}"
        file.write_bytes(content)


REFUSED = "refused"


def _outcome(read: Read, place: Path, file: Path) -> str:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*is damaged.*")  # a state's other slot is read, and that is said
            warnings.filterwarnings("ignore", message=".*has no manifest.sha256.*")
            return read(place, file)
    except (UserError, OSError, UserWarning, SafetensorError):  # Run makes a line of the last
        return REFUSED
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _bundle(place: Path, file: Path) -> str:
    from gems_edge.device.bundle import read_bundle
    from gems_edge.device.trust import ANYBODY

    bundle = read_bundle(place / "subject.gems", ANYBODY)
    contents = [bundle.content(name) for name in sorted(bundle.manifest["files"])]
    return hashlib.sha256(b"".join([bundle.hash.encode(), *contents])).hexdigest()


def _state(place: Path, file: Path) -> str:
    from gems_edge.device.photos import DIRECTORY, LostPhoto, read_photo
    from gems_edge.device.state import load_state
    from gems_edge.files import sha256_bytes

    state = place / "subject.state"
    if file.parent.name == DIRECTORY:
        try:
            return sha256_bytes(read_photo(state, file.name))
        except LostPhoto:
            return REFUSED
    from gems_edge.device.bundle import read_bundle

    found = load_state(state, read_bundle(place / "bundle.gems").hash)
    tensors = {name: value.tobytes() for name, value in sorted(found.tensors.items())}
    return f"{found.classes} {found.steps} {found.versions} {hashlib.sha256(repr(tensors).encode()).hexdigest()}"


def _run(place: Path, file: Path) -> str:
    from safetensors.numpy import load

    from gems_edge.meta.metrics import read_metrics
    from gems_edge.meta.settings.run import read_config
    from gems_edge.sealed import read_sealed

    if file.suffix == ".safetensors":
        content, metadata = read_sealed(file)
        tensors = {name: (value.dtype, value.shape, value.tobytes()) for name, value in sorted(load(content).items())}
        metadata = {name: text for name, text in metadata.items() if name in ("iteration", "best", "metrics_bytes")}
        return f"{metadata} {hashlib.sha256(repr(tensors).encode()).hexdigest()}"
    if file.name == "metrics.jsonl":
        return repr(
            [{name: value for name, value in line.items() if not _is_sum(value)} for line in read_metrics(file)]
        )
    return repr(read_config(place / "subject" / "config.toml"))


def _is_sum(value: object) -> bool:
    """A line's checksum, whose own name is damaged, is an entry that nothing reads."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{8}", value) is not None


SUBJECTS = {"bundle": "subject.gems", "state": "subject.state", "run": "subject", "checkpoint": "subject"}
READS: dict[str, Read] = {"bundle": _bundle, "state": _state, "run": _run, "checkpoint": _run}
