"""What the report says of a bundle. No torch, no onnx."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gems_edge.report import plots
from gems_edge.report.foreign import foreign_section
from gems_edge.report.page import Block, KeyFigure, KeyFigures, Note, Picture, Section, Table
from gems_edge.wording import (
    accuracy_text,
    below_bar_text,
    count_text,
    interval_text,
    learning_text,
    number_text,
    protocol_text,
)

SIZES = {"params": "weights", "macs": "MACs per image"}  # manifest's key → label


def bundle_sections(bundle: Path | str, devices: Sequence[str] | None = None) -> list[Section]:
    """What a bundle is, how well it does and what it costs. Checks the bundle as the board does.

    `devices` are the boards to predict for, all known ones by default. Raises UserError for a damaged bundle.
    """
    from gems_edge.device.bundle import read_bundle

    return manifest_sections(read_bundle(bundle).manifest, devices)


def manifest_sections(manifest: Mapping[str, Any], devices: Sequence[str] | None = None) -> list[Section]:
    """`bundle_sections` of a manifest that was read and checked already."""
    facts = Section(f"Bundle: {manifest['name']}", (_key_figures(manifest), _facts(manifest)))
    sections = [facts, _accuracy_section(manifest), foreign_section(manifest), _size_section(manifest)]
    if "cost" in manifest:
        sections += [_board_section(manifest, devices), _operations_section(manifest)]
    return [section for section in sections if section]


def _key_figures(manifest: Mapping[str, Any]) -> KeyFigures:
    image, mode = manifest["image"], manifest["normalization"]
    pixels = f"{image['size']} × {image['size']} × {image['channels']}"
    figures = [
        KeyFigure("task", protocol_text(manifest), f"head: {manifest['head']}"),
        KeyFigure("images", pixels, "inverted on reading" if image.get("inverted") else ""),
    ]
    if entry := _entries(manifest.get("accuracy")).get(mode):
        note = f"mode {mode}, {protocol_text(entry)}"
        if bar := _entries(manifest.get("untrained")).get(mode):
            note += f"; untrained {accuracy_text(bar)}"
        figures.append(KeyFigure("accuracy", accuracy_text(entry), note, "measured"))
    for key, label in SIZES.items():
        if size := manifest.get(key):
            note = f"of {plots.short(size['before'])}"
            figures.append(KeyFigure(label, plots.short(size["after"]), note, "counted"))
    return KeyFigures(tuple(figures))


def _facts(manifest: Mapping[str, Any]) -> Table:
    rule, backbone = manifest["rule"], manifest["backbone"]
    rows = [
        ("backbone", f"{backbone['name']}, widths {', '.join(map(str, backbone['widths']))}"),
        *_pretrained_facts(manifest.get("pretrained") or {}),
        ("adapts with", _rule_text(rule)),
        ("normalisation mode", manifest["normalization"]),
        *_choice_facts(manifest),
        *_split_facts(manifest),
    ]
    if check := manifest.get("verification"):
        rows.append(("verified against torch", _verified(check)))
    files, provenance = manifest.get("files") or {}, manifest.get("provenance") or {}
    rows += [(name, f"{file['bytes']:,} bytes") for name, file in files.items() if "bytes" in file]
    rows += [(f"made: {key}", str(value)) for key, value in provenance.items()]
    return Table(("fact", "value"), tuple(rows))


def _rule_text(rule: Mapping[str, Any]) -> str:
    if not rule["steps"]:
        return "class means of the photos, without steps"
    steps = count_text(rule["steps"], "step")
    if by_shots := rule.get("steps_by_shots"):
        steps = ", ".join(f"{count_text(each, 'step')} for {count_text(n, 'photo')} a class" for n, each in by_shots)
    return f"{rule['name']}, {steps}, rate {rule['inner_lr']:g}"


def _pretrained_facts(pretrained: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not pretrained:
        return
    yield "pretrained weights", f"{pretrained['origin']}; licence: {pretrained['licence']}"
    yield "SHA-256 of their file", pretrained["sha256"]
    pixels = pretrained.get("pixels") or {}
    numbers = [
        ", ".join(f"{number:.4g}" for number in pixels[part]) for part in ("mean", "deviation") if part in pixels
    ]
    size = f"; trained at {pretrained['image_size']} pixels" if pretrained.get("image_size") else ""
    yield (
        "pixels",
        (f"(x − mean) / deviation of 0…1: mean {numbers[0]}, deviation {numbers[1]}" if numbers else "0…1") + size,
    )


def _verified(check: Mapping[str, Any]) -> str:
    update, answer = check["update"], check["answer"]
    answers = f"a probability by {answer['error']:.1e} (allowed {answer['allowed']:.0e})"
    if update is None:
        return f"{check['episodes']} episodes: off by {answers}"
    return (
        f"{check['episodes']} episodes of {check['steps']} steps: a tensor's step off by {update['error']:.1e} "
        f"(allowed {update['allowed']:.0e}), {answers}"
    )


def _choice_facts(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Whether a GEMS bundle asks its adapter what to adapt, or what was frozen for which images."""
    specialised, adapter = manifest.get("specialised"), manifest["rule"].get("adapter")
    if specialised:
        yield from _frozen_facts(specialised)
    elif adapter:
        yield "what it adapts", f"chosen on the board, {adapter}"


def _split_facts(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Where the network is cut, and what adapting then needs of an image."""
    if trunk := manifest.get("trunk"):
        yield "learns from", f"{trunk['cut']}; the layers below it run once for each photo"
        yield "features of a photo", " × ".join(map(str, trunk["features"]))


def _frozen_facts(specialised: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    names = specialised["layers"]
    yield "frozen for", specialised["data"] + ("" if specialised["seen"] else " (never seen in training)")
    for step, mask in enumerate(specialised.get("masks", [])):
        rates = specialised["rates"][step]
        layers = [f"{name} ({rate:.3g})" for name, on, rate in zip(names, mask, rates) if on]
        yield f"step {step + 1} adapts (rate)", ", ".join(layers) or "nothing"
    if "keep" in specialised:
        shares = (f"{name} {share:.0%}" for name, share in zip(names, specialised["keep"]))
        yield "share that adapts", ", ".join(shares)
    agreed = f"{specialised['agreement']:.1%} on {specialised['tasks']} validation tasks"
    yield "agrees with the adapter's choice", agreed


def _accuracy_section(manifest: Mapping[str, Any]) -> Section | None:
    labels = {"untrained": "untrained", "dense": "accuracy_before", "this bundle": "accuracy"}
    measured = {label: list(_entries(manifest.get(key)).values()) for label, key in labels.items()}
    series = {label: entries for label, entries in measured.items() if entries}
    if not series:
        return None

    def row(label: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
        episodes, task = str(entry.get("episodes", "")), protocol_text(entry)
        return label, entry["mode"], str(entry["steps"]), accuracy_text(entry), episodes, task

    rows = tuple(row(label, entry) for label, entries in series.items() for entry in entries)
    header = ("network", "normalisation mode", "steps", "accuracy", "episodes", "task")
    caption = "± is a 95 % interval. Untrained: class means of the same network before any training."
    table = Table(header, rows, caption, frozenset({2, 3, 4}))
    blocks: list[Block] = [Picture(plots.accuracy_chart(series)), table]
    mode = manifest["normalization"]
    bar, reached = (_entries(manifest.get(key)).get(mode) for key in ("untrained", "accuracy"))
    if bar and reached and (line := below_bar_text(reached | {"untrained": bar})):
        blocks.append(Note(line[0].upper() + line[1:] + "."))
    return Section(f"Accuracy: {manifest['name']}", tuple(blocks))


def _size_section(manifest: Mapping[str, Any]) -> Section | None:
    sizes = {label: manifest[key] for key, label in SIZES.items() if key in manifest}
    if not sizes:
        return None
    before = {label: size["before"] for label, size in sizes.items()}
    after = {label: size["after"] for label, size in sizes.items()}
    rows = tuple(
        (label, f"{before[label]:,}", f"{after[label]:,}", f"{1 - after[label] / before[label]:.1%}", "counted")
        for label in sizes
    )
    header = ("quantity", "dense", "this bundle", "removed", "known how")
    blocks: list[Block] = [Table(header, rows, numeric=frozenset({1, 2, 3}))]
    if before != after:
        blocks.insert(0, Picture(plots.size_bars(before, after)))
    if ratio := manifest.get("ratio"):
        text = f"Asked to remove {ratio['asked']:.1%} of the backbone's weights, reached {ratio['reached']:.1%}."
        blocks.append(Note(text))
    return Section(f"Size: {manifest['name']}", tuple(blocks))


def _board_section(manifest: Mapping[str, Any], devices: Sequence[str] | None) -> Section:
    from gems_edge.predict.latency import latency
    from gems_edge.predict.memory import predict_memory
    from gems_edge.predict.profiles import find_profile, list_profiles, load_profile

    cost, images = manifest["cost"], manifest["ways"] * manifest["shots"]
    graphs = {
        graph: f"{label}, {count_text(images if graph == 'adapt_step' else 1, 'image')}"
        for graph, label in _graphs(manifest).items()
    }
    rows: list[tuple[str, ...]] = []
    sources: dict[str, None] = {}  # each once, in order
    known = [device for device in list_profiles() if not load_profile(device).memory_only]
    for device in known if devices is None else devices:
        profile = find_profile(device)
        for graph, label in graphs.items():
            time = latency(cost[graph], profile)
            value = f"{number_text(time.value)} {time.unit}"
            rows.append((profile.name, label, value, interval_text(time.low, time.high), "predicted"))
            sources[f"Time: {time.source}."] = None
        for what, count in (("predict", 1), ("adapt", images)):
            peak = predict_memory(cost, count, what)
            value = f"{number_text(peak.value)} of {number_text(profile['ram_usable'] * 2**20 / 1e6)} {peak.unit}"
            label = f"memory, {what}, {count_text(count, 'image')}"
            rows.append((profile.name, label, value, interval_text(peak.low, peak.high), "predicted"))
            sources[f"Memory: {peak.source}."] = None
    table = Table(("board", "what", "value", "interval", "known how"), tuple(rows), numeric=frozenset({2, 3}))
    return Section(f"Cost on boards: {manifest['name']}", (table, *(Note(source) for source in sources)))


def _operations_section(manifest: Mapping[str, Any]) -> Section:
    costs = {label: manifest["cost"][graph] for graph, label in _graphs(manifest).items()}
    rows = tuple(
        (label, op["kind"], f"{op['count']:,}", f"{op['macs']:,}", f"{op['bytes']:,}")
        for label, cost in costs.items()
        for op in cost["ops"]
        if op["macs"] or op["bytes"]
    )
    sizes = "; ".join(
        f"{label}: {cost['macs']:,} MACs, {number_text(cost['peak_bytes'] / 1e6)} MB of activations "
        f"at {count_text(cost['dims']['images'], 'image')}"
        for label, cost in costs.items()
    )
    caption = "Counted from shapes after onnxruntime's fusions; bytes read and written. Conv.fed: weight not constant."
    table = Table(("graph", "op", "count", "MACs", "bytes"), rows, caption, frozenset({2, 3, 4}))
    return Section(f"Operations: {manifest['name']}", (Note(sizes), table))


def _graphs(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The bundle's graphs by their names in the manifest's costs, each with what it is called here."""
    learning = learning_text(manifest["rule"]["steps"])
    names = {"predict": "predict", "trunk": "trunk", "adapt_step": learning}
    return {graph: name for graph, name in names.items() if graph in manifest["cost"]}


def _entries(accuracy: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Mode → {mode, steps, accuracy, ci95, …} of the modes that were measured."""
    measured = {mode: entry for mode, entry in (accuracy or {}).items() if "accuracy" in entry}
    return {mode: {"mode": mode, "steps": 0, **entry} for mode, entry in measured.items()}
