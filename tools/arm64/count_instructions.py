"""Instructions that a Cortex-A72 runs for a prediction and for a gradient step, exact from run to run.

    python tools/arm64/count_instructions.py [--write]

Prints the counts beside those of instructions.json; --write keeps them there. One thread; bundles of seeded weights
from the exporter of the working tree, the package of the working tree, the pinned onnxruntime and numpy of the arm64
userland. Counted is what the user's program calls: Learner.predict of one image, and one step inside Learner.adapt.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from boards import BOARDS
from debian import Unavailable, need, source_file, unpacked
from userland import HERE, REPOSITORY, run, userland

RECORD = HERE / "instructions.json"
CPU = "cortex-a72"
TOLERANCE = 0.02
# Name → options of `gems-edge train`. What is not trained has the weights of its seed.
BUNDLES = {
    "conv4-32, 28×28, 5-way 1-shot": ("--widths", "32"),
    "conv4-16, 28×28, 5-way 1-shot": ("--widths", "16"),
}
_TRAIN = ("--data", "glyphs", "--shots", "1", "--iterations", "0", "--validation-episodes", "2", "--compute", "cpu")
_EXPORT = ("--ratio", "0", "--episodes", "2")
# count.so is qemu's plugin and, preloaded, makes its random numbers and clocks repeatable.
_PLUGIN = "file=/home/pi/count.so,out=/home/pi/counts"
_ENVIRONMENT = {
    "LD_PRELOAD": "/home/pi/count.so",
    "QEMU_UNSET_ENV": "LD_PRELOAD",
    "QEMU_RAND_SEED": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",  # each run compiles, so all have the same heap
    "PYTHONPATH": "/home/pi/package",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Counts:
    """What an emulated core has run, by kind of instruction, and what it did not find in its simulated caches."""

    multiply: int  # of vectors and of floating point, with or without an addition
    vector: int  # others of these
    load: int
    store: int
    scalar: int
    branch: int
    l1_misses: int  # of 64 bytes each; 0 where caches are not simulated
    l2_misses: int

    @property
    def instructions(self) -> int:
        return sum(astuple(self)[:6])

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*map(sum, zip(astuple(self), astuple(other))))

    def __sub__(self, before: "Counts") -> "Counts":
        return Counts(*(mine - its for mine, its in zip(astuple(self), astuple(before))))


@dataclass(frozen=True)
class Mark:
    """The counts so far, at the `number` that a program called, or at CLOCK: it asked for the time."""

    number: int
    counts: Counts


CLOCK = -1


def bundle_commands(name: str, place: Path) -> tuple[Sequence[str], Sequence[str], Path]:
    """The two gems-edge commands that make the bundle, and where it then is."""
    slug = re.sub(r"\W+", "-", name)
    bundle = place / f"{slug}.gems"
    train = ("train", *_TRAIN, *BUNDLES[name], "-o", str(place / slug))
    return train, ("export", str(place / slug), *_EXPORT, "-o", str(bundle)), bundle


def count(root: Path, bundle: Path) -> dict[str, int]:
    """Instructions of a prediction and of a gradient step of `bundle`. Unavailable where no plugin can be built."""
    at = {mark.number: mark.counts for mark in marks_of(root, CPU, bundle, "counted.py")}
    empty = (at[11] - at[10]).instructions
    return {
        "predict": (at[31] - at[30]).instructions - empty,
        "adapt_step": (at[21] - at[20]).instructions - empty,
    }


def marks_of(
    root: Path, cpu: str, subject: Path, script: str, options: Sequence[str] = (), caches: bool = False,
    clocks: bool = False, keep: Mapping[str, Path] | None = None,
) -> list[Mark]:  # fmt: skip
    """The marks of a `script` beside this one that is given a copy of `subject`, a bundle or a file, and `options`.

    `caches`: those of the core are simulated, which takes several times as long. `clocks`: each question for the time
    is a mark. `keep`: files that the script leaves, and where they are to be copied. Raises as `count`.
    """
    need("gcc")
    plugin = _PLUGIN + (",clocks=on" if clocks else "") + ("".join(BOARDS[cpu].cache_options) if caches else "")
    with tempfile.TemporaryDirectory(prefix="gems-edge-count-") as directory:
        home = Path(directory)
        _build_plugin(home / "count.so")
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / "gems_edge", home / "package" / "gems_edge", ignore=ignored)
        for name in (script, "marking.py"):
            shutil.copy(HERE / name, home)
        given = f"counted{subject.suffix}"
        (shutil.copytree if subject.is_dir() else shutil.copy)(subject, home / given)
        command = ["python3", script, given, *options]
        run(
            root, cpu, home, command, _ENVIRONMENT | {"QEMU_PLUGIN": plugin}, check=True, capture_output=True, text=True
        )
        for name, place in (keep or {}).items():
            shutil.copy(home / name, place)
        return [_mark(line) for line in (home / "counts").read_text().splitlines()]


def _mark(line: str) -> Mark:
    number, threads, *counts = map(int, line.split())
    if threads != 1:
        raise RuntimeError(f"{threads} threads ran, and counts of more than one are not exact")
    return Mark(number, Counts(*counts))


def _build_plugin(target: Path) -> None:
    def make(directory: Path) -> None:
        (directory / "qemu-plugin.h").write_bytes(source_file("qemu", "*/include/qemu/qemu-plugin.h"))

    header = unpacked("qemu-plugin", {"version": 1}, make)
    flags = ["-O2", "-shared", "-fPIC", "-fvisibility=hidden", f"-I{header}"]
    subprocess.run(["gcc", *flags, "-o", str(target), str(HERE / "count.c"), str(HERE / "repeatable.c")], check=True)


def versions(root: Path) -> dict[str, str]:
    """What the counts depend on beside the working tree."""
    holds = (root.parent / "holds.txt").read_text().splitlines()

    def held(pattern: str) -> str:
        return next(match[1] for match in (re.match(pattern, line) for line in holds) if match)

    return {
        "onnxruntime": held(r"onnxruntime-(.+)"),
        "numpy": held(r"numpy-(.+)"),
        "python": held(r"python3\.\d+_(.+)_arm64"),
        "libc": held(r"libc6_(.+)_arm64"),
        "qemu": held(r"qemu-user_(.+)_amd64"),
    }


def verdict(name: str, found: Mapping[str, int], kept: Mapping[str, int]) -> list[str]:
    """A line for each count that differs from the kept one by more than the tolerance; what to do about it."""
    lines = []
    for what, number in found.items():
        change = number / kept[what] - 1 if what in kept else None
        if change is not None and abs(change) <= TOLERANCE:
            continue
        how = "is new" if change is None else f"went from {kept[what]:,} to {number:,} instructions ({change:+.1%})"
        do = "make it cheaper, or say why and" if change and change > 0 else "keep the gain:"
        lines.append(f"{name}: {what} {how}; {do} run python tools/arm64/count_instructions.py --write")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description="Instructions of a prediction and of a gradient step on a Cortex-A72.")
    parser.add_argument("--write", action="store_true", help=f"keep the counts in {RECORD.name}")
    write = parser.parse_args().write
    kept: dict[str, Any] = json.loads(RECORD.read_text())["counts"] if RECORD.exists() else {}
    counts, lines = {}, []
    try:
        root = userland()
        with tempfile.TemporaryDirectory(prefix="gems-edge-count-") as place:
            for name in BUNDLES:
                *commands, bundle = bundle_commands(name, Path(place))
                for command in commands:
                    subprocess.run([sys.executable, "-m", "gems_edge", *command], check=True, capture_output=True)
                counts[name] = count(root, bundle)
                print(name, *(f"{what} {number:,}" for what, number in counts[name].items()), sep="  ")
                lines += verdict(name, counts[name], kept.get(name, {}))
    except Unavailable as reason:
        print(f"count_instructions: {reason}", file=sys.stderr)
        return 1
    if write:
        document = {
            "counted": "Learner.predict of one image; a step inside Learner.adapt, ways × shots images; one thread",
            "cpu": CPU,
            "versions": versions(root),
            "bundles": {name: " ".join(["gems-edge train", *_TRAIN, *BUNDLES[name]]) for name in BUNDLES},
            "export": " ".join(_EXPORT),
            "counts": counts,
        }
        RECORD.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        return 0
    print(*lines, sep="\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
