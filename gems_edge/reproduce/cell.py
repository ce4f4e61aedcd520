"""A cell of a grid: train one run, test it on new episodes, and say what came of it.

cell.json in its directory says what: name (the cell's own), config (a table of settings), episodes and seed of the
test; "dense", the cell whose network a ticket is cut from; "test", the image sets it is tested on (else its own).
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gems_edge.files import read_json
from gems_edge.meta.evaluation.document import EvaluationProtocol
from gems_edge.meta.evaluation.run import evaluate_run
from gems_edge.meta.overlap import subnet_overlap
from gems_edge.meta.processes import start_processes
from gems_edge.meta.run import Run
from gems_edge.meta.settings.base import from_table
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.meta.start import Start, resolve
from gems_edge.progress import Progress
from gems_edge.reproduce.protocol import RUN
from gems_edge.tickets.analysis import layer_ratios
from gems_edge.tickets.costs import ticket_cost
from gems_edge.tickets.training import train_run


def run_task(directory: Path, progress: Progress | None = None) -> dict[str, Any] | None:
    """Do what cell.json says, alone or under torchrun; goes on where it was.

    Returns the document of result.json, or None in all processes but the first.
    """
    task = read_json(directory / "cell.json", "cell")
    config = from_table(TrainConfig, task["config"], str(directory / "cell.json"))
    if task.get("dense"):
        root = directory.parents[task["name"].count("/")]
        config = replace(config, ticket=replace(config.ticket, dense_run=str(root / task["dense"] / RUN)))
    run, processes = Run(directory / RUN), start_processes(config.compute)
    config, images = processes.first_of_node(lambda: resolve(config))
    best = train_run(Start(config, images, processes), run, progress if processes.first else None)
    del images  # before those of the test come
    processes.wait()
    processes.leave()
    if not processes.first:
        return None
    for variable in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):  # from here on one process works
        os.environ.pop(variable, None)
    training: dict[str, Any] = {"iterations": config.iterations, "best": best, **run.spent()}
    validations = [line for line in run.metrics() if line["kind"] == "validation"]
    training["validation"] = [[line["iteration"], line["accuracy"]] for line in validations]
    document = {"name": task["name"], "normalization": config.normalization, "training": training}
    document |= test_on_sets(task, run) if "test" in task else test_ticket(task, run)
    return document | {"core_seconds": max(time.process_time(), training.get("cpu_seconds", 0.0))}


def test_ticket(task: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """accuracy: mode → {accuracy, ci95, episodes, shares}; flops: book → cost; ticket: None of a dense network."""
    config = run.config()
    protocol = EvaluationProtocol(episodes=task["episodes"], seed=task["seed"], each_episode=True)
    document, ticket = evaluate_run(run.directory, protocol, config.compute), run.ticket(config)
    return {
        "accuracy": _by_mode(_only_set(document)["table"]),
        "flops": {name: ticket_cost(run, name).as_dict() for name in ("paper", "full")},
        "ticket": None if ticket is None else {
            "method": ticket.method, "unit": ticket.unit, "ratio": ticket.ratio, "kept": ticket.kept,
            "widths": list(ticket.widths), "found": ticket.found, "layer_ratios": layer_ratios(ticket.masks),
        },
    }  # fmt: skip


def test_on_sets(task: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """What `evaluate` says of the images in task["test"] (distribution → image set), by the reproduction's names.

    accuracy and untrained (the bar, where there is one): set → mode → {accuracy, ci95, episodes}, and in accuracy the
    shares of every episode; by_shots, where it is tested with several numbers of support images a class: number → these
    two; choices: set → what the update rule decided, a row a step and a column a layer; overlap: "a|b" → per layer the
    share that two distributions' subnets have in common.
    """
    config = run.config()
    documents = {}
    for name, spec in task["test"].items():  # one by one: the images of several would be in memory twice
        modes, episodes = (config.normalization,), task["episodes"]
        protocol = EvaluationProtocol((spec,), episodes=episodes, seed=task["seed"], modes=modes, each_episode=True)
        documents[name] = evaluate_run(run.directory, protocol, config.compute)
    entries = {name: _only_set(document) for name, document in documents.items()}
    by_shots: dict[str, dict[str, Any]] = {}
    for name, document in documents.items():
        for tested in document.get("by_shots", ()):
            by_shots.setdefault(str(tested["shots"]), {})[name] = _only_set(tested)
    choices = {name: entry["choices"] for name, entry in entries.items() if entry.get("choices")}
    kept = {name: choice["keep"][0] for name, choice in choices.items() if "keep" in choice}
    return {
        **_accuracies(entries),
        **({"by_shots": {shots: _accuracies(each) for shots, each in by_shots.items()}} if by_shots else {}),
        "choices": choices,
        "layers": next(iter(documents.values())).get("layers", []),
        "overlap": subnet_overlap(kept),
    }


def _only_set(document: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of the one image set in a document of `evaluate`."""
    (entry,) = document["distributions"].values()
    return dict(entry)


def _accuracies(entries: Mapping[str, Any]) -> dict[str, Any]:
    """accuracy and untrained of `test_on_sets`."""
    accuracy = {name: _by_mode(entry["table"]) for name, entry in entries.items()}
    bars = {
        name: {mode: entry["untrained"] | {"episodes": own["episodes"]} for mode, own in accuracy[name].items()}
        for name, entry in entries.items()
        if "untrained" in entry
    }
    return {"accuracy": accuracy, **({"untrained": bars} if bars else {})}


def _by_mode(table: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mode → accuracy, from the table of `evaluate`."""
    kept = ("accuracy", "ci95", "episodes", "shares")
    return {row["normalization"]: {key: row[key] for key in kept if key in row} for row in table}
