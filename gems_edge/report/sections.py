"""What the report says of a run, a bundle, an episode and a measurement, as sections of a page. No torch, no onnx."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gems_edge.data.specs import distribution_name
from gems_edge.errors import UserError
from gems_edge.models.ticket import load_ticket
from gems_edge.report import plots
from gems_edge.report.bundles import bundle_sections, manifest_sections
from gems_edge.report.page import (
    Cell,
    EpisodePicture,
    EpisodeQuery,
    EpisodeRow,
    KeyFigure,
    KeyFigures,
    Note,
    Picture,
    Section,
    Table,
)
from gems_edge.report.run_choices import choice_section, distribution_table
from gems_edge.report.ticket_sections import ticket_section
from gems_edge.wording import accuracy_text, interval_text, number_text

__all__ = ["Query", "bench_section", "bundle_sections", "episode_section", "manifest_sections", "run_sections"]


def run_sections(run: Path | str) -> list[Section]:
    """Key figures, training curves, ticket and configuration of a run directory (config.toml, metrics.jsonl, …).

    Raises UserError if it is not one.
    """
    run = Path(run)
    if (run / "distributions").is_dir():  # multi-maml: a run for each distribution
        return [section for part in sorted((run / "distributions").iterdir()) for section in run_sections(part)]
    config, lines = _read_config(run), _read_metrics(run)
    train = [line for line in lines if line.get("kind") == "train"]
    validation = [line for line in lines if line.get("kind") == "validation" and "accuracy" in line]
    figures = [
        KeyFigure("method", _words(config, "method", "backbone")),
        KeyFigure("data", _data_names(config.get("data", ["?"]))),
    ]
    if lines:
        figures.append(KeyFigure("meta-iterations", f"{max(int(line.get('iteration', 0)) for line in lines):,}"))
    if seconds := _duration(lines):
        figures.append(KeyFigure("time", f"{seconds / 60:.1f} min", tag="measured"))
    if validation:
        best = max(validation, key=lambda line: line["accuracy"])
        mode = f"validation, iteration {best.get('iteration', '?')}, mode {config.get('normalization', 'unknown')}"
        figures.append(KeyFigure("best accuracy", accuracy_text(best), mode, "measured"))
    blocks: list = [KeyFigures(tuple(figures))]
    if train or validation:
        blocks.append(
            Picture(plots.training_curves(lines), "Each dot is a validation on new episodes with its 95 % interval.")
        )
    else:
        blocks.append(Note("No metrics yet: the run has logged nothing."))
    if table := distribution_table(lines, config.get("normalization", "unknown")):
        blocks.append(table)
    rows = tuple((name, _plain(value)) for name, value in config.items())
    choices, ticket = choice_section(lines, run.name), run / "ticket.safetensors"
    return [
        Section(f"Training: {run.name}", tuple(blocks)),
        *([choices] if choices else []),
        *([ticket_section(load_ticket(ticket))] if ticket.exists() else []),
        Section(
            f"Configuration: {run.name}", (Table(("setting", "value"), rows, "config.toml; it alone repeats the run."),)
        ),
    ]


def _data_names(specs: Sequence[str]) -> str:
    """The image sets of a run; several without where they lie."""
    return specs[0] if len(specs) == 1 else ", ".join(map(distribution_name, specs))


@dataclass(frozen=True)
class Query:
    """One query image and what was said of it. `image` is uint8 [H, W] or [H, W, C] (or floats 0…1)."""

    image: np.ndarray
    predicted: str
    probability: float


def episode_section(
    classes: Sequence[str],
    support: Sequence[Sequence[np.ndarray]],
    queries: Sequence[Sequence[Query]],
    title: str = "An episode",
    note: str = "",
) -> Section:
    """A picture of an episode: per class its support images, and its queries marked ✓ or ✗.

    `support[i]` and `queries[i]` belong to `classes[i]`; images as Query.image.
    """
    rows, right, total, pixels = [], 0, 0, 0
    for name, images, asked in zip(classes, support, queries, strict=True):
        marked = []
        for query in asked:
            hit = query.predicted == name
            right, total = right + hit, total + 1
            marked.append(EpisodeQuery(plots.image_uri(query.image), query.predicted, f"{query.probability:.0%}", hit))
        pixels = max([pixels, *(np.asarray(image).shape[0] for image in images)])
        rows.append(EpisodeRow(name, tuple(plots.image_uri(image) for image in images), tuple(marked)))
    summary = f"{right} of {total} new images right. {note}".strip()
    return Section(title, (EpisodePicture(tuple(rows), fine=pixels > 48), Note(summary)))


def bench_section(bench: Mapping[str, Any], title: str = "Measured and predicted cost") -> Section:
    """The document of `gems-edge bench --json`: a column a machine, measured and predicted side by side.

    Parts that are absent are left out.
    """
    places = {"this machine": bench, **(bench.get("devices") or {})}
    columns = {where: _figures(part) for where, part in places.items()}
    labels = dict.fromkeys(label for column in columns.values() for label in column)
    rows = tuple((label, *(column.get(label, "–") for column in columns.values())) for label in labels)
    host = bench.get("host") or {}
    machine = ", ".join(str(host[key]) for key in ("board", "cpu", "machine") if host.get(key))
    about = (
        f"This machine: {machine}, {bench.get('threads', '?')} threads, onnxruntime {host.get('onnxruntime', '?')}."
        if machine
        else ""
    )
    sources = dict.fromkeys(
        f"{entry['tag'].capitalize()}: {entry['source']}"
        for part in places.values()
        for entry in (part.get("predict"), part.get("adapt"), *(part.get("memory") or {}).values())
        if isinstance(entry, Mapping) and entry.get("source") and entry.get("tag")
    )
    caption = (
        f"Below each number its interval: 95 % where measured; where predicted, what its source gives. {about}".strip()
    )
    return Section(title, (Table(("", *columns), rows, caption), *(Note(source) for source in sources)))


def _figures(part: Mapping[str, Any]) -> dict[str, Cell]:
    """What one machine's part of a bench document says, by label."""
    entries = [("predict", part.get("predict")), ("adapt step", part.get("adapt"))]
    entries += [(f"memory, {key}", entry) for key, entry in (part.get("memory") or {}).items()]
    entries.append(("cold start of predict", part.get("cold_start")))
    cells = {}
    for what, entry in entries:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("interval"), Mapping):
            continue
        count = f", {entry['images']} image{'s' if entry['images'] != 1 else ''}" if entry.get("images") else ""
        for name, bounds in entry["interval"].items():
            if isinstance(entry.get(name), int | float):
                value = f"{number_text(entry[name])} {entry.get('unit', '')}".strip()
                cells[f"{what}{count}: {name}"] = Cell(value, interval_text(*bounds), str(entry.get("tag", "")))
    return cells


def _words(config: Mapping[str, Any], *keys: str) -> str:
    return ", ".join(str(config[key]) for key in keys if key in config) or "?"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _read_config(run: Path) -> dict[str, Any]:
    """config.toml as one flat table; names of nested tables go before a dot unless the key is unique without."""
    try:
        nested = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{run} is neither a run (no config.toml) nor a bundle (no manifest.json)") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{run / 'config.toml'} is not valid TOML: {error}") from None
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= {
                (name if name not in nested and name not in flat else f"{key}.{name}"): item
                for name, item in value.items()
            }
        else:
            flat[key] = value
    return flat


def _read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line cut off by a kill is left out."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return []
    texts = [text for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if text.strip()]
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if isinstance(line, dict):
            lines.append(line)
        elif number < len(texts):
            raise UserError(f"{path} line {number} is not a JSON object; the file was altered")
    return lines


def _duration(lines: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of training: the last "seconds", or else the span of "time"."""
    seconds = [line["seconds"] for line in lines if isinstance(line.get("seconds"), int | float)]
    times = [line["time"] for line in lines if isinstance(line.get("time"), int | float)]
    return seconds[-1] if seconds else times[-1] - times[0] if times else 0.0
