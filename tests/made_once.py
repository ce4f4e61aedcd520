"""What the workers of one session share: each thing is made by the first that needs it, and is then only looked at."""

import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path


class MadeOnce:
    """Directories and files below `directory`, each made by one process while the others that want it wait."""

    def __init__(self, directory: Path):
        self.directory = directory
        self._used: set[str] = set()

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path:
        """directory/name, made by `make(path)` unless a process did before. What a failed one left is removed."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        record = self._record(name)
        with open(record.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not record.exists():
                _remove(path)
                make(path)
                record.write_text(json.dumps(_fingerprint(path)))
        self._used.add(name)
        return path

    def check_untouched(self) -> None:
        """Raises AssertionError if a test has changed what this process used: others would fail for it, or pass."""
        for name in sorted(self._used):
            before, after = json.loads(self._record(name).read_text()), _fingerprint(self.directory / name)
            changed = sorted(file for file in {*before, *after} if before.get(file) != after.get(file))
            assert not changed, f"a test has changed the shared {name}: {', '.join(changed)}; give it a copy"

    def _record(self, name: str) -> Path:
        return self.directory / f".{name.replace('/', '-')}.json"


def _fingerprint(path: Path) -> dict[str, list[int]]:
    """Size and time of every file."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return {str(file.relative_to(path)): [file.stat().st_size, file.stat().st_mtime_ns] for file in files}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
