"""Start-up times in fresh processes: `python tools/bench_start.py BUNDLE IMAGE`. Medians of alternating runs."""

import statistics
import subprocess
import sys
import time


def main(bundle: str, image: str, rounds: int = 15) -> None:
    commands = {"--help": ["--help"], "predict, cold": ["predict", bundle, image]}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds + 1):
        for name, arguments in commands.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", "gems_edge", *arguments], check=True, capture_output=True)
            times[name].append(time.perf_counter() - started)
    for name, values in times.items():
        values = sorted(values[1:])  # the first warms the file cache
        print(f"gems-edge {name}: median {statistics.median(values):.3f} s, slowest {values[-1]:.3f} s of {rounds}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
