"""What the report says of a bundle. No torch, no onnx."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gems_edge.report import plots
from gems_edge.report.page import KeyFigure, KeyFigures, Note, Picture, Section, Table
from gems_edge.wording import accuracy_text, interval_text, number_text, protocol_text


def bundle_sections(bundle: Path | str, devices: Sequence[str] | None = None) -> list[Section]:
    """What a bundle is, how well it does and what it costs. Checks the bundle as the board does.

    `devices` are the boards to predict for, all known ones by default. Raises UserError for a damaged bundle.
    """
    from gems_edge.device.bundle import read_bundle

    return manifest_sections(read_bundle(bundle).manifest, devices)


def manifest_sections(manifest: Mapping[str, Any], devices: Sequence[str] | None = None) -> list[Section]:
    """`bundle_sections` of a manifest that was read and checked already."""
    name = manifest["name"]
    sections = [
        Section(f"Bundle: {name}", tuple(_facts(manifest))),
        _accuracy_section(manifest),
        _size_section(manifest),
    ]
    if "cost" in manifest:
        sections += [_board_section(manifest, devices), _operations_section(manifest)]
    return [section for section in sections if section]


def _facts(manifest: Mapping[str, Any]) -> list:
    image, rule, backbone = manifest["image"], manifest["rule"], manifest["backbone"]
    mode = manifest["normalization"]
    figures = [
        KeyFigure("task", f"{manifest['ways']}-way {manifest['shots']}-shot", f"head: {manifest['head']}"),
        KeyFigure(
            "images",
            f"{image['size']} × {image['size']} × {image['channels']}",
            "inverted on reading" if image.get("inverted") else "",
        ),
    ]
    entry = _entries(manifest.get("accuracy") or {}, mode)
    if entry:
        figures.append(
            KeyFigure("accuracy", accuracy_text(entry[0]), f"mode {mode}, {protocol_text(entry[0])}", "measured")
        )
    if "params" in manifest:
        figures.append(
            KeyFigure(
                "weights",
                plots.short(manifest["params"]["after"]),
                f"of {plots.short(manifest['params']['before'])}",
                "counted",
            )
        )
    if "macs" in manifest:
        figures.append(
            KeyFigure(
                "MACs per image",
                plots.short(manifest["macs"]["after"]),
                f"of {plots.short(manifest['macs']['before'])}",
                "counted",
            )
        )
    rows = [
        ("backbone", f"{backbone['name']}, widths {', '.join(map(str, backbone['widths']))}"),
        ("adapts with", f"{rule['name']}, {rule['steps']} steps, rate {rule['inner_lr']:g}"),
        ("normalisation mode", mode),
        *_choice_facts(manifest),
    ]
    if check := manifest.get("verification"):
        rows.append((
            "verified against torch",
            f"{check['episodes']} episodes: update off by {check['update_relative_error']:.1e} "
            f"(allowed {check['update_tolerance']:.0e}), "
            f"probability by {check['probability_error']:.1e} (allowed {check['probability_tolerance']:.0e})",
        ))  # fmt: skip
    rows += [
        (file, f"{facts['bytes']:,} bytes") for file, facts in (manifest.get("files") or {}).items() if "bytes" in facts
    ]
    rows += [(f"made: {key}", str(value)) for key, value in (manifest.get("provenance") or {}).items()]
    return [KeyFigures(tuple(figures)), Table(("fact", "value"), tuple(rows))]


def _choice_facts(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Whether a GEMS bundle asks its adapter what to adapt, or what was frozen for which images."""
    if not (found := manifest.get("specialised")):
        return (
            [("what it adapts", f"chosen on the board, {manifest['rule']['adapter']}")]
            if manifest["rule"].get("adapter")
            else []
        )
    facts = [("frozen for", found["data"] + ("" if found["seen"] else " (never seen in training)"))]
    for step, row in enumerate(found.get("masks", []), 1):
        rates = found["rates"][step - 1]
        layers = [f"{name} ({rate:.3g})" for name, on, rate in zip(found["layers"], row, rates) if on]
        facts.append((f"step {step} adapts (rate)", ", ".join(layers) or "nothing"))
    if "keep" in found:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(found["layers"], found["keep"]))
        facts.append(("share that adapts", shares))
    return [
        *facts,
        ("agrees with the adapter's choice", f"{found['agreement']:.1%} on {found['tasks']} validation tasks"),
    ]


def _accuracy_section(manifest: Mapping[str, Any]) -> Section | None:
    series = {}
    for label, key in (("dense", "accuracy_before"), ("this bundle", "accuracy")):
        entries = [entry for mode in manifest.get(key) or {} for entry in _entries(manifest[key], mode)]
        if entries:
            series[label] = entries
    if not series:
        return None
    rows = tuple(
        (
            label,
            entry["mode"],
            str(entry["steps"]),
            accuracy_text(entry),
            str(entry.get("episodes", "")),
            protocol_text(entry),
        )
        for label, entries in series.items()
        for entry in entries
    )
    table = Table(
        ("network", "normalisation mode", "steps", "accuracy", "episodes", "task"),
        rows,
        "± is a 95 % interval.",
        frozenset({2, 3, 4}),
    )
    return Section(f"Accuracy: {manifest['name']}", (Picture(plots.accuracy_chart(series)), table))


def _size_section(manifest: Mapping[str, Any]) -> Section | None:
    quantities = [
        (label, manifest[key]) for label, key in (("weights", "params"), ("MACs per image", "macs")) if key in manifest
    ]
    if not quantities:
        return None
    rows = tuple(
        (label, f"{q['before']:,}", f"{q['after']:,}", f"{1 - q['after'] / q['before']:.1%}", "counted")
        for label, q in quantities
    )
    blocks: list = [
        Table(("quantity", "dense", "this bundle", "removed", "known how"), rows, numeric=frozenset({1, 2, 3}))
    ]
    if any(q["before"] != q["after"] for _, q in quantities):
        chart = plots.cost_bars(
            {label: q["before"] for label, q in quantities}, {label: q["after"] for label, q in quantities}
        )
        blocks.insert(0, Picture(chart))
    if ratio := manifest.get("ratio"):
        blocks.append(
            Note(f"Asked to remove {ratio['asked']:.1%} of the backbone's weights, reached {ratio['reached']:.1%}.")
        )
    return Section(f"Size: {manifest['name']}", tuple(blocks))


def _board_section(manifest: Mapping[str, Any], devices: Sequence[str] | None) -> Section:
    from gems_edge.predict.latency import latency
    from gems_edge.predict.memory import predict_memory
    from gems_edge.predict.profiles import find_profile, list_profiles, load_profile

    cost, images, rows, sources = manifest["cost"], manifest["ways"] * manifest["shots"], [], {}
    known = [device for device in list_profiles() if not load_profile(device).memory_only]
    for device in known if devices is None else devices:
        profile = find_profile(device)
        for what, graph in (("predict, 1 image", "predict"), (f"adapt step, {images} images", "adapt_step")):
            time = latency(cost[graph], profile)
            value = f"{number_text(time.value)} {time.unit}"
            rows.append((profile.name, what, value, interval_text(time.low, time.high), "predicted"))
            sources[f"Time: {time.source}."] = None
        for what, count in (("predict", 1), ("adapt", images)):
            peak = predict_memory(cost, count, what)
            value = f"{number_text(peak.value)} of {number_text(profile['ram_usable'] * 2**20 / 1e6)} {peak.unit}"
            label = f"memory, {what}, {count} image{'s' if count > 1 else ''}"
            rows.append((profile.name, label, value, interval_text(peak.low, peak.high), "predicted"))
            sources[f"Memory: {peak.source}."] = None
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
        f"{label}: {cost['macs']:,} MACs, {number_text(cost['peak_bytes'] / 1e6)} MB of activations "
        f"at {cost['dims']['images']} image{'s' if cost['dims']['images'] != 1 else ''}"
        for label, cost in (("predict", manifest["cost"]["predict"]), ("adapt step", manifest["cost"]["adapt_step"]))
    )
    caption = "Counted from shapes after onnxruntime's fusions; bytes read and written. Conv.fed: weight not constant."
    table = Table(("graph", "op", "count", "MACs", "bytes"), rows, caption, frozenset({2, 3, 4}))
    return Section(f"Operations: {manifest['name']}", (Note(sizes), table))


def _entries(accuracy: Mapping[str, Any], mode: str) -> list[dict[str, Any]]:
    found = accuracy.get(mode) or []
    found = [found] if isinstance(found, Mapping) else found
    return [{"mode": mode, "steps": 0, **entry} for entry in found if "accuracy" in entry]
