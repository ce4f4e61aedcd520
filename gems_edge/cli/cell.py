"""The program of a grid's cell: `python -m gems_edge.cli.cell DIRECTORY`, started by reproduce/grid.py."""

import sys
from pathlib import Path

from gems_edge.cli.main import run_reporting
from gems_edge.cli.progress import training_progress


def main() -> None:
    from gems_edge.reproduce.cell import run_task
    from gems_edge.reproduce.job import write_result

    directory = Path(sys.argv[1])
    with training_progress() as progress:
        result = run_task(directory, progress)
    if result is not None:
        write_result(directory, result)


if __name__ == "__main__":
    run_reporting(main)
