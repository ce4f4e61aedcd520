"""What the report says of a run, a bundle, an episode and a measurement, as sections of a page. No torch, no onnx."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gems_edge.errors import UserError
from gems_edge.report import plots
from gems_edge.report.page import Cell, EpisodePicture, EpisodeQuery, EpisodeRow, KeyFigure, KeyFigures, Note, Picture, Section, Table


def run_sections(run: Path | str) -> list[Section]:
    """Key figures, training curves and configuration of a run directory (config.toml, metrics.jsonl).

    Raises UserError if it is not one.
    """
    run = Path(run)
    config, lines = _read_config(run), _read_metrics(run)
    train = [line for line in lines if line.get("kind") == "train"]
    validation = [line for line in lines if line.get("kind") == "validation" and "accuracy" in line]
    figures = [KeyFigure("method", _words(config, "method", "backbone")), KeyFigure("data", str(config.get("data", "?")))]
    if lines:
        figures.append(KeyFigure("meta-iterations", f"{max(int(line.get('iteration', 0)) for line in lines):,}"))
    if seconds := _duration(lines):
        figures.append(KeyFigure("time", f"{seconds / 60:.1f} min", tag="measured"))
    if validation:
        best = max(validation, key=lambda line: line["accuracy"])
        mode = f"validation, iteration {best.get('iteration', '?')}, mode {config.get('normalization', 'unknown')}"
        figures.append(KeyFigure("best accuracy", _accuracy(best), mode, "measured"))
    blocks: list = [KeyFigures(tuple(figures))]
    if train or validation:
        blocks.append(Picture(plots.training_curves(lines), "Each dot is a validation on new episodes with its 95 % interval."))
    else:
        blocks.append(Note("No metrics yet: the run has logged nothing."))
    rows = tuple((name, _plain(value)) for name, value in config.items())
    return [
        Section(f"Training: {run.name}", tuple(blocks)),
        Section(f"Configuration: {run.name}", (Table(("setting", "value"), rows, "config.toml; it alone repeats the run."),)),
    ]


def bundle_sections(bundle: Path | str, devices: Sequence[str] | None = None) -> list[Section]:
    """What a bundle is, how well it does and what it costs. Checks the bundle as the board does.

    `devices` are the boards to predict for, all known ones by default. Raises UserError for a damaged bundle.
    """
    from gems_edge.device.bundle import read_bundle

    return manifest_sections(read_bundle(bundle).manifest, devices)


def manifest_sections(manifest: Mapping[str, Any], devices: Sequence[str] | None = None) -> list[Section]:
    """`bundle_sections` of a manifest that was read and checked already."""
    name = manifest["name"]
    sections = [Section(f"Bundle: {name}", tuple(_facts(manifest))), _accuracy_section(manifest), _size_section(manifest)]
    if "cost" in manifest:
        sections += [_board_section(manifest, devices), _operations_section(manifest)]
    return [section for section in sections if section]


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
    about = f"This machine: {machine}, {bench.get('threads', '?')} threads, onnxruntime {host.get('onnxruntime', '?')}." if machine else ""
    sources = dict.fromkeys(
        f"{entry['tag'].capitalize()}: {entry['source']}"
        for part in places.values()
        for entry in (part.get("predict"), part.get("adapt"), *(part.get("memory") or {}).values())
        if isinstance(entry, Mapping) and entry.get("source") and entry.get("tag")
    )
    caption = f"Below each number its interval: 95 % where measured; where predicted, what its source gives. {about}".strip()
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
                value = f"{_number(entry[name])} {entry.get('unit', '')}".strip()
                cells[f"{what}{count}: {name}"] = Cell(value, _interval(*bounds), str(entry.get("tag", "")))
    return cells


def _facts(manifest: Mapping[str, Any]) -> list:
    image, rule, backbone = manifest["image"], manifest["rule"], manifest["backbone"]
    mode = manifest["normalization"]
    figures = [
        KeyFigure("task", f"{manifest['ways']}-way {manifest['shots']}-shot", f"head: {manifest['head']}"),
        KeyFigure("images", f"{image['size']} × {image['size']} × {image['channels']}", "inverted on reading" if image.get("inverted") else ""),
    ]
    entry = _entries(manifest.get("accuracy") or {}, mode)
    if entry:
        figures.append(KeyFigure("accuracy", _accuracy(entry[0]), f"mode {mode}, {_protocol(entry[0])}", "measured"))
    if "params" in manifest:
        figures.append(KeyFigure("weights", plots.short(manifest["params"]["after"]), f"of {plots.short(manifest['params']['before'])}", "counted"))
    if "macs" in manifest:
        figures.append(KeyFigure("MACs per image", plots.short(manifest["macs"]["after"]), f"of {plots.short(manifest['macs']['before'])}", "counted"))
    rows = [
        ("backbone", f"{backbone['name']}, widths {', '.join(map(str, backbone['widths']))}"),
        ("adapts with", f"{rule['name']}, {rule['steps']} steps, rate {rule['inner_lr']:g}"),
        ("normalisation mode", mode),
    ]
    if check := manifest.get("verification"):
        rows.append((
            "verified against torch",
            f"{check['episodes']} episodes: update off by {check['update_relative_error']:.1e} (allowed {check['update_tolerance']:.0e}), "
            f"probability by {check['probability_error']:.1e} (allowed {check['probability_tolerance']:.0e})",
        ))  # fmt: skip
    rows += [(file, f"{facts['bytes']:,} bytes") for file, facts in (manifest.get("files") or {}).items() if "bytes" in facts]
    rows += [(f"made: {key}", str(value)) for key, value in (manifest.get("provenance") or {}).items()]
    return [KeyFigures(tuple(figures)), Table(("fact", "value"), tuple(rows))]


def _accuracy_section(manifest: Mapping[str, Any]) -> Section | None:
    series = {}
    for label, key in (("dense", "accuracy_before"), ("this bundle", "accuracy")):
        entries = [entry for mode in manifest.get(key) or {} for entry in _entries(manifest[key], mode)]
        if entries:
            series[label] = entries
    if not series:
        return None
    rows = tuple(
        (label, entry["mode"], str(entry["steps"]), _accuracy(entry), str(entry.get("episodes", "")), _protocol(entry))
        for label, entries in series.items()
        for entry in entries
    )
    table = Table(("network", "normalisation mode", "steps", "accuracy", "episodes", "task"), rows, "± is a 95 % interval.", frozenset({2, 3, 4}))
    return Section(f"Accuracy: {manifest['name']}", (Picture(plots.accuracy_chart(series)), table))


def _size_section(manifest: Mapping[str, Any]) -> Section | None:
    quantities = [(label, manifest[key]) for label, key in (("weights", "params"), ("MACs per image", "macs")) if key in manifest]
    if not quantities:
        return None
    rows = tuple((label, f"{q['before']:,}", f"{q['after']:,}", f"{1 - q['after'] / q['before']:.1%}", "counted") for label, q in quantities)
    blocks: list = [Table(("quantity", "dense", "this bundle", "removed", "known how"), rows, numeric=frozenset({1, 2, 3}))]
    if any(q["before"] != q["after"] for _, q in quantities):
        chart = plots.cost_bars({label: q["before"] for label, q in quantities}, {label: q["after"] for label, q in quantities})
        blocks.insert(0, Picture(chart))
    if ratio := manifest.get("ratio"):
        blocks.append(Note(f"Asked to remove {ratio['asked']:.1%} of the backbone's weights, reached {ratio['reached']:.1%}."))
    return Section(f"Size: {manifest['name']}", tuple(blocks))


def _board_section(manifest: Mapping[str, Any], devices: Sequence[str] | None) -> Section:
    from gems_edge.cost.latency import predict_latency
    from gems_edge.cost.memory import predict_memory
    from gems_edge.cost.profiles import list_profiles, load_profile

    cost, images, rows, sources = manifest["cost"], manifest["ways"] * manifest["shots"], [], {}
    for device in list_profiles() if devices is None else devices:
        profile = load_profile(device)
        for what, graph in (("predict, 1 image", "predict"), (f"adapt step, {images} images", "adapt_step")):
            made = predict_latency(cost[graph], profile)
            rows.append((profile.name, what, f"{_number(made['ms'])} ms", _interval(made["low_ms"], made["high_ms"]), "predicted"))
            sources[f"Time: {made['source']}."] = None
        for what, count in (("predict", 1), ("adapt", images)):
            made = predict_memory(cost, count, what)
            value = f"{_number(made['mb'])} of {_number(profile['ram_usable'] * 2**20 / 1e6)} MB"
            label = f"memory, {what}, {count} image{'s' if count > 1 else ''}"
            rows.append((profile.name, label, value, _interval(made["low_mb"], made["high_mb"]), "predicted"))
            sources[f"Memory: {made['source']}."] = None
    table = Table(("board", "what", "value", "interval", "known how"), tuple(rows), numeric=frozenset({2, 3}))
    return Section(f"Cost on boards: {manifest['name']}", (table, *(Note(source) for source in sources)))


def _operations_section(manifest: Mapping[str, Any]) -> Section:
    rows = tuple(
        (label, op["kind"], f"{op['count']:,}", f"{op['macs']:,}", f"{op['bytes']:,}")
        for label, graph in (("predict", "predict"), ("adapt step", "adapt_step"))
        for op in manifest["cost"][graph]["ops"]
        if op["macs"] or op["bytes"]
    )
    sizes = "; ".join(
        f"{label}: {cost['macs']:,} MACs, {_number(cost['peak_bytes'] / 1e6)} MB of activations at {cost['dims']['images']} image(s)"
        for label, cost in (("predict", manifest["cost"]["predict"]), ("adapt step", manifest["cost"]["adapt_step"]))
    )
    caption = "Counted from shapes after the fusions that onnxruntime makes; bytes are read and written. Conv.fed: weights not constant."
    table = Table(("graph", "op", "count", "MACs", "bytes"), rows, caption, frozenset({2, 3, 4}))
    return Section(f"Operations: {manifest['name']}", (Note(sizes), table))


def _entries(accuracy: Mapping[str, Any], mode: str) -> list[dict[str, Any]]:
    found = accuracy.get(mode) or []
    found = [found] if isinstance(found, Mapping) else found
    return [{"mode": mode, "steps": 0, **entry} for entry in found if "accuracy" in entry]


def _accuracy(entry: Mapping[str, Any]) -> str:
    interval = f" ± {100 * entry['ci95']:.1f}" if entry.get("ci95") is not None else ""
    return f"{100 * entry['accuracy']:.1f}{interval} %"


def _protocol(entry: Mapping[str, Any]) -> str:
    return f"{entry['ways']}-way {entry['shots']}-shot" if "ways" in entry and "shots" in entry else ""


def _interval(low: float, high: float) -> str:
    return f"{_number(low)} … {_number(high)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


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
            flat |= {(name if name not in nested and name not in flat else f"{key}.{name}"): item for name, item in value.items()}
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
