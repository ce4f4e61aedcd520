"""One cell of a grid: train a dense network or a ticket, evaluate it on test episodes.

cell.json in its directory says what: config (a table of settings), dense (the name of the cell whose trained network the
ticket is cut from, or ""), name (the cell's own), episodes and seed of the test.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from gems_edge.data.mixture import Mixture, mixture_sampler
from gems_edge.data.tensors import episode_tensors
from gems_edge.files import read_json
from gems_edge.meta.evaluation.accuracy import mean_accuracy
from gems_edge.meta.evaluation.episodes import evaluate, modes_for
from gems_edge.meta.processes import Processes, start_processes
from gems_edge.meta.rules.registry import rule_of
from gems_edge.meta.run import Run
from gems_edge.meta.settings.run import TrainConfig, from_values
from gems_edge.meta.task_threads import TaskThreads
from gems_edge.meta.train import resolve
from gems_edge.progress import Progress
from gems_edge.tickets.analysis import layer_ratios
from gems_edge.tickets.costs import ticket_cost
from gems_edge.tickets.training import train_run

RUN = "run"


def run_task(directory: Path, progress: Progress | None = None) -> dict[str, Any] | None:
    """Do what cell.json says, alone or under torchrun; goes on where it was.

    Returns the document of result.json, or None in all processes but the first.
    """
    task = read_json(directory / "cell.json", "cell")
    config = from_values(task["config"], str(directory / "cell.json"))
    if task["dense"]:
        root = directory.parents[task["name"].count("/")]
        config = replace(config, ticket=replace(config.ticket, dense_run=str(root / task["dense"] / RUN)))
    run, processes = Run(directory / RUN), start_processes(config.compute)
    config, images = processes.first_of_node(lambda: resolve(config))
    best = train_run(run, config, processes, images, progress if processes.first else None)
    accuracy = (
        test_accuracy(run, config, images, processes, task["episodes"], task["seed"]) if processes.first else None
    )
    processes.wait()
    processes.leave()
    if not processes.first:
        return None
    ticket, spent = run.ticket(config), run.spent()
    return {
        "name": task["name"],
        "accuracy": accuracy,
        "normalization": config.normalization,
        "training": {"iterations": config.iterations, "best": best, **spent},
        "flops": {name: ticket_cost(run, name).as_dict() for name in ("paper", "full")},
        "ticket": None if ticket is None else {
            "method": ticket.method, "unit": ticket.unit, "ratio": ticket.ratio, "kept": ticket.kept,
            "widths": list(ticket.widths), "found": ticket.found, "layer_ratios": layer_ratios(ticket.masks),
        },
    }  # fmt: skip


def test_accuracy(
    run: Run, config: TrainConfig, images: Mixture, processes: Processes, episodes: int, seed: int
) -> dict[str, Any]:
    """Mode → accuracy of the run's best weights over test episodes, with its interval."""
    model, weights = run.model()
    (sampler,) = mixture_sampler(images, "test", config.ways, config.shots, config.queries, seed).samplers
    found = evaluate(
        TaskThreads(model.to(processes.device), episodes), weights, episode_tensors(images, processes.device), sampler,
        rule_of(config), steps=[config.steps], modes=modes_for(config.normalization),
        tasks=range(episodes),
    )  # fmt: skip
    return {mode: mean_accuracy(values).as_dict() for (mode, _), values in found.items()}
