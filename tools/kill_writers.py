"""Kill everything that writes what a user keeps, somewhere in its work, and cut the power: states, packed files, runs,
tickets and bundles must be the old or the new, and the command must run again.

    python tools/kill_writers.py --kills 1000 --seed 1 [--writer adapt,train] [--states 100] -o kills

Half of the kills are at a random moment, half before a call that changes the disk. --states replays, of each writer, so
many of the states that a power cut may leave, by a recording of its calls; --mixed: how many of each call are such as a
disk leaves that writes out of order and tears files. Printed: a line for each fault, and counts.
"""

import argparse
import sys
import time
from pathlib import Path
from random import Random

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS.parent), str(TESTS / "device"), str(TESTS / "fuzz")]

from kills import MIXED, cut_power, kill, prepare, some_states  # noqa: E402
from writers import WRITERS  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="over all writers")
    parser.add_argument("--first", type=int, default=0, help="number of the first kill of each writer")
    parser.add_argument("--states", type=int, default=0, help="power cuts of each writer; 0: none")
    parser.add_argument("--mixed", type=int, default=MIXED, help="of each call, out of order")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--writer", default=",".join(WRITERS), help=f"of {', '.join(WRITERS)}")
    parser.add_argument("-o", "--output", type=Path, default=Path("kills"))
    options = parser.parse_args()
    names, folder, faults = options.writer.split(","), options.output.resolve(), 0
    for number, name in enumerate(names):
        share = options.kills * (number + 1) // len(names) - options.kills * number // len(names)
        numbers = range(options.first, options.first + share)
        faults += _try(name, folder / name, options.seed, numbers, options.states, options.mixed)
    sys.exit(1 if faults else 0)


def _try(name: str, folder: Path, seed: int, numbers: range, states: int, mixed: int) -> int:
    began, faults = time.monotonic(), 0
    ready = prepare(WRITERS[name], folder, mixed)
    for number in numbers:
        if fault := kill(ready, folder / "work", Random(f"{seed} {name} {number}")):
            faults += 1
            print(f"{number} of seed {seed}: {fault}", flush=True)
    chosen = list(some_states(ready, states)) if states else []
    for state in chosen:
        if fault := cut_power(ready, folder / "work", state):
            faults += 1
            print(fault, flush=True)
    print(
        f"{name}: {len(numbers)} kills and {len(chosen)} of {len(ready.states)} states of power cuts ({ready.calls} "
        f"calls): {faults} faults; {time.monotonic() - began:.0f} s",
        flush=True,
    )
    return faults


if __name__ == "__main__":
    main()
