"""GEMS's Tables 1 to 5: accuracy and time of a study's rows beside the paper's figures. No torch.

A number that is not there yet, or that the paper does not give, is "–".
"""

from collections.abc import Callable, Mapping, Sequence

from gems_edge.report import choice_plots as plots
from gems_edge.report.page import Note, Picture, Section, Table
from gems_edge.reproduce.gems import paper as paper
from gems_edge.reproduce.gems.plan import LAYERS, MULTI, steps_of
from gems_edge.reproduce.gems.protocol import Mixture, Preset
from gems_edge.reproduce.gems.results import Row, Rows, difference, factor
from gems_edge.reproduce.pooling import Spread
from gems_edge.reproduce.verdicts import NONE, points_text
from gems_edge.wording import number_text, percent_text

NAMES = {
    "maml": "MAML", MULTI: "Multi-MAML", "bmp": "BMP", "mmsup": "MMSUP", "anil": "ANIL", "boil": "BOIL",
    "bmp-rates": "BMP, rate per layer",
}  # fmt: skip
ACCURACY_NOTE = (
    "±: 95 % interval over all test episodes of all trainings pooled; it does not know how much one training differs from the "
    "next, for which the range over the seeds stands beside it. The mean counts every distribution alike. Against MAML: the "
    "mean of the seeds' differences and its interval (see “The paper's claims”)."
)
TIME_NOTE = (
    "Seconds of training, validations included, tests not; means over the seeds. Multi-MAML's are the sum over its trainings. "
    "Wall seconds are of cells that ran beside each other on one machine; CPU seconds are the cleaner figure (on GPUs neither is)."
)
UNSEEN_NOTE = "Multi-MAML on a distribution that it has no model of: each of its models by itself, and the mean of their accuracies."


# --- Tables 1 and 2 ---


def accuracy_section(number: int, rows: Rows, mixture: Mixture, sets: Sequence[str]) -> Section:
    """Table 1 (`sets`: the mixture) or 2 (`sets`: what it was not trained on) of one mixture."""
    rows = rows.of(mixture)
    kind = "same distribution" if number == 1 else "cross-domain"
    notes = [ACCURACY_NOTE, TIME_NOTE, *([UNSEEN_NOTE] if number == 2 else [])]
    notes += [f"Table {number} as printed: {note}" for note in paper.NOTES[number]]
    times = (time_table(rows, mixture),) if number == 1 else ()
    blocks = (accuracy_table(number, rows, mixture, sets), *times, *map(Note, notes))
    return Section(f"Table {number}, {kind}: trained on {' + '.join(mixture)}", blocks)


def accuracy_table(number: int, rows: Rows, mixture: Mixture, sets: Sequence[str]) -> Table:
    modes, maml = _modes(rows), rows.find(mixture, "maml")
    trained, exact = _printed(mixture)
    header = ["method", "tested on", f"{modes[0]}, %", "seeds, %", *(f"{mode}, %" for mode in modes[1:])]
    header += ["against MAML, points", "CPU s", "trainings", "paper, %"]
    places = [tuple(sets), *((name,) for name in sets)] if len(sets) > 1 else [tuple(sets)]
    body = []
    for row in rows:
        printed = getattr(trained, "seen" if number == 1 else "unseen").get(row.method, {}) if trained else {}
        for place, tested in enumerate(places):
            whole = tested == places[0]
            against = points_text(difference(row, maml, tested)) if maml and row.method != "maml" else ""
            body.append((
                NAMES[row.method] if place == 0 else "", "mean" if whole and len(places) > 1 else tested[0],
                _accuracy(row, tested, modes[0]), _range(row, tested),
                *(_accuracy(row, tested, mode) for mode in modes[1:]), against,
                *((_seconds(row.time("cpu_seconds")), _done(row)) if place == 0 else ("", "")),
                _theirs(printed, tested if exact else None, whole),
            ))  # fmt: skip
    caption = f"Trained in mode {modes[0]}, which is the headline. " + _source(number, trained, exact)
    return Table(tuple(header), tuple(body), caption, frozenset(range(2, len(header))))


def time_table(rows: Rows, mixture: Mixture) -> Table:
    maml, multi, trained = rows.find(mixture, "maml"), rows.find(mixture, MULTI), _printed(mixture)[0]
    times = trained.time if trained else {}
    body = []
    for row in rows:
        theirs = times.get(row.method)
        body.append((
            NAMES[row.method], *(_seconds(row.time(name)) for name in ("cpu_seconds", "seconds")), _times(maml, row),
            _times(multi, row), f"{theirs:.2f}" if theirs else NONE, f"{times[MULTI] / theirs:.2f}×" if theirs else NONE,
        ))  # fmt: skip
    header = ("method", "CPU s", "wall s", "× less than MAML", "× less than Multi-MAML", "paper, time", "paper, × less than Multi-MAML")  # fmt: skip
    caption = "×: that many times less CPU time (below 1: more); in parentheses from the least seed to the most."
    return Table(header, tuple(body), caption, frozenset(range(1, len(header))))


def _printed(mixture: Mixture) -> tuple[paper.Trained | None, bool]:
    """The paper's training beside this one, and whether it is on the same distributions."""
    trained = paper.training_on(mixture)
    return trained, trained is not None and set(trained.mixture) == set(mixture)


def _theirs(printed: Mapping[str, paper.Printed], tested: Sequence[str] | None, whole: bool) -> str:
    """The paper's figure for these distributions; of other ones only the mean can stand beside ours."""
    if tested is None:
        tested = tuple(printed) if whole else ()
    found = [printed[name] for name in tested if name in printed]
    if not found or len(found) < len(tested):
        return NONE
    if len(found) > 1:
        return f"{100 * sum(one.accuracy for one in found) / len(found):.1f}"
    return percent_text(found[0].accuracy, found[0].spread or None)


def _source(number: int, trained: paper.Trained | None, exact: bool) -> str:
    if trained is None:
        return "The paper has no training on as many distributions."
    names = " + ".join(trained.mixture)
    if exact:
        return f"The paper: Table {number}, {names}."
    return f"The paper: Table {number}, {names}, mean over what it tests on: as many distributions, but other ones and longer trainings."


# --- Tables 3 to 5 ---

PLAIN = "It was trained on CUB200 and VGG102; its rows of MAML and of learned shares are Table 1's."


def _plain(method: str) -> list[float | None]:
    """The paper's accuracies of the training that its Tables 3 to 5 vary."""
    seen = paper.training_on(paper.ABLATION).seen[method]
    return [seen[name].accuracy for name in paper.ABLATION]


def sparsity_section(rows: Rows, preset: Preset) -> Section:
    mixture, body = preset.ablation, []
    for row in rows:
        sparsity = row.variant.removeprefix("sparsity")
        label = sparsity if row.variant else {"maml": "MAML", "mmsup": "learned"}[row.method]
        theirs = (
            [paper.SPARSITY[name].get(float(sparsity)) for name in paper.ABLATION]
            if row.variant
            else _plain(row.method)
        )
        body.append((label, row, theirs))
    fixed = [(float(label), row) for label, row, _ in body if row.variant]
    picture = _curves({"fixed": fixed}, "sparsity", [row for row in rows if not row.variant], mixture)
    table = _variants("sparsity", body, mixture, f"The paper: Table 3. {PLAIN}")
    return _study(3, "fixed sparsity", picture, table, mixture)


def depth_section(rows: Rows, preset: Preset) -> Section:
    mixture, body = preset.ablation, []
    for row in rows:
        layer = int(row.variant.removeprefix("depth") or 0)
        label = f"S{layer}" if layer else {"maml": "MAML", "mmsup": "learned"}[row.method]
        theirs = [paper.DEPTH[name][layer] for name in paper.ABLATION] if layer else _plain(row.method)
        body.append((label, row, theirs))
    body += [(f"S{n}", None, [paper.DEPTH[name][n] for name in paper.ABLATION]) for n in range(LAYERS + 1, 9)]
    caption = (
        f"Sparsity {preset.depth_sparsity:g} in one layer of Conv-4 (S{LAYERS}: the head). The paper: Table 4. {PLAIN}"
    )
    return _study(4, "one sparse layer", None, _variants("sparse layer", body, mixture, caption), mixture)


def steps_section(rows: Rows, preset: Preset) -> Section:
    mixture, body = preset.ablation, []
    series: dict[str, list[tuple[float, Row]]] = {}
    for row in rows:
        steps = steps_of(preset, row.method, row.variant)
        theirs = [paper.STEPS[row.method].get(steps)] if row.method in paper.STEPS else _plain(row.method)[:1]
        body.append((f"{NAMES[row.method]}, {steps}", row, theirs))
        if row.method in paper.STEPS:
            series.setdefault(NAMES[row.method], []).append((steps, row))
    picture = _curves(series, "inner steps", [row for row in rows if row.method == "maml"], mixture)
    caption = f"Trained and tested with as many inner steps. The paper: Table 5, tested on VGG102. {PLAIN}"
    table = _variants("method, inner steps", body, mixture, caption, paper.ABLATION[:1])
    return _study(5, "inner steps", picture, table, mixture)


def _study(number: int, what: str, picture: Picture | None, table: Table, mixture: Mixture) -> Section:
    notes = (Note(f"Table {number} as printed: {note}") for note in paper.NOTES[number])
    title = f"Table {number}, {what}: trained on {' + '.join(mixture)}"
    return Section(title, (*([picture] if picture else ()), table, Note(ACCURACY_NOTE), Note(TIME_NOTE), *notes))


def _variants(
    what: str, body: Sequence[tuple[str, Row | None, Sequence[float | None]]], mixture: Mixture, caption: str,
    printed: Sequence[str] = paper.ABLATION,
) -> Table:  # fmt: skip
    """A line per row: each distribution, their mean, time, and the paper's figures."""
    modes = _modes([row for _, row, _ in body if row])
    places = {"mean": mixture, **{name: (name,) for name in mixture}}
    header = [what, *(f"{label}, {modes[0]}, %" for label in places), "mean, seeds, %"]
    header += [f"mean, {mode}, %" for mode in modes[1:]] + [
        "CPU s",
        "trainings",
        *(f"paper, {name}, %" for name in printed),
    ]
    lines = []
    for label, row, theirs in body:
        ours = [NONE] * (len(header) - 1 - len(printed))
        if row:
            ours = [*(_accuracy(row, sets, modes[0]) for sets in places.values()), _range(row, mixture)]
            ours += [_accuracy(row, mixture, mode) for mode in modes[1:]]
            ours += [_seconds(row.time("cpu_seconds")), _done(row)]
        lines.append((label, *ours, *(f"{100 * value:.1f}" if value else NONE for value in theirs)))
    caption = f"Trained in mode {modes[0]}. {caption}"
    return Table(tuple(header), tuple(lines), caption, frozenset(range(1, len(header))))


def _curves(
    series: Mapping[str, Sequence[tuple[float, Row]]], xlabel: str, references: Sequence[Row], mixture: Mixture
) -> Picture | None:
    drawn = {
        label: [
            {"x": x, "accuracy": found.mean, "ci95": found.ci95}
            for x, row in entries
            if (found := row.accuracy(mixture))
        ]
        for label, entries in series.items()
    }
    drawn = {label: entries for label, entries in drawn.items() if entries}
    if not drawn:
        return None
    found = {_reference(row): row.accuracy(mixture) for row in references}
    lines = {label: pooled.mean for label, pooled in found.items() if pooled}
    mode = next(row.mode for entries in series.values() for _, row in entries)
    return Picture(
        plots.accuracy_curves(drawn, xlabel, lines),
        f"Mean over the distributions, mode {mode}; bars are the pooled 95 % interval.",
    )


def _reference(row: Row) -> str:
    return (
        NAMES[row.method]
        + (", learned shares" if row.method == "mmsup" else "")
        + row.variant.replace("steps", ", steps ")
    )


# --- Cells ---


def _modes(rows: Sequence[Row]) -> list[str]:
    """The mode of the headline first."""
    return list(dict.fromkeys(mode for row in rows for mode in row.modes))


def _accuracy(row: Row, sets: Sequence[str], mode: str) -> str:
    found = row.accuracy(sets, mode)
    return percent_text(found.mean, found.ci95) if found else NONE


def _range(row: Row, sets: Sequence[str]) -> str:
    found = row.accuracy(sets)
    return f"{100 * found.low:.1f} … {100 * found.high:.1f}" if found and len(row.done) > 1 else NONE


def _seconds(found: Spread | None) -> str:
    return number_text(found.mean) if found else NONE


def _done(row: Row) -> str:
    return f"{len(row.done)} of {len(row.wanted)}"


def _times(reference: Row | None, row: Row) -> str:
    found = factor(reference, row, "cpu_seconds") if reference and reference is not row else None
    if found is None:
        return "" if reference is row else NONE
    ends = "" if f"{found.low:.3g}" == f"{found.high:.3g}" else f" ({found.low:.3g} … {found.high:.3g})"
    return f"{found.mean:.3g}×{ends}"


Printer = Callable[[Rows, Preset], Section]
ABLATIONS: Mapping[int, Printer] = {3: sparsity_section, 4: depth_section, 5: steps_section}
