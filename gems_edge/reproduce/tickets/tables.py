"""Accuracy and cost of a reproduction's rows beside the paper's figures, as sections of its page. No torch."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from gems_edge.report import ticket_plots as plots
from gems_edge.report.page import Block, Note, Picture, Section, Table
from gems_edge.report.plots import short
from gems_edge.reproduce import tables
from gems_edge.reproduce.tickets import paper
from gems_edge.reproduce.tickets.plan import BACKBONES, TicketRow, TicketRows
from gems_edge.reproduce.tickets.protocol import TicketSetup
from gems_edge.reproduce.verdicts import NONE, percent
from gems_edge.wording import number_text

NAMES = {"conv4": "Conv-4", "resnet12": "ResNet-12"}
Label = Callable[[TicketRow], str]

COST_NOTE = (
    "MACs are counted. Paper's book: iterations × inner steps × support images × forward MACs of the backbone, by "
    "the mask's density; full book: what a training step executes, backward passes and second-order terms included. "
    "Totals are finding and training. Seconds are measured with torch, which multiplies by the zeros all the same: a "
    f"weight ticket saves no time. {tables.WALL_NOTE}"
)


def title_of(setup: TicketSetup) -> str:
    config = setup.config
    backbone = NAMES.get(config.backbone, config.backbone)
    return f"{setup.name} ({backbone}, {config.method.upper()}, {config.ways}-way {config.shots}-shot)"


def method_name(row: TicketRow) -> str:
    return row.method if row.method == "dense" else row.method.upper()


def _removed(row: TicketRow) -> str:
    return percent(row.ratio) if row.ratio else ""


# --- Accuracy ---


def accuracy_section(
    rows: TicketRows, setup: TicketSetup, title: str = "", label: Label = method_name, says: bool = True
) -> Section:
    """Accuracy of one setup's rows: picture and table. `says`: the paper's words beside each method."""
    rows, note = rows.of(setup), tables.ACCURACY_NOTE
    if says:
        note += " The paper shows accuracies as curves without numbers; its words stand beside ours."
    blocks: list[Block] = _accuracy_picture(rows, label)
    blocks += [accuracy_table(rows, setup, label, says), Note(note)]
    return Section(title or f"Accuracy: {title_of(setup)}", tuple(blocks))


def accuracy_table(rows: TicketRows, setup: TicketSetup, label: Label = method_name, says: bool = True) -> Table:
    modes = tables.modes_of(rows)
    header = ["method", "removed", *tables.accuracy_header(modes, "dense"), "trainings"]
    body, said = [], set()
    for row in rows:
        dense = row if row.method == "dense" else rows.find(setup, "dense", shared_init=row.shared_init)
        cells = [label(row), _removed(row), *tables.accuracy_cells(row, modes, dense), tables.trainings(row)]
        if says:
            cells.append("" if row.method in said else paper.ACCURACY[row.method])
        body.append(tuple(cells))
        said.add(row.method)
    caption = f"Trained in mode {setup.mode}; the column {modes[0]} is the headline."
    numeric = frozenset(range(1, len(header)))
    return Table((*header, *(["the paper"] if says else [])), tuple(body), caption, numeric)


def _accuracy_picture(rows: TicketRows, label: Label) -> list[Block]:
    series: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row.ratio and (pooled := row.accuracy()):
            series.setdefault(label(row), []).append({"ratio": row.ratio, **pooled.as_dict()})
    if not series:
        return []
    dense = next((pooled.as_dict() for row in rows if row.method == "dense" and (pooled := row.accuracy())), None)
    return [Picture(plots.ratio_curves(series, dense), f"Mode {rows[0].mode}; bars are the pooled 95 % interval.")]


# --- Cost ---


def cost_section(rows: TicketRows, setup: TicketSetup, own_totals: bool) -> Section:
    """What a setup's tickets cost: Table 2 or 3, then all. `own_totals`: ours can stand beside the paper's totals."""
    rows, number = rows.of(setup), _table_number(setup)
    tickets = [row for row in rows if row.method == "pmt" and not row.variant]
    blocks = _bars(rows)
    if tickets:
        blocks.append(_comparison(rows, tickets, setup, own_totals))
    blocks += [cost_table(rows), time_table(rows), Note(COST_NOTE)]
    if tickets:
        blocks += tables.printed_notes(number, paper.NOTES)
    return Section(f"Cost: {title_of(setup)}", tuple(blocks))


def _comparison(rows: TicketRows, tickets: list[TicketRow], setup: TicketSetup, own_totals: bool) -> Table:
    """MWT against PMT in the paper's book, with the paper's row beside."""
    number = _table_number(setup)
    printed = paper.TABLES.get(number, {}).get(setup.row, {})
    body = []
    for row in tickets:
        mwt, theirs = rows.find(setup, "mwt", row.ratio), printed.get(row.ratio)
        cells = [percent(row.ratio)]
        for part in ("find", "total"):
            cost = f"paper.{part}"
            cells.append(_macs(mwt, cost) + _theirs(theirs, f"{part}_mwt", own_totals))
            cells.append(_macs(row, cost) + _theirs(theirs, f"{part}_pmt", own_totals))
            cells.append(tables.times(mwt, row, cost))
            cells.append(f"{getattr(theirs, f'{part}_factor'):g}×" if theirs else NONE)
        body.append(tuple(cells))
    header = ["removed"]
    for part in ("find", "find and train"):
        header += [f"{part}: MWT", "PMT", "× here", "× paper"]
    caption = f"MACs in the paper's book, and how many times less PMT costs than MWT; Table {number}, row {setup.row}."
    if own_totals:
        caption += " In parentheses the paper's cost."
    else:
        caption += " Other iterations than the paper's: compare the factors, not the totals."
    return Table(tuple(header), tuple(body), caption, frozenset(range(1, len(header))))


def cost_table(rows: TicketRows, label: Label = method_name) -> Table:
    """MACs of every row, in both books."""
    header = [
        "method",
        "removed",
        "find",
        "find and train",
        "full: find",
        "full: both",
        "× find",
        "× both",
        "× full: both",
    ]
    body = [
        (
            label(row), _removed(row),
            *(_macs(row, cost) for cost in ("paper.find", "paper.total", "full.find", "full.total")),
            *(_against_mwt(rows, row, cost) for cost in ("paper.find", "paper.total", "full.total")),
        )
        for row in rows
    ]  # fmt: skip
    caption = (
        "MACs in the paper's book, then in the full one; means over the seeds. ×: that many times less than MWT "
        f"(below 1: more); {tables.TIMES_CAPTION}"
    )
    return Table(tuple(header), tuple(body), caption, frozenset(range(1, len(header))))


def time_table(rows: TicketRows, label: Label = method_name) -> Table:
    """Iterations and seconds of every row."""
    header = [
        "method",
        "removed",
        "found after iterations",
        "find, CPU s",
        "find, wall s",
        "train, CPU s",
        "train, wall s",
    ]
    costs = ("find.cpu_seconds", "find.seconds", "train.cpu_seconds", "train.seconds")
    body = [
        (label(row), _removed(row), _found_after(row), *(tables.mean_text(row.cost(cost)) for cost in costs))
        for row in rows
    ]
    caption = "Measured; means over the seeds. The time of SNIP's gradients is not logged."
    return Table(tuple(header), tuple(body), caption, frozenset(range(1, len(header))))


def _against_mwt(rows: TicketRows, row: TicketRow, cost: str) -> str:
    """Nothing for the dense network, MWT itself, and a ticket that costs nothing to find."""
    spent = row.cost(cost)
    mwt = rows.find(row.setup, "mwt", row.ratio)
    if row.method == "dense" or mwt is None or (spent and not spent.mean):
        return ""
    return tables.times(mwt, row, cost)


def _bars(rows: TicketRows) -> list[Block]:
    """Total cost in the paper's book of the tickets that are found by training."""
    costs: dict[str, dict[str, float]] = {}
    for method in ("mwt", "pmt"):
        for row in rows:
            if row.method == method and not row.variant and (total := row.cost("paper.total")):
                costs.setdefault(method.upper(), {})[percent(row.ratio)] = total.mean
    if len(costs) < 2:
        return []
    return [
        Picture(plots.cost_bars(costs, "MACs"), "Finding a ticket and training it, paper's book, by share removed.")
    ]


def _table_number(setup: TicketSetup) -> int:
    return next((number for number, backbone in BACKBONES.items() if backbone == setup.config.backbone), 0)


def _theirs(printed: paper.PaperCost | None, name: str, shown: bool) -> str:
    return f" ({getattr(printed, name):g} P)" if printed and shown else ""


def _found_after(row: TicketRow) -> str:
    iterations = row.cost("find.iterations")
    if row.method == "dense" or iterations is None:
        return "" if row.method == "dense" else NONE
    extra = []
    if row.method == "pmt" and iterations.low != iterations.high:
        extra.append(f"{iterations.low:g} … {iterations.high:g}")
    if row.method == "pmt" and (late := sum(not done["ticket"]["found"]["settled"] for done in row.done.values())):
        extra.append(f"{late} never settled")
    return number_text(iterations.mean) + (f" ({', '.join(extra)})" if extra else "")


def _macs(row: TicketRow | None, cost: str) -> str:
    macs = row.cost(cost) if row else None
    return NONE if macs is None else short(macs.mean) if macs.mean else "0"


# --- Figures 1 to 5, 8 and 12 to 14 ---

CURVES = {
    1: "iterative and one-shot pruning", 2: "layer-wise and global pruning", 3: "accuracy of tickets, Conv-4",
    4: "accuracy of tickets, ResNet-12", 5: "rewinding to iteration k", 8: "what the primary mask is worth",
    12: "accuracy of tickets, Conv-4", 13: "accuracy of tickets, ResNet-12", 14: "several tickets of one network",
}  # fmt: skip


def curve_sections(number: int, rows: TicketRows) -> list[Section]:
    """Figure 1, 2, 3, 4, 5, 8, 12, 13 or 14: accuracy over the share removed, a section per setup."""
    sections, label, rows = [], partial(curve_label, number), by_seed(rows) if number == 14 else rows
    for setup in rows.setups:
        title = f"Figure {number}: {CURVES[number]}, {title_of(setup)}"
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
