"""Made-up results of GEMS's cells, for tests of what is made of them."""

import math
from collections.abc import Callable

from gems_edge.reproduce.gems import plan, protocol
from gems_edge.reproduce.grid import Cell

EPISODES = 600
LAYERS = ["blocks.0", "blocks.1", "blocks.2", "blocks.3", "head"]
SETS = ("grocery", "omniglot", "gtsrb", "caltech101", "tinyimagenet32")
PRESET = protocol.with_data(protocol.SMALL, {name: f"packed:{name}.npz" for name in SETS})
TWO, FOUR = PRESET.setups
ACCURACY = {"maml": 0.5, "bmp": 0.56, "mmsup": 0.52, "anil": 0.45, "boil": 0.47}


def document(cell: Cell, accuracy: Callable[[dict, str], float], deviation: float = 0.1, seconds: float = 50.0) -> dict:
    """A result.json. `accuracy`: (the cell's task, a distribution) → accuracy in the mode transductive."""
    task, ci95 = cell.task, 1.96 * deviation / math.sqrt(EPISODES)
    config = task["config"]
    found = {
        name: {
            mode: {"accuracy": accuracy(task, name) - loss, "ci95": ci95, "episodes": EPISODES}
            for mode, loss in (("support", 0.03), ("transductive", 0.0))
        }
        for name in task["test"]
    }
    made = {
        "name": cell.name, "accuracy": found, "choices": {}, "layers": [], "overlap": {},
        "training": {"seconds": seconds + 1, "cpu_seconds": seconds, "iterations": config["iterations"]},
    }  # fmt: skip
    if config["method"] == "bmp":
        choice = {"mask": [[0, 0.25, 0.5, 0.75, 1]] * config["steps"], "rate": [[0.1]] * config["steps"]}
        made |= {"layers": LAYERS, "choices": dict.fromkeys(task["test"], choice)}
    if config["method"] == "mmsup":
        names = list(task["test"])
        pairs = [f"{a}|{b}" for n, a in enumerate(names) for b in names[n + 1 :]]
        choice = {"keep": [[0.5, 0.6, 0.7, 0.8, 0.9]] * config["steps"]}
        made |= {"layers": LAYERS, "choices": dict.fromkeys(names, choice), "overlap": dict.fromkeys(pairs, [0.9] * 5)}
    return made


def by_method(task: dict, name: str) -> float:
    """What the paper hopes for; a MAML on the one distribution alone is best."""
    config = task["config"]
    alone = config["method"] == "maml" and len(config["data"]) == 1
    return ACCURACY[config["method"]] + 0.04 * alone


def results_of(parts: dict, accuracy: Callable[[dict, str], float] = by_method, **options) -> dict[str, dict]:
    return {cell.name: document(cell, accuracy, **options) for cell in cells_of(parts)}


def cells_of(parts: dict) -> list[Cell]:
    return plan.cells(PRESET, [trial for trials in parts.values() for trial in trials])
