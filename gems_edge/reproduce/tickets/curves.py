"""Figures 1 to 5, 8 and 12 to 14 of a reproduction: accuracy over the share removed. No torch."""

from collections.abc import Sequence

from gems_edge.report.page import Section
from gems_edge.reproduce.tickets.results import Row, Rows
from gems_edge.reproduce.tickets.tables import accuracy_section, cost_table, method_name, time_table, title_of

CURVES = {
    1: "iterative and one-shot pruning", 2: "layer-wise and global pruning", 3: "accuracy of tickets, Conv-4",
    4: "accuracy of tickets, ResNet-12", 5: "rewinding to iteration k", 8: "what the primary mask is worth",
    12: "accuracy of tickets, Conv-4", 13: "accuracy of tickets, ResNet-12", 14: "several tickets of one network",
}  # fmt: skip


def curve_sections(number: int, rows: Rows) -> list[Section]:
    """Figure 1, 2, 3, 4, 5, 8, 12, 13 or 14: accuracy over the share removed, a section per setup."""
    sections = []
    for setup in rows.setups:
        section = accuracy_section(
            by_seed(rows) if number == 14 else rows, setup, f"Figure {number}: {CURVES[number]}, {title_of(setup)}",
            lambda row: curve_label(number, row), says=False,
        )  # fmt: skip
        costs = [table(rows.of(setup), lambda row: curve_label(number, row)) for table in (cost_table, time_table)]
        sections.append(Section(section.title, (*section.blocks, *(costs if number == 1 else ()))))
    return sections


def curve_label(number: int, row: Row) -> str:
    if row.method == "dense":
        return "dense"
    if number == 1:
        return row.variant.replace("rounds", "") + " rounds" if row.variant else "one-shot"
    if number == 2:
        return "layer-wise" if row.variant else "global"
    if number == 5:
        return f"k = {row.variant[1:] or 0}"
    return f"ticket {row.wanted[0]}" if number == 14 else method_name(row)


def by_seed(rows: Sequence[Row]) -> Rows:
    """Tickets each on its own, ticket by ticket; the dense networks stay one row."""
    seeds = sorted({seed for row in rows for seed in row.wanted})
    single = [
        Row(row.setup, row.method, row.ratio, row.variant, row.shared_init, (seed,), {s: d for s, d in row.done.items() if s == seed})
        for seed in seeds for row in rows if row.method != "dense"
    ]  # fmt: skip
    return Rows([*(row for row in rows if row.method == "dense"), *single])
