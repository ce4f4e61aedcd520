"""Accuracy and cost of a reproduction's rows beside the paper's figures, as sections of its page. No torch.

A number that is not there yet is "–".
"""

from collections.abc import Callable

from gems_edge.report import ticket_plots as plots
from gems_edge.report.page import Note, Picture, Section, Table
from gems_edge.report.plots import short
from gems_edge.reproduce.pooling import Spread
from gems_edge.reproduce.tickets import paper
from gems_edge.reproduce.tickets.plan import BACKBONES
from gems_edge.reproduce.tickets.protocol import Setup
from gems_edge.reproduce.tickets.results import Row, Rows, difference, factor
from gems_edge.reproduce.verdicts import NONE, percent, points_text
from gems_edge.wording import number_text, percent_text

NAMES = {"conv4": "Conv-4", "resnet12": "ResNet-12"}
Label = Callable[[Row], str]

ACCURACY_NOTE = (
    "±: 95 % interval over all test episodes of all trainings pooled. It knows how exact the test is, not how much one training "
    "differs from the next, and all networks answer the same test episodes; the range over the seeds stands beside it. "
    "Against dense: the mean of the seeds' differences and its interval (see “The paper's claims”)."
)
COST_NOTE = (
    "MACs are counted. Paper's book: iterations × inner steps × support images × forward MACs of the backbone, by the mask's "
    "density; full book: what a training step executes, backward passes and second-order terms included. Totals are finding "
    "and training. Seconds are measured with torch, which multiplies by the zeros all the same: a weight ticket saves no time. "
    "Wall seconds are of cells that ran beside each other on one machine; CPU seconds are the cleaner figure (on GPUs neither is)."
)


def title_of(setup: Setup) -> str:
    config = setup.config
    about = (
        f"{NAMES.get(config.backbone, config.backbone)}, {config.method.upper()}, {config.ways}-way {config.shots}-shot"
    )
    return f"{setup.name} ({about})"


def method_name(row: Row) -> str:
    return row.method if row.method == "dense" else row.method.upper()


# --- Accuracy ---


def accuracy_section(
    rows: Rows, setup: Setup, title: str = "", label: Label = method_name, says: bool = True
) -> Section:
    """Accuracy of one setup's rows: picture and table. `says`: the paper's words beside each method."""
    rows = rows.of(setup)
    picture = accuracy_picture(rows, label)
    about = ACCURACY_NOTE
    if says:
        about += " The paper shows accuracies as curves without numbers; its words stand beside ours."
    blocks = (*((picture,) if picture else ()), accuracy_table(rows, setup, label, says), Note(about))
    return Section(title or f"Accuracy: {title_of(setup)}", blocks)


def accuracy_table(rows: Rows, setup: Setup, label: Label = method_name, says: bool = True) -> Table:
    modes = list(dict.fromkeys(mode for row in rows for mode in row.modes))
    header = ["method", "removed", f"{modes[0]}, %", "seeds, %", "against dense, points", "trainings"]
    header[5:5] = [f"{mode}, %" for mode in modes[1:]]
    body, said = [], set()
    for row in rows:
        found = row.accuracy()
        ends = f"{100 * found.low:.1f} … {100 * found.high:.1f}" if found and len(row.done) > 1 else NONE
        cells = [
            label(row),
            percent(row.ratio) if row.ratio else "",
            _accuracy(row, modes[0]),
            ends,
            _against(rows, row),
        ]
        cells += [*(_accuracy(row, mode) for mode in modes[1:]), f"{len(row.done)} of {len(row.wanted)}"]
        body.append((*cells, *((paper.ACCURACY[row.method] if row.method not in said else "",) if says else ())))
        said.add(row.method)
    header += ["the paper"] if says else []
    caption = f"Trained in mode {setup.config.normalization}; the column {modes[0]} is the headline."
    return Table(tuple(header), tuple(body), caption, frozenset(range(1, 6 + len(modes) - 1)))


def accuracy_picture(rows: Rows, label: Label = method_name) -> Picture | None:
    series: dict[str, list] = {}
    for row in rows:
        if row.ratio and (found := row.accuracy()):
            entry = {"ratio": row.ratio, "accuracy": found.mean, "ci95": found.ci95}
            series.setdefault(label(row), []).append(entry)
    if not series:
        return None
    dense = next((row.accuracy() for row in rows if row.method == "dense" and row.done), None)
    markup = plots.ratio_curves(series, dense and {"accuracy": dense.mean, "ci95": dense.ci95})
    return Picture(markup, f"Mode {rows[0].mode}; bars are the pooled 95 % interval.")


def _accuracy(row: Row, mode: str) -> str:
    found = row.accuracy(mode)
    return percent_text(found.mean, found.ci95) if found else NONE


def _against(rows: Rows, row: Row) -> str:
    dense = rows.dense_of(row)
    found = difference(row, dense) if dense and row.ratio else None
    return points_text(found) if row.ratio else ""


# --- Cost ---


def cost_section(rows: Rows, setup: Setup, own_totals: bool) -> Section:
    """What the tickets of a setup cost: Table 2 or 3, then everything. `own_totals`: ours compare with the paper's totals."""
    rows = rows.of(setup)
    compared = comparison_table(rows, setup, own_totals)
    bars = _bars(rows)
    blocks = [
        *([bars] if bars else []),
        *([compared] if compared else []),
        cost_table(rows),
        time_table(rows),
        Note(COST_NOTE),
    ]
    number = _table_number(setup)
    blocks += [Note(f"Table {number} as printed: {note}") for note in paper.NOTES.get(number, ())] if compared else []
    return Section(f"Cost: {title_of(setup)}", tuple(blocks))


def comparison_table(rows: Rows, setup: Setup, own_totals: bool) -> Table | None:
    """MWT against PMT in the paper's book, with the paper's row beside; None without PMT."""
    tickets = [row for row in rows if row.method == "pmt" and not row.variant]
    if not tickets:
        return None
    printed = paper.TABLES.get(_table_number(setup), {}).get(setup.row, {})
    body = []
    for row in tickets:
        mwt, theirs = rows.find(setup, "mwt", row.ratio), printed.get(row.ratio)
        cells = [percent(row.ratio)]
        for part in ("find", "total"):
            name = f"paper.{part}"
            cells.append(_macs(mwt, name) + _theirs(theirs, f"{part}_mwt", own_totals))
            cells.append(_macs(row, name) + _theirs(theirs, f"{part}_pmt", own_totals))
            cells.append(times_text(factor(mwt, row, name)))
            cells.append(f"{getattr(theirs, f'{part}_factor'):g}×" if theirs else NONE)
        body.append(tuple(cells))
    header = ["removed"]
    for part in ("find", "find and train"):
        header += [f"{part}: MWT", "PMT", "× here", "× paper"]
    table = f"Table {_table_number(setup)}, row {setup.row}"
    caption = f"MACs in the paper's book, and how many times less PMT costs than MWT; {table}."
    if own_totals:
        caption += " In parentheses the paper's cost."
    else:
        caption += " Other iterations than the paper's: compare the factors, not the totals."
    return Table(tuple(header), tuple(body), caption, frozenset(range(1, len(header))))


def cost_table(rows: Rows, label: Label = method_name) -> Table:
    """MACs of every row, in both books."""
    header = (
        "method",
        "removed",
        "find",
        "find and train",
        "full: find",
        "full: both",
        "× find",
        "× both",
        "× full: both",
    )
    body = []
    for row in rows:
        is_reference = row.method == "dense" or (row.method == "mwt" and not row.variant)
        mwt = None if is_reference else rows.find(row.setup, "mwt", row.ratio)
        body.append((
            label(row), percent(row.ratio) if row.ratio else "",
            *(_macs(row, name) for name in ("paper.find", "paper.total", "full.find", "full.total")),
            *(_against_mwt(mwt, row, name) for name in ("paper.find", "paper.total", "full.total")),
        ))  # fmt: skip
    caption = (
        "MACs in the paper's book, then in the full one; means over the seeds. ×: that many times less than MWT "
        "(below 1: more); in parentheses from the least seed to the most."
    )
    return Table(header, tuple(body), caption, frozenset(range(1, len(header))))


def time_table(rows: Rows, label: Label = method_name) -> Table:
    """Iterations and seconds of every row."""
    header = (
        "method",
        "removed",
        "found after iterations",
        "find, CPU s",
        "find, wall s",
        "train, CPU s",
        "train, wall s",
    )
    names = ("find.cpu_seconds", "find.seconds", "train.cpu_seconds", "train.seconds")
    body = [
        (
            label(row),
            percent(row.ratio) if row.ratio else "",
            _found_after(row),
            *(_seconds(row.cost(name)) for name in names),
        )
        for row in rows
    ]
    caption = "Measured; means over the seeds. The time of SNIP's gradients is not logged."
    return Table(header, tuple(body), caption, frozenset(range(1, len(header))))


def times_text(found: Spread | None) -> str:
    """ "13.3×", with the seeds' range where they differ."""
    if found is None:
        return NONE
    ends = "" if f"{found.low:.3g}" == f"{found.high:.3g}" else f" ({found.low:.3g} … {found.high:.3g})"
    return f"{found.mean:.3g}×{ends}"


def _against_mwt(mwt: Row | None, row: Row, name: str) -> str:
    """Nothing for MWT itself, and for a ticket that costs nothing to find."""
    own = row.cost(name)
    return "" if mwt is None or (own and not own.mean) else times_text(factor(mwt, row, name))


def _bars(rows: Rows) -> Picture | None:
    """Total cost in the paper's book of the tickets that are found by training."""
    costs: dict[str, dict[str, float]] = {}
    for method in ("mwt", "pmt"):
        for row in rows:
            if row.method == method and not row.variant and (total := row.cost("paper.total")):
                costs.setdefault(method.upper(), {})[percent(row.ratio)] = total.mean
    if len(costs) < 2:
        return None
    return Picture(plots.cost_bars(costs, "MACs"), "Finding a ticket and training it, paper's book, by share removed.")


def _table_number(setup: Setup) -> int:
    return next((number for number, backbone in BACKBONES.items() if backbone == setup.config.backbone), 0)


def _theirs(printed: paper.PaperCost | None, name: str, shown: bool) -> str:
    return f" ({getattr(printed, name):g} P)" if printed and shown else ""


def _found_after(row: Row) -> str:
    found = row.cost("find.iterations")
    if row.method == "dense" or found is None:
        return "" if row.method == "dense" else NONE
    text = number_text(found.mean)
    if row.method == "pmt":
        ends = f"{found.low:g} … {found.high:g}" if found.low != found.high else ""
        late = sum(not document["ticket"]["found"]["settled"] for document in row.done.values())
        extra = ", ".join(filter(None, (ends, f"{late} never settled" if late else "")))
        text += f" ({extra})" if extra else ""
    return text


def _seconds(found: Spread | None) -> str:
    return NONE if found is None else number_text(found.mean) if found.mean else "0"


def _macs(row: Row | None, name: str) -> str:
    found = row.cost(name) if row else None
    return NONE if found is None else short(found.mean) if found.mean else "0"
