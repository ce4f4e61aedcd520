"""Figures 1 to 5, 8 and 12 to 14 of a reproduction: accuracy over the share removed. No torch."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from gems_edge.report.page import Section
from gems_edge.reproduce.tickets.plan import TicketRow, TicketRows
from gems_edge.reproduce.tickets.tables import accuracy_section, cost_table, method_name, time_table, title_of

TITLES = {
    1: "iterative and one-shot pruning", 2: "layer-wise and global pruning", 3: "accuracy of tickets, Conv-4",
    4: "accuracy of tickets, ResNet-12", 5: "rewinding to iteration k", 8: "what the primary mask is worth",
    12: "accuracy of tickets, Conv-4", 13: "accuracy of tickets, ResNet-12", 14: "several tickets of one network",
}  # fmt: skip


def curve_sections(number: int, rows: TicketRows) -> list[Section]:
    """Figure 1, 2, 3, 4, 5, 8, 12, 13 or 14: accuracy over the share removed, a section per setup."""
    sections, label, rows = [], partial(curve_label, number), by_seed(rows) if number == 14 else rows
    for setup in rows.setups:
        title = f"Figure {number}: {TITLES[number]}, {title_of(setup)}"
        section = accuracy_section(rows, setup, title, label, says=False)
        costs = [cost_table(rows.of(setup), label), time_table(rows.of(setup), label)] if number == 1 else []
        sections.append(Section(title, (*section.blocks, *costs)))
    return sections


def curve_label(number: int, row: TicketRow) -> str:
    if row.method == "dense":
        return "dense"
    match number:
        case 1:
            return row.variant.replace("rounds", "") + " rounds" if row.variant else "one-shot"
        case 2:
            return "layer-wise" if row.variant else "global"
        case 5:
            return f"k = {row.variant[1:] or 0}"
        case 14:
            return f"ticket {row.wanted[0]}"
    return method_name(row)


def by_seed(rows: Sequence[TicketRow]) -> TicketRows:
    """Tickets each on its own, ticket by ticket; the dense networks stay one row."""
    dense = [row for row in rows if row.method == "dense"]
    tickets = [row for row in rows if row.method != "dense"]
    return TicketRows([*dense, *(
        replace(row, wanted=(seed,), done={s: done for s, done in row.done.items() if s == seed})
        for seed in sorted({seed for row in tickets for seed in row.wanted})
        for row in tickets
    )])  # fmt: skip
