"""Fuzz every reader: harmed bundles, states, images, packed files, configs, profiles, tickets, runs, checkpoints and
boards' replies, each read by the real commands in a process of its own.

    python tools/fuzz.py --mutations 10000 --seed 1 [--target bundle,state] -o fuzz
    python tools/fuzz.py --bits [--target bundle,state,run,checkpoint] -o fuzz  # every single bit of one of each

A mutation is a function of seed, target and number, so a fault found is found again: --first N --mutations 1. What a
target's readers made of them is printed, and inputs with a fault are kept in OUT/faults with all about them. Tests do
the same with a few hundred (tests/fuzz/test_fuzz.py).
"""

import argparse
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS.parent), str(TESTS / "device"), str(TESTS / "fuzz")]

from bits import READS, flips  # noqa: E402
from sandbox import Sandbox, sandboxes  # noqa: E402
from targets import OTHER, REFUSED, SAME, TARGETS, Trial, attempt, prepare, report  # noqa: E402
from valid import VALID  # noqa: E402

_KNOWN = (REFUSED, SAME, OTHER)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--mutations", type=int, default=1000, help="over all targets")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", default=",".join(TARGETS), help=f"of {', '.join(TARGETS)}")
    parser.add_argument("-o", "--output", type=Path, default=Path("fuzz"))
    parser.add_argument("--bits", action="store_true", help=f"flip every bit of one {', '.join(READS)}")
    options = parser.parse_args()
    names, folder = options.target.split(","), options.output.resolve()
    if options.bits:
        sys.exit(1 if sum(_flip(name, folder / "bits" / name) for name in names if name in READS) else 0)
    shutil.rmtree(folder / "places", ignore_errors=True)
    (folder / "places").mkdir(parents=True)
    faults = 0
    with sandboxes(folder / "places") as both:
        for number, name in enumerate(names):
            share = options.mutations * (number + 1) // len(names) - options.mutations * number // len(names)
            numbers = range(options.first, options.first + share)
            faults += _fuzz(name, both[TARGETS[name].side], folder, options.seed, numbers)
    sys.exit(1 if faults else 0)


def _flip(name: str, folder: Path) -> int:
    """Every bit of the first valid subject; the number of those whose flip was neither refused nor without effect."""
    began, count, faults = time.monotonic(), 0, 0
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    VALID[name](folder)
    place = min(path for path in folder.iterdir() if path.is_dir())
    for file, bit, fault in flips(place, name):
        count += 1
        if fault:
            faults += 1
            print(f"{name} {file.relative_to(place)} bit {bit}: {fault}", flush=True)
    print(f"{name}: {count} bits: {faults} FAULT; {time.monotonic() - began:.0f} s in all", flush=True)
    return faults


def _fuzz(name: str, sandbox: Sandbox, folder: Path, seed: int, numbers: range) -> int:
    """All mutations of one target; the number of those with a fault."""
    began, counts, peak, slowest = time.monotonic(), Counter[str](), 0.0, 0.0
    valid = prepare(TARGETS[name], folder / "valid" / name, sandbox)
    for number in numbers:
        trial = attempt(valid, sandbox, seed, number)
        known = trial.verdict in _KNOWN
        counts[trial.verdict if known else "FAULT"] += 1
        peak, slowest = max(peak, trial.outcome.peak_mb), max(slowest, trial.outcome.seconds)
        if not known:
            print(f"{name} {number} of seed {seed}: {trial.what}: {trial.verdict}", flush=True)
            _keep(trial, folder / "faults" / f"{name}-{seed}-{number}")
        shutil.rmtree(trial.place)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in (*_KNOWN, "FAULT"))
    print(
        f"{name}: {len(numbers)} mutations: {told}; peak {peak:.0f} MB, slowest {slowest:.1f} s, "
        f"{time.monotonic() - began:.0f} s in all",
        flush=True,
    )
    return counts["FAULT"]


def _keep(trial: Trial, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(exist_ok=True)
    trial.place.rename(place)
    (place / "report.json").write_text(report(trial))
    trial.place.mkdir()


if __name__ == "__main__":
    main()
