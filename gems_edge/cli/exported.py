"""What an export made: the document of `export --json`, and the same in words."""

from collections.abc import Iterator
from pathlib import Path

import click

from gems_edge.cli.common import Document, say, table
from gems_edge.predict.memory import predict_memory
from gems_edge.predict.prediction import Prediction
from gems_edge.wording import accuracy_text, below_bar_text, count_text, percent_text


def document_of(output: Path, manifest: Document) -> Document:
    """The document of `export --json`."""
    mode = manifest["normalization"]
    return {
        "bundle": str(output),
        "product": manifest.get("product"),
        "ratio": manifest["ratio"]["reached"],
        "widths": manifest["backbone"]["widths"],
        **{f"{what}_{when}": manifest[what][when] for what in ("params", "macs") for when in ("before", "after")},
        "accuracy_before": manifest["accuracy_before"][mode],
        "accuracy_after": manifest["accuracy"][mode],
        "untrained": manifest["untrained"].get(mode),
        "accuracy_per_mode": {"before": manifest["accuracy_before"], "after": manifest["accuracy"]},
        "normalization": mode,
        "ticket": manifest["ticket"],
        "trunk": manifest["trunk"],
        "specialised": manifest["specialised"],
        "verification": manifest["verification"],
        "predicted_memory_mb": {
            what: {"images": images, **peak.as_dict("peak", digits=1, with_unit=False)}
            for what, (images, peak) in _predicted_memory(manifest).items()
        },
        "int8": manifest.get("int8", {}).get("accuracy"),
        "memory": manifest["memory"],
        "steps": manifest["rule"]["steps"],
        "budget": manifest.get("budget"),
        "bytes": sum(file["bytes"] for file in manifest["files"].values()),
    }


def show(output: Path, manifest: Document) -> None:
    """What was checked and chosen on stderr, what was exported as a table on stdout."""
    for line in _lines(manifest):
        say(line)
    dense = "dense" if manifest["ticket"] is None else "run (sizes: dense)"
    header = [f"{output} ({manifest['normalization']})", dense, f"ratio {manifest['ratio']['reached']:.3f}"]
    click.echo(table(_rows(manifest), header))


def _lines(manifest: Document) -> Iterator[str]:
    check = manifest["verification"]
    update, answer = check["update"], check["answer"]
    of_steps = ""
    if update is not None:
        of_steps = (
            f" of {check['steps']} steps: a tensor's step within {update['error']:.1e} of its length "
            f"(allowed {update['allowed']:.0e})"
        )
    yield (
        f"onnxruntime equals torch on {check['episodes']} episodes{of_steps}, probabilities within "
        f"{answer['error']:.1e} (allowed {answer['allowed']:.0e})"
    )
    if product := manifest.get("product"):
        yield f"release {product['release']} of product {product['id']}"
    if manifest["specialised"]:
        yield _specialised_line(manifest["specialised"])
    if manifest["provenance"]["trained_as"] == "transductive":
        why = "a board sees one image at a time, so the bundle answers in mode support"
        yield f"the run was trained transductive; {why}"
    for tested in _beside_bar(manifest):
        if line := below_bar_text(tested):
            yield f"{tested['shots']}-shot: {line}"
    if "int8" in manifest:
        yield from _int8_lines(manifest)


def _rows(manifest: Document) -> Iterator[tuple[str, str, str]]:
    for label, key in (("parameters", "params"), ("MACs per image", "macs")):
        yield label, f"{manifest[key]['before']:,}", f"{manifest[key]['after']:,}"
    before, after = manifest["accuracy_before"], manifest["accuracy"]
    for mode in after:
        tested = zip(before[mode].get("by_shots", [before[mode]]), after[mode].get("by_shots", [after[mode]]))
        for dense, left in tested:
            shots = f", {left['shots']}-shot" if "by_shots" in after[mode] else ""
            yield f"accuracy ({mode}){shots}", accuracy_text(dense, 2), accuracy_text(left, 2)
    for entry in _beside_bar(manifest):
        yield f"untrained (class means), {entry['shots']}-shot", accuracy_text(entry["untrained"], 2), ""
    for what, (images, peak) in _predicted_memory(manifest).items():
        label = f"memory of {what}, {count_text(images, 'image')}, predicted"
        yield label, "", f"{peak.value_text('.0f')} ({peak.interval_text('.0f')})"


def _beside_bar(manifest: Document) -> list[Document]:
    """For each number of shots the accuracy in the bundle's mode, with the bar's as "untrained", where it is known."""
    mode = manifest["normalization"]
    if mode not in manifest["untrained"]:
        return []
    bars, reached = manifest["untrained"][mode], manifest["accuracy"][mode]
    pairs = zip(bars.get("by_shots", [bars]), reached.get("by_shots", [reached]), strict=True)
    return [entry | {"untrained": bar} for bar, entry in pairs]


def _predicted_memory(manifest: Document) -> dict[str, tuple[int, Prediction]]:
    """Peak memory of predict and adapt on a board: what → (images, prediction)."""
    counts = {"predict": 1, "adapt": manifest["ways"] * manifest["shots"]}
    return {what: (images, predict_memory(manifest["cost"], images, what)) for what, images in counts.items()}


def _specialised_line(specialised: Document) -> str:
    """What was frozen, and how often the adapter itself chooses so."""
    agreed = (
        f"{100 * specialised['agreement']:.1f} % of the run's own choices on {specialised['tasks']} validation tasks"
    )
    return f"frozen for {specialised['data']}: adapts {_adapted(specialised)}; {agreed} agree"


def _adapted(specialised: Document) -> str:
    if "masks" not in specialised:
        return f"{100 * specialised['weights_kept']:.0f} % of the weights"
    layers = specialised["layers"]
    steps = ["+".join(name for name, on in zip(layers, mask) if on) or "nothing" for mask in specialised["masks"]]
    if len(set(steps)) == 1:
        return steps[0]
    return "; ".join(f"step {number}: {step}" for number, step in enumerate(steps, 1))


def _int8_lines(manifest: Document) -> Iterator[str]:
    """What the quantised graph answers and takes beside float32's; a warning where it lost more than the interval."""
    sizes = {name: f"{file['bytes']:,}" for name, file in manifest["files"].items()}
    for mode, entry in manifest["int8"]["accuracy"].items():
        fp32, int8, change = entry["fp32"], entry["int8"], entry["difference"]
        yield (
            f"int8 ({mode}): {accuracy_text(int8, 2)} where fp32 has {percent_text(fp32['accuracy'], digits=2)} %, "
            f"difference {percent_text(change['accuracy'], change['ci95'], 2, signed=True)}, "
            f"{100 * entry['agreement']:.1f} % of labels agree; "
            f"predict.int8.onnx has {sizes['predict.int8.onnx']} bytes, predict.onnx {sizes['predict.onnx']}"
        )
        if "precision" in manifest:
            yield f"boards answer in {manifest['precision']} unless --precision says otherwise"
        elif -change["accuracy"] > fp32["ci95"]:
            yield "warning: int8 loses more accuracy than the interval of fp32's; predict with --precision fp32"
