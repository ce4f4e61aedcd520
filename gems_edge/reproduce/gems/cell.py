"""One cell of GEMS's grid: train one run, test it on every distribution.

cell.json in its directory says what: config (a table of settings), test (distribution → image set), episodes and seed of the
test, name (the cell's own).
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gems_edge.data.specs import distribution_name
from gems_edge.files import read_json
from gems_edge.meta.evaluation.document import EvaluationProtocol
from gems_edge.meta.evaluation.run import evaluate_run
from gems_edge.meta.processes import start_processes
from gems_edge.meta.run import Run
from gems_edge.meta.settings.run import from_values
from gems_edge.meta.train import train
from gems_edge.progress import Progress

RUN = "run"


def run_task(directory: Path, progress: Progress | None = None) -> dict[str, Any] | None:
    """Do what cell.json says, alone or under torchrun; goes on where it was.

    Returns the document of result.json, or None in all processes but the first.
    """
    task = read_json(directory / "cell.json", "cell")
    config = from_values(task["config"], str(directory / "cell.json"))
    run, processes = Run(directory / RUN), start_processes(config.compute)
    best = train(run, config, resume=True, progress=progress if processes.first else None, processes=processes)
    processes.wait()
    processes.leave()
    if not processes.first:
        return None
    for variable in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):  # from here on one process works
        os.environ.pop(variable, None)
    protocol = EvaluationProtocol(
        data=tuple(task["test"].values()),
        episodes=task["episodes"],
        seed=task["seed"],
        modes=(config.normalization,),
    )
    return {
        "kind": "gems",
        "name": task["name"],
        "normalization": config.normalization,
        "training": {"iterations": config.iterations, "best": best, **run.spent()},
        **tested(evaluate_run(run.directory, protocol, config.compute), task["test"]),
    }


def tested(document: Mapping[str, Any], test: Mapping[str, str]) -> dict[str, Any]:
    """What `evaluate` found, by the study's names of the distributions.

    accuracy: set → mode → {accuracy, ci95, episodes}; choices: set → what the update rule decided, a row a step and a column a
    layer; overlap: "a|b" → per layer the share that two distributions' subnets have in common.
    """
    names = {distribution_name(spec): name for name, spec in test.items()}
    found = {names[name]: entry for name, entry in document["distributions"].items()}
    return {
        "accuracy": {
            name: {
                row["normalization"]: {key: row[key] for key in ("accuracy", "ci95", "episodes")} for row in entry["table"]
            }
            for name, entry in found.items()
        },
        "choices": {name: entry["choices"] for name, entry in found.items() if entry.get("choices")},
        "layers": document.get("layers", []),
        "overlap": {
            "|".join(names[name] for name in pair.split("|")): shares
            for pair, shares in document.get("overlap", {}).items()
        },
    }  # fmt: skip
