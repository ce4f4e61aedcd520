"""The program of a grid's cell: `python -m gems_edge.cli.cell DIRECTORY`, started by reproduce/grid.py."""

import importlib
import json
import sys
from pathlib import Path

from gems_edge.cli.main import run_reporting
from gems_edge.cli.progress import training_progress
from gems_edge.files import read_json, write_atomic

# What "kind" of cell.json says → the module whose run_task does it; a ticket's cell names no kind.
KINDS = {"ticket": "gems_edge.reproduce.tickets.cell", "gems": "gems_edge.reproduce.gems.cell"}


def main() -> None:
    directory = Path(sys.argv[1])
    kind = read_json(directory / "cell.json", "cell").get("kind", "ticket")
    run_task = importlib.import_module(KINDS[kind]).run_task
    with training_progress() as progress:
        result = run_task(directory, progress)
    if result is not None:
        write_atomic(directory / "result.json", json.dumps(result, indent=1))


if __name__ == "__main__":
    run_reporting(main)
