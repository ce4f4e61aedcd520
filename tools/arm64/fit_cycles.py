"""A board's time from the instructions that its core runs: fitted to ncnn's published rows, then asked for onnxruntime.

    python tools/arm64/fit_cycles.py [TABLE.csv]

Counts are those of networks.json (count_networks.py), so no emulated board is needed; the table is that of
tools/fit_latency.py, of which the float32 rows of counted networks are used. The regression is that of
tools/latency_regression.py, over instructions by kind, bytes of maps and of weights, and layers.
Printed beside it, over the same rows: the same regression over the work that gems_edge.predict counts.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from fit_latency import TABLE, figures  # noqa: E402
from latency_regression import MIDDLE, Problem, Row, fit, held_out, problem_of  # noqa: E402
from published_networks import build  # noqa: E402
from published_rows import read, works  # noqa: E402

from gems_edge.graphs.cost import describe  # noqa: E402

RECORD = Path(__file__).parent / "networks.json"
CPU = "cortex-a72"  # whose counts stand for all cores without half precision: they run the same kernels
CORES = ("A53", "A57", "A72", "A73")
TARGETS = ("Raspberry Pi Zero 2 W", "Raspberry Pi 3B+", "Raspberry Pi 4B")
# Cycles per unit on a core that starts one to two instructions a cycle: the priors' middle, each may be e times off.
CYCLES = {
    "multiply": 1.0,
    "vector": 0.7,
    "load": 0.7,
    "store": 0.7,
    "other": 0.5,
    "maps": 0.2,
    "weights": 0.5,
    "layers": 5000.0,
}
# Published times of onnxruntime over ncnn on one board of these cores (Khadas VIM3, A73, in ../shared/notes/edge.md).
PUBLISHED = {"MobileNetV1-1.0@224": 1.76, "ResNet-50@224": 1.89}
LIKE_VIM3 = ("RK3399 board", "A72", "fp32", 1)
Amounts = dict[str, float]


def amounts(counts: Mapping[str, int], network: str) -> Amounts:
    """By term of CYCLES, of one call."""
    name, pixels = network.split("@")
    cost = describe(build(name, int(pixels)), {}, strict=False)
    maps, weights = cost["bytes"] - cost["constant_bytes"], cost["constant_bytes"]
    kinds = {kind: float(counts[kind]) for kind in ("multiply", "vector", "load", "store")}
    other = float(counts["scalar"] + counts["branch"])
    return kinds | {"other": other, "maps": maps, "weights": weights, "layers": cost["work"]["ops"]}


def counted(runtime: str) -> dict[str, Amounts]:
    """Network → amounts, of those that were counted."""
    kept = json.loads(RECORD.read_text())["counts"]
    return {
        network: amounts(found[runtime][CPU]["whole"], network)
        for network, found in kept.items()
        if CPU in found.get(runtime, {})
    }


def rows_of(table: Path, networks: Sequence[str]) -> list[Row]:
    return [
        entry.row
        for entry in read(table)[0]
        if entry.runtime == "ncnn" and entry.row.precision == "fp32" and entry.row.core in CORES
        and entry.row.network in networks
    ]  # fmt: skip


def report(title: str, rows: list[Row], problem: Problem) -> np.ndarray:
    """Prints errors on what was left out; the parameters of the fit to all rows."""
    parameters = fit(problem, np.ones(len(rows), bool))
    print(title)
    labels: dict[str, Callable[[Row], str]] = {"network": lambda row: row.network, "board": lambda row: row.board}
    for what, label in labels.items():
        predicted = held_out(problem, np.array([label(row) for row in rows]), parameters)
        print(f"  one {what} left out")
        print(f"    {'all':24}{figures(predicted, problem, np.ones(len(rows), bool))}")
        pis = np.array([row.board in TARGETS for row in rows])
        print(f"    {'the three Pis':24}{figures(predicted, problem, pis)}")
        for board in TARGETS:
            print(f"    {board:24}{figures(predicted, problem, np.array([row.board == board for row in rows]))}")
    return parameters


def main() -> int:
    parser = argparse.ArgumentParser(description="Times of boards from the instructions that their cores run.")
    parser.add_argument("table", nargs="?", type=Path, default=TABLE)
    table = parser.parse_args().table
    if not table.is_file():
        parser.error(f"{table} is no file; give the table of published times")
    ncnn, onnxruntime = counted("ncnn"), counted("onnxruntime")
    rows = rows_of(table, list(ncnn))
    print(f"{len(rows)} float32 rows of ncnn, {len(ncnn)} networks, {len({row.board for row in rows})} boards")
    report("by the work that is counted in a graph", rows, problem_of(rows, works(set(ncnn)), MIDDLE))
    problem = problem_of(rows, ncnn, CYCLES)
    parameters = report("by the instructions that are run", rows, problem)
    ratios(rows, problem, parameters, ncnn, onnxruntime)
    return 0


def ratios(rows: list[Row], problem: Problem, parameters: np.ndarray, ncnn: dict, onnxruntime: dict) -> None:
    """Prints onnxruntime's predicted time over ncnn's, by network and by setting of the Pis."""
    settings = {row.setting: index for index, row in reversed(list(enumerate(rows)))}
    chosen = [key for key in settings if key == LIKE_VIM3 or (key[0] in TARGETS and key[3] in (1, 4))]
    print(
        "onnxruntime over ncnn: instructions, then predicted times on " + ", ".join(f"{k[0]} ×{k[3]}" for k in chosen)
    )
    for network in sorted(set(ncnn) & set(onnxruntime)):
        found = []
        for key in chosen:
            rates = np.exp(problem.design[problem.setting[settings[key]]] @ parameters)
            mine, its = (np.array([of[network][term] for term in CYCLES]) @ rates for of in (onnxruntime, ncnn))
            found.append(mine / its)
        run = [sum(of[network][kind] for kind in list(CYCLES)[:5]) for of in (onnxruntime, ncnn)]
        said = f"  published on a VIM3: {PUBLISHED[network]}" if network in PUBLISHED else ""
        print(f"  {network:26}{run[0] / run[1]:6.2f}  " + "".join(f"{ratio:6.2f}" for ratio in found) + said)


if __name__ == "__main__":
    sys.exit(main())
