"""gems-edge install: go over to a new bundle on a board, if it is no worse."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gems_edge.cli.common import (
    PATH,
    Document,
    FiniteRange,
    emit,
    json_option,
    say,
    show_lines,
    threads_option,
    trust_options,
)

if TYPE_CHECKING:
    from gems_edge.device.install import Installed
    from gems_edge.device.trial import Trial


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--into", "directory", required=True, type=PATH, metavar="DIR", help="Where the board keeps its bundles.")
@click.option(
    "--most-time", type=FiniteRange(min=0), default=1.5, show_default=True,
    help="How many times as long as with the bundle in use an answer, or teaching, may take.",
)  # fmt: skip
@click.option(
    "--most-memory", type=FiniteRange(min=0), default=1.25, show_default=True,
    help="How many times as much memory as with the bundle in use it may take.",
)  # fmt: skip
@click.option(
    "--worse", type=FiniteRange(0, 100), default=0, show_default=True, metavar="PERCENT",
    help="How many of the taught photos, in %, it may answer right less.",
)  # fmt: skip
@click.option("--fresh", is_flag=True, help="Leave what was taught with the bundle in use, and compare nothing.")
@threads_option
@trust_options
@json_option
def command(bundle: Path, directory: Path, as_json: bool, **options: Any) -> None:
    """Install BUNDLE into DIR, in the place of the bundle in use there, and teach it what that was taught.

    It is opened as --trust says, answers its self-test, and is asked, as the bundle in use is, for each of the owner's
    photos without having been taught it. If it answers fewer right, or takes too much time or memory, the bundle in use
    stays (exit code 2). A power cut leaves one of the two. DIR/current is the one in use.

    \b
    Example:
      gems-edge install plates.gems --into board
      gems-edge predict board/current/bundle.gems --state board/current/taught.state photo.jpg
      gems-edge install plates-2.gems --into board
      gems-edge rollback board
    """
    from gems_edge.device.install import Options, install
    from gems_edge.device.trial import Limits
    from gems_edge.device.trust import Trust
    from gems_edge.places import check_name

    check_name(directory)
    limits = Limits(options["most_time"], options["most_memory"], options["worse"] / 100)
    asked = Options(limits, Trust.from_environment(), options["fresh"], options["threads"])
    done = install(bundle, directory, asked, say)
    if as_json:
        emit(_document(done, directory))
    else:
        show_lines("\n".join(_lines(done, bundle, directory)))


def _document(done: "Installed", directory: Path) -> Document:
    from dataclasses import asdict

    from gems_edge.device.installation import CURRENT

    product, trial = done.bundle.product, done.trial
    return {
        "directory": str(directory),
        "current": str(directory / CURRENT),
        "slot": done.slot.number,
        "previous": done.previous.number if done.previous else None,
        "new": trial is not None,
        "name": done.bundle.name,
        "product": asdict(product) if product else None,
        "carried": trial.carried if trial else None,
        "photos": trial.photos if trial else 0,
        "marks": asdict(trial.marks) if trial else None,
        "before": asdict(trial.before) if trial and trial.before else None,
    }


def _lines(done: "Installed", bundle: Path, directory: Path) -> list[str]:
    from gems_edge.device.installation import BUNDLE, CURRENT, STATE

    if done.trial is None:
        return [f"{bundle} is in use already in {directory}; nothing was changed"]
    lines = [f"{bundle} is in use now in {directory} (slot {done.slot.number})", *_trial_lines(done.trial)]
    if done.previous:
        lines.append(f"gems-edge rollback {directory} goes back to slot {done.previous.number}")
    place, verb = directory / CURRENT, "predict" if done.slot.state else "adapt"
    rest = f"--state {place / STATE} IMAGE…" if verb == "predict" else f"--support DIR -o {place / STATE}"
    return [*lines, f"next: gems-edge {verb} {place / BUNDLE} {rest}"]


def _trial_lines(trial: "Trial") -> list[str]:
    from gems_edge.wording import count_text

    lines, new, old = [], trial.marks, trial.before
    if trial.carried:
        lines.append(f"it was taught {count_text(trial.photos, 'photo')}, by {_BY[trial.carried]}")
    if old and new.asked:
        lines.append(f"of {count_text(new.asked, 'photo')} left out it answers {new.right} right (before: {old.right})")
    if old:
        memory = f", {new.peak_mb:.0f} MB ({old.peak_mb:.0f})" if new.peak_mb and old.peak_mb else ""
        lines.append(
            f"an answer takes {new.predict_ms:.1f} ms (before: {old.predict_ms:.1f}), teaching {new.adapt_ms:.0f} ms "
            f"({old.adapt_ms:.0f}){memory}"
        )
    return lines


_BY = {
    "as kept": "what the state kept of them, which the new bundle takes as it is",
    "pictures": "the pictures that the state kept",
    "thumbnails": "their thumbnails (the layers that do not learn are others; teaching with photos anew may be better)",
}
