"""GEMS's Tables 1 to 5: accuracy and time of a reproduction's rows beside the paper's figures. No torch."""

from collections.abc import Callable, Mapping, Sequence

from gems_edge.report import choice_plots as plots
from gems_edge.report.page import Block, Note, Picture, Section, Table, number_table
from gems_edge.reproduce import tables
from gems_edge.reproduce.gems import paper
from gems_edge.reproduce.gems.bar import UNTRAINED, at_shots, bar_row
from gems_edge.reproduce.gems.plan import LAYERS, GemsRow, GemsRows, steps_of
from gems_edge.reproduce.gems.protocol import MULTI, PROTOTYPES, GemsPreset
from gems_edge.reproduce.protocol import Setup
from gems_edge.reproduce.verdicts import NONE
from gems_edge.wording import percent_text

NAMES = {
    UNTRAINED: "untrained", PROTOTYPES: "prototypes alone", "maml": "MAML", MULTI: "Multi-MAML", "bmp": "BMP",
    "mmsup": "MMSUP", "anil": "ANIL", "boil": "BOIL", "bmp-rates": "BMP, rate per layer",
    "bmp-on": "BMP, all masks on", "rates-on": "rate per layer, all masks on",
}  # fmt: skip
ACCURACIES = f"{tables.ACCURACY_NOTE} The mean counts every distribution alike."
SECONDS = "Seconds of training, validations included, tests not; means over the seeds."
NOTES = (ACCURACIES, f"{SECONDS} Multi-MAML's are the sum over its trainings. {tables.WALL_NOTE}")
UNSEEN_NOTE = "Multi-MAML on a distribution that it has no model of: the mean of each model's accuracy by itself."
PRETRAINED_NOTES = (
    ACCURACIES,
    f"{SECONDS} What lies below the layers that learn is computed once for all trainings, and its seconds are not "
    f"among these. {tables.WALL_NOTE}",
    f"{NAMES[UNTRAINED]}: the same network with the weights that every training starts from; classes are means of "
    f"features, nothing is trained. {NAMES[PROTOTYPES]}: trained, and classes are means of features, without a step.",
)


# --- Tables 1 and 2 ---


def accuracy_section(number: int, preset: GemsPreset, rows: GemsRows, setup: Setup, shots: int) -> Section:
    """Table 1 (on the distributions that `setup` trains on) or 2 (on unseen ones), tested at one number of shots."""
    rows, sets = rows.of(setup), setup.sets if number == 1 else preset.unseen(setup.sets)
    blocks: list[Block] = [accuracy_table(number, preset, rows, setup, sets, shots)]
    if number == 1:
        blocks.append(time_table(preset, rows, setup))
    if preset.pretrained:
        blocks += map(Note, PRETRAINED_NOTES)
    else:
        notes = NOTES if number == 1 else (*NOTES, UNSEEN_NOTE)
        blocks += [*map(Note, notes), *tables.printed_notes(number, paper.NOTES)]
    kind = "same distribution" if number == 1 else "cross-domain"
    tested = f", {shots}-shot" if len(preset.shots) > 1 else ""
    return Section(f"Table {number}, {kind}{tested}: trained on {setup.label}", tuple(blocks))


def accuracy_table(
    number: int, preset: GemsPreset, rows: GemsRows, setup: Setup, sets: Sequence[str], shots: int
) -> Table:
    """A line for the mean over `sets` of each row, and one for each of them. Rows of a pretrained network stand below
    the bar and against it, others against MAML and beside the paper's figures."""
    if preset.pretrained:
        rows = GemsRows([bar_row(rows, setup), *rows])
    rows = at_shots(rows, shots)
    reference = rows.find(setup, UNTRAINED if preset.pretrained else "maml")
    modes, trained = tables.modes_of(rows), paper.training_on(setup.sets)
    against = NAMES[UNTRAINED if preset.pretrained else "maml"]
    header = ["method", "tested on", *tables.accuracy_header(modes, against), "CPU s", "trainings"]
    places = [tuple(sets), *((name,) for name in sets)] if len(sets) > 1 else [tuple(sets)]
    body = []
    for row in rows:
        theirs = [] if preset.pretrained else _printed(number, row, trained, places)
        for line, tested in enumerate(places):
            body.append((
                "" if line else NAMES[row.method], "mean" if len(tested) > 1 else tested[0],
                *tables.accuracy_cells(row, modes, reference or row, tested), *(("", "") if line else _trained(row)),
                *theirs[line : line + 1],
            ))  # fmt: skip
    caption = f"Trained in mode {modes[0]}, which is the headline."
    if preset.pretrained:
        return number_table(header, body, caption, words=2)
    return number_table([*header, "paper, %"], body, f"{caption} {_source(number, trained, setup)}", words=2)


def _trained(row: GemsRow) -> tuple[str, str]:
    """Seconds and trainings; the bar has none."""
    if row.method == UNTRAINED:
        return NONE, NONE
    return tables.mean_text(row.cost("train.cpu_seconds")), tables.trainings(row)


def time_table(preset: GemsPreset, rows: GemsRows, setup: Setup) -> Table:
    """What training took, and where there are published times, the paper's."""
    maml, multi, trained = rows.find(setup, "maml"), rows.find(setup, MULTI), paper.training_on(setup.sets)
    printed, ratio = trained.time if trained else {}, "× less than Multi-MAML"
    columns: dict[str, Callable[[GemsRow], str]] = {
        "CPU s": lambda row: tables.mean_text(row.cost("train.cpu_seconds")),
        "wall s": lambda row: tables.mean_text(row.cost("train.seconds")),
        "× less than MAML": lambda row: tables.times(maml, row, "train.cpu_seconds"),
    }
    if not preset.pretrained:
        columns |= {
            ratio: lambda row: tables.times(multi, row, "train.cpu_seconds"),
            "paper, time": lambda row: f"{printed[row.method]:.2f}" if row.method in printed else NONE,
            f"paper, {ratio}": lambda row: (
                f"{printed[MULTI] / printed[row.method]:.2f}×" if row.method in printed else NONE
            ),
        }
    body = [(NAMES[row.method], *(text(row) for text in columns.values())) for row in rows]
    caption = f"×: that many times less CPU time (below 1: more); {tables.TIMES_CAPTION}"
    return number_table(("method", *columns), body, caption)


def _printed(number: int, row: GemsRow, trained: paper.Trained | None, places: Sequence[Sequence[str]]) -> list[str]:
    """The paper's figure for each line; of a training on other distributions only the mean can stand beside ours."""
    if trained is None:
        return [NONE] * len(places)
    printed = (trained.seen if number == 1 else trained.unseen).get(row.method, {})
    if not trained.is_on(row.setup.sets):
        return [_printed_mean(list(printed.values())), *[NONE] * (len(places) - 1)]
    known = [[printed[name] for name in sets if name in printed] for sets in places]
    return [_printed_mean(entries if len(entries) == len(sets) else []) for entries, sets in zip(known, places)]


def _printed_mean(entries: Sequence[paper.Printed]) -> str:
    if not entries:
        return NONE
    mean = sum(entry.accuracy for entry in entries) / len(entries)
    return percent_text(mean, entries[0].spread or None if len(entries) == 1 else None)


def _source(number: int, trained: paper.Trained | None, setup: Setup) -> str:
    if trained is None:
        return "The paper has no training on as many distributions."
    source = f"The paper: Table {number}, {' + '.join(trained.mixture)}"
    if trained.is_on(setup.sets):
        return f"{source}."
    return f"{source}, mean over what it tests on: as many distributions, but other ones and longer trainings."


# --- Tables 3 to 5 ---

PLAIN = "It was trained on CUB200 and VGG102; its rows of MAML and of learned shares are Table 1's."
# A line of Tables 3 to 5: its label, our row, and the paper's accuracies.
Line = tuple[str, GemsRow | None, Sequence[float | None]]


def _plain(method: str) -> list[float]:
    """The paper's accuracies of the training that its Tables 3 to 5 vary."""
    seen = paper.ABLATED.seen[method]
    return [seen[name].accuracy for name in paper.ABLATION]


def _mmsup_lines(rows: GemsRows, variant: str, sign: str, printed: Mapping[str, Sequence[float]]) -> list[Line]:
    """`printed`: what `variant` varies, as the rows' variants have it → the paper's accuracies."""
    lines: list[Line] = []
    for row in rows:
        value = row.variant.removeprefix(variant)
        if value:
            lines.append((sign + value, row, printed.get(value, (None, None))))
        else:
            lines.append(({"maml": "MAML", "mmsup": "learned"}[row.method], row, _plain(row.method)))
    return lines


def sparsity_section(rows: GemsRows, preset: GemsPreset) -> Section:
    lines = _mmsup_lines(rows, "sparsity", "", {f"{sparsity:g}": theirs for sparsity, theirs in paper.SPARSITY.items()})
    fixed = [("fixed", float(label), row) for label, row, _ in lines if row and row.variant]
    picture = _curves(fixed, "sparsity", [row for row in rows if not row.variant])
    return _section(3, "sparsity", preset, lines, f"The paper: Table 3. {PLAIN}", picture)


def depth_section(rows: GemsRows, preset: GemsPreset) -> Section:
    lines = _mmsup_lines(rows, "depth", "S", {str(layer): theirs for layer, theirs in paper.DEPTH.items()})
    lines += [(f"S{layer}", None, theirs) for layer, theirs in paper.DEPTH.items() if layer > LAYERS]
    one = f"Sparsity {preset.depth_sparsity:g} in one layer of Conv-4 (S{LAYERS}: the head)."
    return _section(4, "sparse layer", preset, lines, f"{one} The paper: Table 4. {PLAIN}")


def steps_section(rows: GemsRows, preset: GemsPreset) -> Section:
    lines: list[Line] = []
    points: list[tuple[str, float, GemsRow]] = []
    for row in rows:
        steps, name = steps_of(preset, row.method, row.variant), NAMES[row.method]
        if row.method in paper.STEPS:
            points.append((name, steps, row))
            lines.append((f"{name}, {steps}", row, [paper.STEPS[row.method].get(steps)]))
        else:
            lines.append((f"{name}, {steps}", row, _plain(row.method)[:1]))
    picture = _curves(points, "inner steps", [row for row in rows if row.method == "maml"])
    caption = f"Trained and tested with as many inner steps. The paper: Table 5, tested on VGG102. {PLAIN}"
    return _section(5, "method, inner steps", preset, lines, caption, picture)


def _section(
    number: int, what: str, preset: GemsPreset, lines: Sequence[Line], caption: str, pictures: Sequence[Picture] = ()
) -> Section:
    """Table 3, 4 or 5: a line per row with each distribution, their mean, time, and the paper's figures."""
    setup, modes = preset.setups[0], tables.modes_of(row for _, row, _ in lines if row)
    printed = paper.ABLATION[: len(lines[0][2])]
    places = {"mean": setup.sets, **{name: (name,) for name in setup.sets}}
    ours = [*(f"{label}, {modes[0]}, %" for label in places), "mean, seeds, %"]
    ours += [*(f"mean, {mode}, %" for mode in modes[1:]), "CPU s", "trainings"]
    header = [what, *ours, *(f"paper, {name}, %" for name in printed)]
    body = []
    for label, row, theirs in lines:
        cells = [NONE] * len(ours)
        if row:
            cells = [*(tables.accuracy(row, sets=sets) for sets in places.values()), tables.seeds_range(row)]
            cells += [tables.accuracy(row, mode) for mode in modes[1:]]
            cells += [tables.mean_text(row.cost("train.cpu_seconds")), tables.trainings(row)]
        body.append((label, *cells, *(f"{100 * value:.1f}" if value else NONE for value in theirs)))
    table = number_table(header, body, f"Trained in mode {modes[0]}. {caption}")
    notes = [*map(Note, NOTES), *tables.printed_notes(number, paper.NOTES)]
    return Section(f"Table {number}, {TITLES[number]}: trained on {setup.label}", (*pictures, table, *notes))


def _curves(points: Sequence[tuple[str, float, GemsRow]], xlabel: str, references: Sequence[GemsRow]) -> list[Picture]:
    """Accuracy over a setting, as far as something is done; `references` are lines across."""
    if not (curves := tables.series(points, "x")):
        return []
    lines = {}
    for row in references:
        if over_seeds := row.accuracy():
            shares = ", learned shares" if row.method == "mmsup" else ""
            lines[NAMES[row.method] + shares + row.variant.replace("steps", ", steps ")] = over_seeds.accuracy
    caption = f"Mean over the distributions, mode {points[0][-1].mode}; bars are the pooled 95 % interval."
    return [Picture(plots.accuracy_curves(curves, xlabel, lines), caption)]


TITLES = {3: "fixed sparsity", 4: "one sparse layer", 5: "inner steps"}
ABLATIONS: Mapping[int, Callable[[GemsRows, GemsPreset], Section]] = {
    3: sparsity_section, 4: depth_section, 5: steps_section,
}  # fmt: skip
