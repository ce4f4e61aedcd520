"""What the report says of a run, an episode and a measurement, as sections of a page. No torch, no onnx."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gems_edge.data.specs import distribution_name
from gems_edge.errors import UserError
from gems_edge.meta.metrics import read_metrics
from gems_edge.meta.settings.stored import CONFIG_FILE, read_table
from gems_edge.models.network_file import COPY
from gems_edge.models.ticket import load_ticket
from gems_edge.report import plots
from gems_edge.report.page import (
    Block,
    EpisodePicture,
    EpisodeQuery,
    EpisodeRow,
    Estimate,
    KeyFigure,
    KeyFigures,
    Note,
    Picture,
    Section,
    Table,
    Verdict,
)
from gems_edge.report.run_choices import best_validation, choice_section, distribution_table
from gems_edge.report.ticket_sections import ticket_section
from gems_edge.wording import accuracy_text, count_text, interval_text, learning_text, number_text


def run_sections(run: Path | str) -> list[Section]:
    """Key figures, training curves, ticket and configuration of a run directory (config.toml, metrics.jsonl, …).

    Raises UserError if it is not one.
    """
    run = Path(run)
    if (run / "distributions").is_dir():  # a run for each distribution
        return [section for part in sorted((run / "distributions").iterdir()) for section in run_sections(part)]
    config, lines = _read_config(run), read_metrics(run / "metrics.jsonl")
    sections = [Section(f"Training: {run.name}", tuple(_training_blocks(config, lines)))]
    if choices := choice_section(lines, run.name):
        sections.append(choices)
    if (run / "ticket.safetensors").exists():
        sections.append(ticket_section(load_ticket(run / "ticket.safetensors")))
    rows = tuple((name, _plain(value)) for name, value in config.items())
    beside = f" with {COPY} beside it" if (run / COPY).exists() else ""
    settings = Table(("setting", "value"), rows, f"config.toml; it alone{beside} repeats the run.")
    return [*sections, Section(f"Configuration: {run.name}", (settings,))]


def _training_blocks(config: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    mode = config.get("normalization", "unknown")
    yield KeyFigures(tuple(_training_figures(config, lines, mode)))
    if any(line.get("kind") in ("train", "validation") for line in lines):
        caption = "Each dot is a validation on new episodes with its 95 % interval."
        yield Picture(plots.training_curves(lines), caption)
    else:
        yield Note("No metrics yet: the run has logged nothing.")
    if table := distribution_table(lines, mode):
        yield table
    if drawn := next((line for line in reversed(lines) if line.get("kind") == "general"), None):
        yield _general_table(drawn)


def _general_table(drawn: Mapping[str, Any]) -> Table:
    """The weights between the start and the trained ones, and which of them --keep-general took."""
    names = {0.0: "as they started", 1.0: "as they were trained"}
    rows = tuple(
        (f"{entry['share']:.0%}", names.get(entry["share"], ""), accuracy_text(entry),
         "this run's weights" if entry["share"] == drawn["share"] else "")
        for entry in drawn["validation"]
    )  # fmt: skip
    caption = (
        "On the way from the weights that training started from to the trained ones, on validation classes: the first "
        f"that keep {drawn['kept']:.0%} of the gain are taken (--keep-general); what is nearer to the start forgets "
        "less of other kinds of images."
    )
    return Table(("way", "weights", "accuracy", ""), rows, caption)


def _training_figures(config: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], mode: str) -> Iterator[KeyFigure]:
    yield KeyFigure("method", _words(config, "method", "backbone"))
    yield KeyFigure("data", _data_names(config.get("data", ["?"])))
    if lines:
        yield KeyFigure("meta-iterations", f"{max(int(line.get('iteration', 0)) for line in lines):,}")
    if seconds := _duration(lines):
        yield KeyFigure("time", f"{seconds / 60:.1f} min", tag="measured")
    if best := best_validation(lines):
        note = f"validation, iteration {best.get('iteration', '?')}, mode {mode}"
        yield KeyFigure("best accuracy", accuracy_text(best), note, "measured")


def _data_names(specs: Sequence[str]) -> str:
    """The image sets of a run; several without where they lie."""
    return specs[0] if len(specs) == 1 else ", ".join(map(distribution_name, specs))


@dataclass(frozen=True)
class Query:
    """One query image and what was said of it. `image` is uint8 [H, W] or [H, W, C] (or floats 0…1); an image that is
    not `known` was answered with "unknown", and `predicted` is the guess beside it."""

    image: np.ndarray
    predicted: str
    probability: float
    known: bool = True

    def verdict(self, name: str) -> Verdict:
        """Of an image of the class `name`."""
        if not self.known:
            return "unsure"
        return "right" if self.predicted == name else "wrong"


def episode_section(
    classes: Sequence[str],
    support: Sequence[Sequence[np.ndarray]],
    queries: Sequence[Sequence[Query]],
    title: str = "An episode",
    note: str = "",
) -> Section:
    """A picture of an episode: per class its support images, and its queries marked ✓, ✗ or ?.

    `support[i]` and `queries[i]` belong to `classes[i]`; images as Query.image.
    """
    rows = tuple(_episode_row(*row) for row in zip(classes, support, queries, strict=True))
    verdicts = Counter(query.verdict for row in rows for query in row.queries)
    largest = max((np.asarray(image).shape[0] for images in support for image in images), default=0)
    unsure = f", {verdicts['unsure']} unknown" if verdicts["unsure"] else ""
    summary = f"{verdicts['right']} of {verdicts.total()} new images right{unsure}. {note}".strip()
    return Section(title, (EpisodePicture(rows, fine=largest > 48), Note(summary)))


def _episode_row(name: str, support: Sequence[np.ndarray], queries: Sequence[Query]) -> EpisodeRow:
    marked = tuple(_episode_query(query, query.verdict(name)) for query in queries)
    return EpisodeRow(name, tuple(plots.image_uri(image) for image in support), marked)


def _episode_query(query: Query, verdict: Verdict) -> EpisodeQuery:
    answer = query.predicted if query.known else f"unknown ({query.predicted}?)"
    return EpisodeQuery(plots.image_uri(query.image), answer, f"{query.probability:.0%}", verdict)


def bench_section(bench: Mapping[str, Any], title: str = "Measured and predicted cost") -> Section:
    """The document of `gems-edge bench --json`: a column a machine, measured and predicted side by side.

    Parts that are absent are left out.
    """
    machines = {"this machine": bench, **(bench.get("devices") or {})}
    learning = learning_text(bench.get("steps", 1))
    columns = {name: _figures(part, learning) for name, part in machines.items()}
    labels = dict.fromkeys(label for column in columns.values() for label in column)
    rows = tuple((label, *(column.get(label, "–") for column in columns.values())) for label in labels)
    sources = dict.fromkeys(
        f"{entry['tag'].capitalize()}: {entry['source']}"
        for part in machines.values()
        for entry in (part.get("predict"), part.get("adapt"), *(part.get("memory") or {}).values())
        if isinstance(entry, Mapping) and entry.get("source") and entry.get("tag")
    )
    caption = "Below each number its interval: 95 % where measured; where predicted, what its source gives."
    table = Table(("", *columns), rows, f"{caption} {_this_machine(bench)}".strip())
    return Section(title, (table, *(Note(source) for source in sources)))


def _this_machine(bench: Mapping[str, Any]) -> str:
    host = bench.get("host") or {}
    machine = ", ".join(str(host[key]) for key in ("board", "cpu", "machine") if host.get(key))
    if not machine:
        return ""
    threads, runtime = bench.get("threads", "?"), host.get("onnxruntime", "?")
    return f"This machine: {machine}, {threads} threads, onnxruntime {runtime}."


def _figures(part: Mapping[str, Any], learning: str) -> dict[str, Estimate]:
    """What one machine's part of a bench document says, by label; `learning` is that of adapt.onnx."""
    entries = {"predict": part.get("predict"), learning: part.get("adapt")}
    entries |= {f"memory, {key}": entry for key, entry in (part.get("memory") or {}).items()}
    entries["cold start of predict"] = part.get("cold_start")
    cells = {}
    for what, entry in entries.items():
        if not isinstance(entry, Mapping) or not isinstance(entry.get("interval"), Mapping):
            continue
        label = f"{what}, {count_text(entry['images'], 'image')}" if entry.get("images") else what
        for name, bounds in entry["interval"].items():
            if isinstance(entry.get(name), int | float):
                value = f"{number_text(entry[name])} {entry.get('unit', '')}".strip()
                cells[f"{label}: {name}"] = Estimate(value, interval_text(*bounds), str(entry.get("tag", "")))
    return cells


def _words(config: Mapping[str, Any], *keys: str) -> str:
    return ", ".join(str(config[key]) for key in keys if key in config) or "?"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _read_config(run: Path) -> dict[str, Any]:
    """config.toml as one flat table: "ticket.ratio" for the setting `ratio` of the table `ticket`."""
    try:
        return _flat(read_table(run / CONFIG_FILE))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{run} is neither a run (no config.toml) nor a bundle (no manifest.json)") from None
    except IsADirectoryError:
        raise UserError(f"{run / CONFIG_FILE} is no file; name the directory of a run") from None


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= (
            {f"{key}.{name}": item for name, item in _flat(value).items()} if isinstance(value, dict) else {key: value}
        )
    return flat


def _duration(lines: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of training: the last "seconds", or else the span of "time"."""
    seconds = [line["seconds"] for line in lines if isinstance(line.get("seconds"), int | float)]
    times = [line["time"] for line in lines if isinstance(line.get("time"), int | float)]
    return seconds[-1] if seconds else times[-1] - times[0] if times else 0.0
