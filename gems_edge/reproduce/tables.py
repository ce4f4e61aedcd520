"""How rows are written in the tables of a page. A number that is not there, here or in the paper, is "–"."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gems_edge.report.page import Note
from gems_edge.reproduce.pooling import Difference, Spread
from gems_edge.reproduce.protocol import S
from gems_edge.reproduce.results import Row, difference, factor
from gems_edge.reproduce.verdicts import NONE, points
from gems_edge.wording import number_text, percent_text

ACCURACY_NOTE = (
    "±: 95 % interval over all test episodes of all trainings pooled. It knows how exact the test is, not how much "
    "one training differs from the next, and all networks answer the same test episodes; the range over the seeds "
    "stands beside it. Differences: the mean over the seeds and its interval (see “The paper's claims”)."
)
WALL_NOTE = (
    "Wall seconds are of cells that ran beside each other on one machine; CPU seconds are the cleaner figure (on GPUs "
    "neither is)."
)
TIMES_CAPTION = "in parentheses from the least seed to the most."


def printed_notes(table: int, notes: Mapping[int, Sequence[str]]) -> list[Note]:
    """Where the paper's own table is damaged or contradicts itself."""
    return [Note(f"Table {table} as printed: {note}") for note in notes.get(table, ())]


def modes_of(rows: Iterable[Row[S]]) -> list[str]:
    """The mode of the headline first."""
    return list(dict.fromkeys(mode for row in rows for mode in row.modes))


def accuracy_header(modes: Sequence[str], reference: str) -> list[str]:
    return [f"{modes[0]}, %", "seeds, %", f"against {reference}, points", *(f"{mode}, %" for mode in modes[1:])]


def accuracy_cells(row: Row[S], modes: Sequence[str], reference: Row[S] | None, sets: Sequence[str] = ()) -> list[str]:
    """The columns of `accuracy_header`; nothing against itself."""
    cells = [accuracy(row, modes[0], sets), seeds_range(row, sets)]
    cells.append("" if row is reference else gap_text(difference(row, reference, sets) if reference else None))
    return cells + [accuracy(row, mode, sets) for mode in modes[1:]]


def accuracy(row: Row[S], mode: str = "", sets: Sequence[str] = ()) -> str:
    pooled = row.accuracy(sets, mode)
    return percent_text(pooled.accuracy, pooled.ci95) if pooled else NONE


def seeds_range(row: Row[S], sets: Sequence[str] = ()) -> str:
    pooled = row.accuracy(sets)
    return f"{100 * pooled.seeds_low:.1f} … {100 * pooled.seeds_high:.1f}" if pooled and len(row.done) > 1 else NONE


def series(points: Iterable[tuple[str, float, Row[S]]], setting: str) -> dict[str, list[dict[str, Any]]]:
    """Curves of accuracy over a setting: label → {setting, accuracy, ci95, …} of each row that has something done."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for label, value, row in points:
        if over_seeds := row.accuracy():
            curves.setdefault(label, []).append({setting: value, **over_seeds.as_dict()})
    return curves


def gap_text(gap: Difference | None) -> str:
    """ "+1.2 ± 0.8" points."""
    return points(gap.mean, gap.half, 1) if gap else NONE


def times(reference: Row[S] | None, row: Row[S], cost: str) -> str:
    """How many times less the row costs, "13.3×", with the seeds' range where they differ; nothing against itself."""
    values = factor(reference, row, cost)
    if row is reference or values is None:
        return "" if row is reference else NONE
    ends = "" if f"{values.low:.3g}" == f"{values.high:.3g}" else f" ({values.low:.3g} … {values.high:.3g})"
    return f"{values.mean:.3g}×{ends}"


def mean_text(values: Spread | None, text: Callable[[float], str] = number_text) -> str:
    return NONE if values is None else text(values.mean) if values.mean else "0"


def trainings(row: Row[S]) -> str:
    return f"{len(row.done)} of {len(row.wanted)}"
