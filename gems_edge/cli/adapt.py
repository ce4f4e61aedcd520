"""gems-edge adapt: teach a bundle new classes from a folder of photos."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gems_edge.cli.common import Document, emit, json_option, say, show_lines, trust_options
from gems_edge.places import check_name, check_room

if TYPE_CHECKING:
    from gems_edge.device import Adaptation, Learner
    from gems_edge.device.bundle import Bundle
    from gems_edge.device.state import State
    from gems_edge.device.support import SupportSet


@click.command()
@click.argument("bundle", type=click.Path())
@click.option(
    "--support",
    required=True,
    type=click.Path(),
    metavar="DIR",
    help="Photos as DIR/CLASS/image, one folder per class.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=0),
    help="Gradient steps; default: the bundle's for so many photos. 0 (head prototype): class means alone.",
)
@click.option(
    "--precision", type=click.Choice(["fp32", "int8"]),
    help="int8: the quantised graph of the layers that do not learn, of a bundle that has one.  "
    "[default: as the bundle was exported to]",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), help="Threads; one per core if left out.")
@click.option(
    "-o", "--output", "state", required=True, type=click.Path(), metavar="STATE", help="Where to keep what is learned."
)
@trust_options
@json_option
def command(
    bundle: str, support: str, steps: int | None, precision: str | None, threads: int | None, state: str, as_json: bool
) -> None:
    """Teach BUNDLE new classes from a folder of photos.

    A STATE that exists already keeps its last content in one slot while the new one is written to the other.

    \b
    Example:
      gems-edge adapt plates.gems --support photos -o mine.state
    """
    from gems_edge.device import Learner
    from gems_edge.device.state import check_destination
    from gems_edge.device.support import read_support
    from gems_edge.predict.room import check_room

    learner = Learner.load(bundle, threads, precision)
    if steps is not None:
        learner.bundle.check_steps(steps)
    check_name(state)
    check_destination(state, learner.bundle.hash)
    cost = learner.bundle.manifest["cost"]
    photos = read_support(support, learner.bundle, lambda images: check_room(cost, images, "adapt"))
    _check_place(Path(state), learner.bundle, len(photos.classes))
    adaptation = _adapt(learner, photos, steps)
    document, text = _report(learner, adaptation, learner.save(state), state)
    if as_json:
        emit(document)
        return
    show_lines(text)
    show_lines(f"next: gems-edge predict {bundle} --state {state} IMAGE…")


def _check_place(state: Path, bundle: "Bundle", classes: int) -> None:
    """What is learned has room where it is to be kept; found out before it is learned."""
    learned = bundle.start_weights(classes, bundle.statistics)
    check_room(state if state.is_dir() else state.parent, sum(value.nbytes for value in learned.values()))


def _adapt(learner: "Learner", photos: "SupportSet", steps: int | None) -> "Adaptation":
    """Teach what the photos show, and say how it goes."""
    counts = ", ".join(f"{name} ({photos.labels.count(name)})" for name in photos.classes)
    say(f"{len(photos.classes)} classes from {len(photos.labels)} images: {counts}")
    total = learner.bundle.steps_for(len(photos.labels) / len(photos.classes)) if steps is None else steps

    def on_step(step: int, loss: float, seconds: float) -> None:
        say(f"step {step}/{total}  loss {loss:.4f}  {1e3 * seconds:.1f} ms")

    return learner.adapt(photos.images, photos.labels, steps, on_step)


def _times(milliseconds: list[float]) -> dict[str, float]:
    """Quantiles of the steps' times; none of no steps."""
    from gems_edge.device.measure import summarise

    if not milliseconds:
        return {}
    quantiles = summarise(milliseconds, {"p50": 0.5, "p90": 0.9}).quantiles
    return {name: round(value, 3) for name, value in quantiles.items()}


def _report(learner: "Learner", adaptation: "Adaptation", saved: "State", path: str) -> tuple[Document, str]:
    """What was learned, what it took and what it was predicted to take: for --json and for people."""
    from gems_edge.device.state import state_bytes
    from gems_edge.predict.memory import predict_memory
    from gems_edge.process_memory import peak_rss_mb

    times = _times([1e3 * seconds for seconds in adaptation.seconds])
    trunk_ms = None if adaptation.trunk_seconds is None else round(1e3 * adaptation.trunk_seconds, 3)
    measured, size = peak_rss_mb(), state_bytes(path)
    predicted = predict_memory(learner.bundle.manifest["cost"], adaptation.images, "adapt")
    document = {
        "state": str(Path(path)),
        "generation": saved.generation,
        "classes": list(adaptation.classes),
        "images": adaptation.images,
        "steps": adaptation.steps,
        "loss": list(adaptation.losses),
        "ms_per_step": times or None,
        "trunk_ms": trunk_ms,
        "peak_rss_mb": None if measured is None else round(measured, 1),
        "predicted_peak_mb": round(predicted.value, 1),
        "state_bytes": size,
    }
    memory = f"{predicted.value_text('.0f')} predicted ({predicted.interval_text('.0f')})"
    if measured is not None:
        memory = f"{measured:.0f} MB measured, {memory}"
    trunk = "" if trunk_ms is None else f"{trunk_ms:.1f} ms for the layers that do not learn, "
    step = f"{times['p50']:.1f} ms per step" if times else "class means, no step"
    lines = (
        f"{path}: generation {saved.generation}, {size} bytes",
        f"{trunk}{step}; peak memory {memory}",
    )
    return document, "\n".join(lines)
