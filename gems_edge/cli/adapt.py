"""gems-edge adapt: teach a bundle new classes from a folder of photos."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gems_edge.cli.common import emit, json_option, keep_option, say, show_lines, threads_option, trust_options
from gems_edge.cli.taught import adaptation_report, say_step
from gems_edge.data import limits
from gems_edge.places import check_name, check_room

if TYPE_CHECKING:
    from gems_edge.device import Adaptation, Learner
    from gems_edge.device.bundle import Bundle
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
    type=click.IntRange(0, limits.STEPS),
    help="Gradient steps; default: the bundle's for so many photos. 0 (head prototype): class means alone.",
)
@click.option(
    "--precision", type=click.Choice(["fp32", "int8"]),
    help="int8: the quantised graph of the layers that do not learn, of a bundle that has one.  "
    "[default: as the bundle was exported to]",
)  # fmt: skip
@threads_option
@click.option(
    "-o", "--output", "state", required=True, type=click.Path(), metavar="STATE", help="Where to keep what is learned."
)
@trust_options
@keep_option
@json_option
def command(
    bundle: str, support: str, steps: int | None, precision: str | None, threads: int | None, state: str, keep: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Teach BUNDLE new classes from a folder of photos, and nothing else: `gems-edge teach` changes what it was taught.

    A STATE that exists already keeps its last content in one slot while the new one is written to the other.

    \b
    Example:
      gems-edge adapt plates.gems --support photos -o mine.state
    """
    from gems_edge.device import Learner
    from gems_edge.device.state import check_destination
    from gems_edge.device.support import read_support
    from gems_edge.predict.room import check_least_room, check_room

    learner = Learner.load(bundle, threads, precision, may_read=check_least_room)
    if steps is not None:
        learner.bundle.check_steps(steps)
    check_name(state)
    check_destination(state, learner.bundle.hash)
    cost = learner.bundle.manifest["cost"]
    photos = read_support(support, learner.bundle, lambda images: check_room(cost, images, "adapt"))
    _check_place(Path(state), learner.bundle, photos, keep)
    adaptation = _adapt(learner, photos, steps, keep)
    document, lines = adaptation_report(learner, adaptation, learner.explain(), learner.save(state), state)
    if as_json:
        emit(document)
        return
    show_lines("\n".join(lines))
    show_lines(f"next: gems-edge predict {bundle} --state {state} IMAGE…")


def _check_place(state: Path, bundle: "Bundle", photos: "SupportSet", keep: int) -> None:
    """What is learned, and what is kept of the photos, has room where it is to be; found out before it is learned."""
    from gems_edge.device.photos import most_bytes

    learned = bundle.start_weights(len(photos.classes), bundle.statistics)
    count = sum(min(photos.labels.count(name), keep) for name in photos.classes)
    size = sum(value.nbytes for value in learned.values()) + count * most_bytes(bundle)
    check_room(state if state.is_dir() else state.parent, size)


def _adapt(learner: "Learner", photos: "SupportSet", steps: int | None, keep: int) -> "Adaptation":
    """Teach what the photos show, and say how it goes."""
    from functools import partial

    counts = {name: photos.labels.count(name) for name in photos.classes}
    shown = ", ".join(f"{name} ({count})" for name, count in counts.items())
    say(f"{len(counts)} classes from {len(photos.labels)} images: {shown}")
    each = sum(min(count, keep) for count in counts.values()) / len(counts)
    total = learner.bundle.steps_for(each) if steps is None else steps
    sources = [file.name for file in photos.files]
    return learner.adapt(
        photos.images, photos.labels, steps, partial(say_step, total=total), keep=keep, sources=sources
    )
