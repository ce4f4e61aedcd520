"""Accuracy and cost of a reproduction's rows beside the paper's figures, as sections of its page. No torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from gems_edge.report import ticket_plots as plots
from gems_edge.report.page import Block, Note, Picture, Section, Table, number_table
from gems_edge.report.plots import short
from gems_edge.reproduce import tables
from gems_edge.reproduce.tickets import paper
from gems_edge.reproduce.tickets.plan import BACKBONES, TicketRow, TicketRows, start
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


def accuracy_section(rows: TicketRows, setup: TicketSetup) -> Section:
    """Accuracy of one setup's rows, the paper's words beside each method."""
    note = f"{tables.ACCURACY_NOTE} The paper shows accuracies as curves without numbers; its words stand beside ours."
    rows = rows.of(setup)
    blocks = [*_accuracy_picture(rows, method_name), accuracy_table(rows, setup, says=paper.ACCURACY), Note(note)]
    return Section(f"Accuracy: {title_of(setup)}", blocks)


def accuracy_table(
    rows: TicketRows, setup: TicketSetup, label: Label = method_name, says: Mapping[str, str] | None = None
) -> Table:
    """`says`: method → what the paper says of it, beside its first row."""
    modes, body, said = tables.modes_of(rows), [], dict(says or {})
    header = ["method", "removed", *tables.accuracy_header(modes, "dense"), "trainings"]
    for row in rows:
        dense = row if row.method == "dense" else rows.find(setup, "dense", variant=start(row.variant))
        cells = [label(row), _removed(row), *tables.accuracy_cells(row, modes, dense), tables.trainings(row)]
        body.append([*cells, said.pop(row.method, "")] if says else cells)
    caption = f"Trained in mode {setup.mode}; the column {modes[0]} is the headline."
    return Table([*header, "the paper"] if says else header, body, caption, frozenset(range(1, len(header))))


def _accuracy_picture(rows: TicketRows, label: Label) -> list[Block]:
    curves = tables.series(((label(row), row.ratio, row) for row in rows if row.ratio), "ratio")
    if not curves:
        return []
    dense = next((pooled.as_dict() for row in rows if row.method == "dense" and (pooled := row.accuracy())), None)
    return [Picture(plots.ratio_curves(curves, dense), f"Mode {rows[0].mode}; bars are the pooled 95 % interval.")]


# --- Cost ---


def cost_section(rows: TicketRows, setup: TicketSetup, own_totals: bool) -> Section:
    """What a setup's tickets cost: Table 2 or 3, then all. `own_totals`: ours can stand beside the paper's totals."""
    rows, tables_of = rows.of(setup), {backbone: number for number, backbone in BACKBONES.items()}
    number, tickets = tables_of.get(setup.config.backbone, 0), [row for row in rows if row.method == "pmt"]
    blocks = _bars(rows)
    if tickets:
        blocks.append(_comparison(rows, tickets, setup, number, own_totals))
    blocks += [cost_table(rows), time_table(rows), Note(COST_NOTE)]
    if tickets:
        blocks += [*tables.printed_notes(number, paper.NOTES), *_watched(tickets)]
    return Section(f"Cost: {title_of(setup)}", blocks)


def _watched(tickets: Sequence[TicketRow]) -> list[Block]:
    """The overlaps that PMT watched, of all seeds at the ratio nearest to the paper's 80 %."""
    done = [row for row in tickets if row.done]
    if not done:
        return []
    row = min(done, key=lambda row: abs(row.ratio - 0.8))
    overlaps = {f"seed {seed}": document["ticket"]["found"]["overlaps"] for seed, document in row.done.items()}
    curves = {seed: looks for seed, looks in overlaps.items() if looks}
    about = f"Overlap of successive first-layer masks that PMT watches, {percent(row.ratio)} removed."
    return [Picture(plots.watched_overlap(curves, row.setup.ticket.delta), about)] if curves else []


def _comparison(
    rows: TicketRows, tickets: Sequence[TicketRow], setup: TicketSetup, number: int, own_totals: bool
) -> Table:
    """MWT against PMT in the paper's book, beside the paper's row of Table `number`."""
    printed = paper.TABLES.get(number, {}).get(setup.row, {})
    body = []
    for row in tickets:
        mwt, theirs = rows.find(setup, "mwt", row.ratio), printed.get(row.ratio, {})
        cells = [percent(row.ratio)]
        for cost in ("paper.find", "paper.total"):
            both = theirs.get(cost)
            in_paper = [f" ({spent:g} P)" for spent in both[:2]] if both and own_totals else ["", ""]
            cells += [_macs(mwt, cost) + in_paper[0], _macs(row, cost) + in_paper[1], tables.times(mwt, row, cost)]
            cells.append(f"{both.factor:g}×" if both else NONE)
        body.append(cells)
    header = ["removed"]
    for part in ("find", "find and train"):
        header += [f"{part}: MWT", "PMT", "× here", "× paper"]
    beside = "Other iterations than the paper's: compare the factors, not the totals."
    if own_totals:
        beside = "In parentheses the paper's cost."
    caption = f"MACs in the paper's book, and how many times less PMT costs than MWT; Table {number}, row {setup.row}."
    return number_table(header, body, f"{caption} {beside}")


def cost_table(rows: TicketRows, label: Label = method_name) -> Table:
    """MACs of every row, in both books."""
    costs = {
        "find": "paper.find", "find and train": "paper.total", "full: find": "full.find", "full: both": "full.total",
    }  # fmt: skip
    against = {"× find": "paper.find", "× both": "paper.total", "× full: both": "full.total"}
    body = [
        (
            label(row), _removed(row), *(_macs(row, cost) for cost in costs.values()),
            *(_against_mwt(rows, row, cost) for cost in against.values()),
        )
        for row in rows
    ]  # fmt: skip
    caption = (
        "MACs in the paper's book, then in the full one; means over the seeds. ×: that many times less than MWT "
        f"(below 1: more); {tables.TIMES_CAPTION}"
    )
    return number_table(("method", "removed", *costs, *against), body, caption)


def time_table(rows: TicketRows, label: Label = method_name) -> Table:
    costs = {
        "find, CPU s": "find.cpu_seconds", "find, wall s": "find.seconds", "train, CPU s": "train.cpu_seconds",
        "train, wall s": "train.seconds",
    }  # fmt: skip
    body = [
        (label(row), _removed(row), _found_after(row), *(tables.mean_text(row.cost(cost)) for cost in costs.values()))
        for row in rows
    ]
    caption = "Measured; means over the seeds. The time of SNIP's gradients is not logged."
    return number_table(("method", "removed", "found after iterations", *costs), body, caption)


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
    found = sorted(
        (row for row in rows if row.method in ("mwt", "pmt") and not row.variant), key=lambda row: row.method
    )
    for row in found:
        if total := row.cost("paper.total"):
            costs.setdefault(row.method.upper(), {})[percent(row.ratio)] = total.mean
    caption = "Finding a ticket and training it, paper's book, by share removed."
    return [Picture(plots.cost_bars(costs, "MACs"), caption)] if len(costs) == 2 else []


def _found_after(row: TicketRow) -> str:
    iterations = row.cost("find.iterations")
    if row.method == "dense" or iterations is None:
        return "" if row.method == "dense" else NONE
    extra = []
    if row.method == "pmt":
        late = sum(not done["ticket"]["found"]["settled"] for done in row.done.values())
        extra += [f"{iterations.low:g} … {iterations.high:g}"] if iterations.low != iterations.high else []
        extra += [f"{late} never settled"] if late else []
    return number_text(iterations.mean) + (f" ({', '.join(extra)})" if extra else "")


def _macs(row: TicketRow | None, cost: str) -> str:
    return tables.mean_text(row.cost(cost) if row else None, short)


# --- Figures 1 to 5, 8 and 12 to 14 ---

CURVES = {
    1: "iterative and one-shot pruning", 2: "layer-wise and global pruning", 3: "accuracy of tickets, Conv-4",
    4: "accuracy of tickets, ResNet-12", 5: "rewinding to iteration k", 8: "what the primary mask is worth",
    12: "accuracy of tickets, Conv-4", 13: "accuracy of tickets, ResNet-12", 14: "several tickets of one network",
}  # fmt: skip


def curve_sections(number: int, rows: TicketRows) -> list[Section]:
    """Accuracy over the share removed, a section per setup."""
    sections, label = [], partial(curve_label, number)
    for setup in rows.setups:
        own = by_seed(rows.of(setup)) if number == 14 else rows.of(setup)
        blocks = [*_accuracy_picture(own, label), accuracy_table(own, setup, label), Note(tables.ACCURACY_NOTE)]
        if number == 1:
            blocks += [cost_table(own, label), time_table(own, label)]
        sections.append(Section(f"Figure {number}: {CURVES[number]}, {title_of(setup)}", blocks))
    return sections


CONTROL_NAMES = {"narrow": "dense, narrower", "short": "dense, trained for less", "channel": "MWT, channels"}


def control_sections(rows: TicketRows) -> list[Section]:
    """MWT beside what it has to be better than."""

    def label(row: TicketRow) -> str:
        return CONTROL_NAMES.get(row.variant) or method_name(row)

    note = (
        "Narrower: as many weights as the ticket keeps. Trained for less: as many iterations less as the ticket has "
        "weights less. Channels: MWT that removes whole channels. A mask from another start is RR, above."
    )
    return [
        Section(f"Controls: {title_of(setup)}", [accuracy_table(rows.of(setup), setup, label), Note(note)])
        for setup in rows.setups
    ]


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


def by_seed(rows: TicketRows) -> TicketRows:
    """Tickets each on its own, ticket by ticket; the dense networks stay one row."""
    tickets = [
        replace(row, wanted=(seed,), done={done: document for done, document in row.done.items() if done == seed})
        for row in rows
        if row.method != "dense"
        for seed in row.wanted
    ]
    dense = [row for row in rows if row.method == "dense"]
    return TicketRows([*dense, *sorted(tickets, key=lambda row: row.wanted)])
