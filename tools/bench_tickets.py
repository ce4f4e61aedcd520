"""Seconds of whole trainings, alternating in one run: dense, channel-PMT and channel-MWT, of as many iterations.

    python tools/bench_tickets.py --data packed:omniglot.npz --iterations 300 -o bench-tickets

Every training is the real command in processes of its own (torchrun with one process per core), so imports, the search
for the ticket, pruning and validation are in the seconds. Then every run is evaluated on the same test episodes. It
ends with 1 if the three did not do the same work: other iterations, or tickets of another ratio.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click

from gems_edge.meta.run import Run
from gems_edge.torchrun import torchrun
from gems_edge.wording import percent_text

TICKETS = {"dense": [], "channel-pmt": ["--ticket", "pmt"], "channel-mwt": ["--ticket", "mwt"]}


def gems_edge(*arguments: str, processes: int = 1) -> subprocess.CompletedProcess:
    command = [*(torchrun(processes) if processes > 1 else [sys.executable]), "-m", "gems_edge", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(command)}\n{result.stderr}")
    return result


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--data", default="glyphs", show_default=True)
@click.option("--iterations", default=300, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--ratio", default=0.8, show_default=True)
@click.option("--interval", default=8, show_default=True, help="γ of PMT.")
@click.option("--episodes", default=600, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default="bench-tickets", show_default=True)
@click.argument("options", nargs=-1)
def main(data, iterations, repeats, ratio, interval, episodes, output, options):
    """OPTIONS (after --) go to every training, such as `-- --steps 2 --meta-batch 4`."""
    processes = os.cpu_count() or 1
    common = [
        "--data",
        data,
        "--shots",
        "1",
        "--iterations",
        str(iterations),
        "--validate-every",
        str(max(1, iterations // 3)),
        *options,
    ]
    seconds: dict[str, list[float]] = {name: [] for name in TICKETS}
    for repeat in range(1, repeats + 1):
        for name, ticket in TICKETS.items():
            unit = ["--unit", "channel", "--ratio", str(ratio), "--interval", str(interval)] if ticket else []
            run = output / f"{name}-{repeat}"
            started = time.perf_counter()
            gems_edge("train", *common, *ticket, *unit, "--seed", str(repeat), "-o", str(run), processes=processes)
            seconds[name].append(time.perf_counter() - started)
            print(f"{repeat}/{repeats} {name}: {seconds[name][-1]:.1f} s", flush=True)
    runs = {name: [Run(output / f"{name}-{repeat}") for repeat in range(1, repeats + 1)] for name in TICKETS}
    same = check(runs, iterations, ratio)
    accuracies = {name: [evaluated(run, episodes) for run in several] for name, several in runs.items()}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in medians.items():
        means = [percent_text(a["accuracy"], a["ci95"], 2) for a in accuracies[name]]
        mode = accuracies[name][0]["normalization"]
        print(
            f"{name:12} median {values:7.1f} s   {medians['dense'] / values:.2f}× dense   "
            f"{medians['channel-mwt'] / values:.2f}× channel-mwt   test {', '.join(means)} % ({mode})"
        )
    for run in runs["channel-pmt"]:
        ticket = run.ticket(run.config())
        print(
            f"{run.directory.name}: widths {list(ticket.widths)}, settled after {ticket.found['iterations']} iterations"
        )
    document = {"seconds": seconds, "medians": medians, "accuracies": accuracies, "same": same}
    (output / "results.json").write_text(json.dumps(document, indent=1))
    sys.exit(0 if same else 1)


def check(runs: dict[str, list[Run]], iterations: int, ratio: float) -> bool:
    """Whether every run reached the same last iteration and the tickets removed what was asked, within 2 points."""
    same = True
    for several in runs.values():
        for run in several:
            config = run.config()
            dense, trained = config.model_spec(), run.model()[0].spec
            reached = 1 - trained.backbone_weights / dense.backbone_weights
            wanted = 0.0 if config.dense else ratio
            if run.checkpoint().iteration != iterations or abs(reached - wanted) > 0.02:
                print(f"{run.directory}: iteration {run.checkpoint().iteration}, {reached:.3f} of the weights gone")
                same = False
    return same


def evaluated(run: Run, episodes: int) -> dict:
    return json.loads(gems_edge("evaluate", str(run.directory), "--episodes", str(episodes), "--json").stdout)


if __name__ == "__main__":
    main()
