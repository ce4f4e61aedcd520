"""Instructions that Arm cores run for one image through a bundle's graphs, in float32 and in int8; exact.

    python tools/arm64/count_graphs.py BUNDLE.gems… [--cpu cortex-a72 --cpu cortex-a76]

Counted are predict.onnx and trunk.onnx, where there is one, and their int8 forms, where there are any; one thread, as
count_instructions.py does it.
"""

import argparse
import sys
from pathlib import Path

from boards import BOARDS
from count_instructions import marks_of
from counted_graphs import MARKS
from debian import Unavailable
from marking import EMPTY
from userland import userland


def main() -> int:
    parser = argparse.ArgumentParser(description="Instructions of a bundle's graphs on Arm cores.")
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--cpu", action="append", choices=BOARDS, help="of all that are known, if left out")
    options = parser.parse_args()
    try:
        root = userland()
        for bundle in options.bundles:
            for cpu in options.cpu or BOARDS:
                marks = {mark.number: mark.counts for mark in marks_of(root, cpu, bundle, "counted_graphs.py")}
                empty = marks[EMPTY + 1] - marks[EMPTY]
                counts = {of: marks[at + 1] - marks[at] - empty for of, at in MARKS.items() if at in marks}
                found = (f"{' '.join(of)} {count.instructions:,}" for of, count in counts.items())
                print(bundle, cpu, *found, sep="  ")
    except Unavailable as reason:
        print(f"count_graphs: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
