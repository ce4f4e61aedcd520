"""Fits device_profiles/latency.toml to published latencies, and says how far its predictions are off.

  python tools/fit_latency.py                        refit, leave-one-out tables, write the constants
  python tools/fit_latency.py TABLE.csv --dry-run    the same from another table, nothing written
  python tools/fit_latency.py --check OTHER.csv      the stored constants against another table's rows: error, coverage

The table has the columns board, soc, model, input, precision, runtime, threads, latency_ms. Networks are built from
tools/published_networks.py and counted by the same code as a user's graph.
"""

import argparse
import datetime
from collections import Counter
from pathlib import Path

import numpy as np
import tomli_w
from latency_regression import Problem, Row, effect, fit, held_out, problem_of, times
from published_rows import PROFILES, Published, read, works

from gems_edge.files import write_atomic
from gems_edge.predict.latency import PRECISIONS, RUNTIMES, latency
from gems_edge.predict.profiles import DeviceProfile, Fact, list_profiles, load_profile
from gems_edge.predict.rates import constants, suffix_of
from gems_edge.predict.work import MEASURED_TERMS

TABLE = Path("../shared/devices/published_latencies.csv")
STORED = Path(__file__).parents[1] / "device_profiles" / "latency.toml"
FITTED_RUNTIME = "ncnn"
OTHER_FAMILIES = {"xnnpack": "XNNPACK (bare)", "tengine": "Tengine-Lite"}
COVERED = 0.9
TARGETS = tuple(board for board in PROFILES if board.startswith("Raspberry"))
# onnxruntime over ncnn on one board (Khadas VIM3, Cortex-A73): published beside the table, in ../shared/notes/edge.md.
RATIOS = (("ResNet-50@224", 1.89), ("MobileNetV1-1.0@224", 1.76))
LIKE_VIM3 = ("rpi-4b", 1)  # board and threads whose shares of terms stand in for the VIM3's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", type=Path, default=TABLE)
    parser.add_argument("--check", type=Path, metavar="CSV", help="predict this table's rows with the stored constants")
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    options = parser.parse_args()
    if options.check:
        check(options.check, constants())
        return
    fitted = refit(options.table)
    if not options.dry_run:
        write_atomic(STORED, tomli_w.dumps(fitted))
        print(f"wrote {STORED}")
    check(options.table, fitted)


def refit(table: Path) -> dict:
    published, dropped = read(table)
    rows = [entry.row for entry in published if entry.runtime == FITTED_RUNTIME and entry.row.network[:4] != "YOLO"]
    print(f"{table}: {len(rows)} {FITTED_RUNTIME} rows fitted; left out: {dropped}")
    work = works({entry.row.network for entry in published} | {name for name, _ in RATIOS})
    problem = problem_of(rows, work)
    boards, networks = np.array([row.board for row in rows]), np.array([row.network for row in rows])
    everything = np.ones(len(rows), bool)
    parameters = fit(problem, everything)
    print_table("in the fit", rows, times(problem, parameters).sum(1), problem)
    by_network = held_out(problem, networks, parameters)
    print_table("leave one network out", rows, by_network, problem)
    by_board = held_out(problem, boards, parameters)
    print_table("leave one board out", rows, by_board, problem)
    for board in sorted(set(boards)):
        chosen = boards == board
        print(f"  {board:26}{figures(by_network, problem, chosen)}   left out: {figures(by_board, problem, chosen)}")
    spread = spreads(rows, problem, by_network, by_board)
    fitted = document(problem, parameters, rows, spread, table)
    fitted["families"] = {"onnxruntime": onnxruntime(fitted, published, work)}
    for name, runtime in OTHER_FAMILIES.items():
        fitted["families"][name] = other_family(
            fitted, [entry.row for entry in published if entry.runtime == runtime], work
        )
    return fitted


def figures(predicted: np.ndarray, problem: Problem, chosen: np.ndarray) -> str:
    if not chosen.any():
        return "no rows"
    error = np.abs(predicted[chosen] / np.exp(problem.observed[chosen]) - 1)
    far = np.quantile(np.abs(np.log(predicted[chosen]) - problem.observed[chosen]), COVERED)
    return (
        f"{chosen.sum():4} rows  mean {error.mean():6.1%}  median {np.median(error):6.1%}  "
        f"9 of 10 within ×/÷ {np.exp(far):.2f}"
    )


def print_table(title: str, rows: list[Row], predicted: np.ndarray, problem: Problem) -> None:
    print(title)
    boards, kinds = np.array([row.board for row in rows]), np.array([row.precision for row in rows])
    target = np.isin(boards, TARGETS)
    print(f"  {'all boards':32}{figures(predicted, problem, np.ones(len(rows), bool))}")
    print(f"  {'the Pis, fp32 and fp16':32}{figures(predicted, problem, target & (kinds != 'int8'))}")
    for kind in ("fp32", "fp16", "int8"):
        print(f"  {'the Pis, ' + kind:32}{figures(predicted, problem, target & (kinds == kind))}")
        for board in TARGETS:
            if (chosen := (boards == board) & (kinds == kind)).any():
                print(f"    {board + ', ' + kind:30}{figures(predicted, problem, chosen)}")


def spreads(rows: list[Row], problem: Problem, by_network: np.ndarray, by_board: np.ndarray) -> dict[str, float]:
    """Half-widths (logarithms) that hold COVERED of the held-out rows; each case tried on rows it was not set on."""
    kinds, networks = np.array([row.precision for row in rows]), np.array([row.network for row in rows])
    seen = np.abs(np.log(by_network) - problem.observed)
    # A board and a network that are both new: the two errors are taken to add up as independent ones.
    unseen = np.hypot(np.abs(np.log(by_board) - problem.observed), seen)
    found = {}
    for case, errors in (("board", seen), ("core", unseen)):
        for kind in PRECISIONS:
            suffix, chosen = suffix_of(kind), kinds == kind
            found[case + suffix] = round(float(np.quantile(errors[chosen], COVERED + 0.02)), 3)
            inside = [
                (errors[chosen & (networks == n)] <= np.quantile(errors[chosen & (networks != n)], COVERED + 0.02))
                for n in problem.networks
                if (chosen & (networks == n)).any()
            ]
            print(f"interval, {case + suffix}: ×/÷ {np.exp(found[case + suffix]):.2f}; holds "
                  f"{np.concatenate(inside).mean():.1%} of rows of networks that it was not set on")  # fmt: skip
    return found | {f"no{end}": round(1.5 * found[f"core{end}"], 3) for end in map(suffix_of, PRECISIONS)}


def document(problem: Problem, parameters: np.ndarray, rows: list[Row], spread: dict, table: Path) -> dict:
    """latency.toml: what rates.py reads."""

    def of(*name):
        return effect(problem, parameters, *name)

    def exp(value):
        return float(f"{np.exp(value):.4g}")

    cores = {
        core: {t: exp(of("term", t) + of("core", core) + of("core·term", core, t)) for t in MEASURED_TERMS}
        for core in sorted({row.core for row in rows})
    }
    kinds = {
        kind: {t: exp(of("precision", kind) + of("precision·term", kind, t)) for t in MEASURED_TERMS}
        for kind in ("fp16", "int8")
    }
    threads = {t: round(of("threads") + of("threads·term", t), 4) for t in MEASURED_TERMS}
    boards = {}
    for board, profile in PROFILES.items():
        own = [row for row in rows if row.board == board]
        if profile not in list_profiles() or not own:
            continue
        core = load_profile(profile)["core"].removeprefix("Cortex-")
        own = [row for row in own if row.core == core]
        boards[profile] = {
            "rows": len(own),
            "precisions": sorted({row.precision for row in own}),
            "threads": round(of("board·threads", board, core), 4),
            "factor": {t: exp(of("board", board, core) + of("board·term", board, core, t)) for t in MEASURED_TERMS},
            "settings": {f"{r.precision}-{r.threads}": exp(of("setting", *r.setting)) for r in own},
        }
    networks = sorted({network.split("@")[0] for network in problem.networks})
    return {
        "provenance": {
            "date": datetime.date.today().isoformat(),
            "written_by": "tools/fit_latency.py",
            "runtime": "ncnn's benchncnn (least of several runs), 64-bit Arm boards",
            "rows": len(rows),
            "networks": networks,
            "boards": sorted({row.board for row in rows}),
            "units": "cycles per MAC, element or op on one thread; threads: exponents; spread: logarithms",
        },
        "spread": spread,
        "threads": threads,
        "precision": kinds,
        "cores": cores,
        "boards": boards,
    }


def onnxruntime(fitted: dict, published: list[Published], work: dict) -> dict:
    """onnxruntime over ncnn: a factor on all terms, and a 3×3 convolution's MACs over a 1×1 one's (no Winograd)."""
    neutral = {"typical": 1.0, "lowest": 1.0, "highest": 1.0}
    cases = []
    profile = load_profile(LIKE_VIM3[0])
    for network, ratio in RATIOS:
        ncnn = latency({"work": work[network]}, profile, LIKE_VIM3[1], runtime="ncnn", fitted=fitted).value
        cases.append((f"VIM3 {network}", work[network], profile, LIKE_VIM3[1], ratio * ncnn))
    for entry in published:
        if entry.runtime.startswith("onnxruntime") and entry.row.precision == "fp32" and entry.row.board in PROFILES:
            row = entry.row
            cases.append(
                (
                    f"{row.board} {row.network}",
                    work[row.network],
                    load_profile(PROFILES[row.board]),
                    row.threads,
                    row.ms,
                )
            )
    best = None
    for over in np.linspace(1.0, 1.6, 7):
        given = fitted | {"families": {"onnxruntime": neutral | {"conv3x3_over_conv1x1": float(over)}}}
        ratios = np.array([np.log(ms / latency({"work": w}, p, t, fitted=given).value) for _, w, p, t, ms in cases])
        if best is None or ratios.std() < best[1].std() - 1e-3:
            best = over, ratios
    over, ratios = best
    for (name, *_), ratio in zip(cases, ratios):
        print(f"onnxruntime over the model without a factor, {name}: {np.exp(ratio):.2f}")
    typical = float(np.exp(ratios.mean()))
    # Four cases: their range, and a fifth more on either side.
    return {
        "typical": round(typical, 3),
        "lowest": round(float(np.exp(ratios.min())) / 1.2, 3),
        "highest": round(float(np.exp(ratios.max())) * 1.2, 3),
        "conv3x3_over_conv1x1": round(float(over), 2),
        "source": f"{len(cases)} published onnxruntime figures: {', '.join(case[0] for case in cases)}",
    }


def other_family(fitted: dict, rows: list[Row], work: dict) -> dict:
    """A runtime that has rows on the same boards: its time over ncnn's prediction, least, typical and most."""
    rows = [row for row in rows if row.board in PROFILES]
    ratios = [
        np.log(row.ms / latency({"work": work[row.network]}, stand_in(row), row.threads, runtime="ncnn",
                                precision=row.precision, fitted=fitted).value)
        for row in rows
    ]  # fmt: skip
    low, typical, high = (round(float(np.exp(f(ratios))), 3) for f in (np.min, np.mean, np.max))
    print(f"over ncnn, {len(rows)} rows: {low} to {high}, typically {typical}")
    return {"lowest": low, "typical": typical, "highest": high, "source": f"{len(rows)} published rows"}


def check(table: Path, given: dict) -> None:
    """Error and coverage of predictions from `given` for the rows of a table, by runtime and precision."""
    published, dropped = read(table)
    work = works({entry.row.network for entry in published})
    results, refused = [], Counter()
    for entry in published:
        runtime = family_of(entry.runtime)
        if runtime not in RUNTIMES:
            refused[entry.runtime] += 1
            continue
        row = entry.row
        made = latency(
            {"work": work[row.network]},
            stand_in(row),
            row.threads,
            runtime=runtime,
            precision=row.precision,
            fitted=given,
        )
        results.append((runtime, row, made))
    print(f"{table}: {len(results)} rows predicted from the constants; left out: {dropped | dict(refused)}")
    groups = {(runtime, row.precision) for runtime, row, _ in results}
    groups |= {(runtime, row.board) for runtime, row, _ in results}
    for runtime, group in sorted(groups):
        chosen = [
            (row, made) for found, row, made in results if found == runtime and group in (row.precision, row.board)
        ]
        errors = np.array([abs(made.value / row.ms - 1) for row, made in chosen])
        inside = np.mean([made.low <= row.ms <= made.high for row, made in chosen])
        print(
            f"  {runtime:12}{group:28}{len(chosen):4} rows  mean {errors.mean():6.1%}  "
            f"median {np.median(errors):6.1%}  inside the interval {inside:6.1%}"
        )
    for runtime in sorted({found for found, *_ in results}):
        inside = np.mean([made.low <= row.ms <= made.high for found, row, made in results if found == runtime])
        print(f"  {runtime}: {inside:.1%} of all rows inside their intervals")


def family_of(runtime: str) -> str:
    """The name that `latency` knows a runtime of the table by; the table's own where it knows none."""
    if runtime.startswith("onnxruntime"):
        return "onnxruntime"
    return next((name for name, found in OTHER_FAMILIES.items() if found == runtime), runtime)


def stand_in(row: Row) -> DeviceProfile:
    """A profile of the row's board: its id where it has one and ran at its clock, its core and clock in any case."""
    board = PROFILES.get(row.board, row.board)
    if board in list_profiles() and load_profile(board)["core"] != f"Cortex-{row.core}":
        board = row.board  # the other cluster of a board with a profile
    values = {"core": f"Cortex-{row.core}", "clock": row.clock, "cores": row.threads, "call_overhead": 0.0}
    return DeviceProfile(board, row.board, "", {name: Fact(value, "", "the row") for name, value in values.items()})


if __name__ == "__main__":
    main()
