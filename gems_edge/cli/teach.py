"""gems-edge teach: change what a state was taught."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gems_edge.cli.common import (
    Document,
    emit,
    json_option,
    keep_option,
    say,
    show_lines,
    table,
    threads_option,
    trust_options,
)
from gems_edge.cli.taught import adaptation_report, say_step, state_document
from gems_edge.data import limits

if TYPE_CHECKING:
    from gems_edge.device import Adaptation, Explanation, Learner

CHANGES = ("--add", "--photo", "--forget", "--rename", "--move", "--drop", "--undo", "--list")


@dataclass(frozen=True)
class Change:
    """A verb of a learner that has loaded the state, which gives None where nothing was to be learned, and the number
    of photos that it brings."""

    verb: Callable[["Learner"], "Adaptation | None"]
    news: int = 0


@dataclass(frozen=True)
class Options:
    """Of the changes that can be asked for, one is given."""

    add: Path | None
    photo: Path | None
    class_name: str | None
    forget: str | None
    rename: str | None
    move: str | None
    drop: int | None
    undo: int | None
    list: bool
    steps: int | None
    keep: int


@click.command()
@click.argument("bundle", type=click.Path())
@click.argument("state", type=click.Path())
@click.option("--add", type=click.Path(path_type=Path), metavar="DIR",
              help="Photos as DIR/CLASS/image: new classes, and more photos of known ones.")  # fmt: skip
@click.option("--photo", type=click.Path(path_type=Path), metavar="FILE",
              help="One photo, with --class: one more, or the correction of a wrong one.")  # fmt: skip
@click.option("--class", "class_name", metavar="NAME", help="What --photo shows.")
@click.option("--forget", metavar="NAME", help="Forget a class and its photos.")
@click.option("--rename", metavar="OLD=NEW", help="Give a class another name.")
@click.option("--move", metavar="PHOTO=NAME", help="Teach a photo, by its number, as another class.")
@click.option("--drop", type=int, metavar="PHOTO", help="Forget a photo, by its number.")
@click.option("--undo", type=click.IntRange(min=1), is_flag=False, flag_value=1, metavar="[N]",
              help="Go back one change, or N.")  # fmt: skip
@click.option("--list", "list", is_flag=True, help="Show classes, photos with their numbers, and what can be undone.")
@click.option(
    "--steps", type=click.IntRange(0, limits.STEPS), help="Gradient steps; default: the bundle's for so many photos."
)
@keep_option
@click.option(
    "--precision", type=click.Choice(["fp32", "int8"]), help="As it was taught in.  [default: as of adapt]",
)  # fmt: skip
@threads_option
@trust_options
@json_option
def command(
    bundle: str, state: str, precision: str | None, threads: int | None, as_json: bool, **options: object
) -> None:  # fmt: skip
    """Change what STATE was taught, by one of the options below, and adapt BUNDLE anew to the photos that are kept.

    A power cut leaves the old state or the new one.

    \b
    Example:
      gems-edge teach plates.gems mine.state --add more-photos
      gems-edge teach plates.gems mine.state --photo wrong.jpg --class saucer
      gems-edge teach plates.gems mine.state --undo
    """
    from gems_edge.device import Learner
    from gems_edge.predict.room import check_least_room

    asked = Options(**options)  # type: ignore[arg-type]
    _check_one(asked)
    learner = Learner.load(bundle, threads, precision, may_read=check_least_room)
    if asked.list:
        learner.load_state(state)
        document, lines = _listed(learner, state)
    else:
        if asked.steps is not None:
            learner.bundle.check_steps(asked.steps)
        document, lines = _taught(learner, state, _change(asked, learner))
    if as_json:
        emit(document)
    else:
        show_lines("\n".join(lines))


def _check_one(asked: Options) -> None:
    from gems_edge.errors import UserError

    given = [name for name in CHANGES if getattr(asked, name.removeprefix("--")) not in (None, False)]
    if len(given) != 1:
        which = f"{given[0]} and {given[1]} are given" if given else "no change is given"
        raise UserError(f"{which}; say one of {', '.join(CHANGES)}")
    if (asked.photo is None) != (asked.class_name is None):
        raise UserError("--photo and --class go together: a photo, and what it shows")


def _change(asked: Options, learner: "Learner") -> Change:
    """The verb that was asked for; what it needs of files is read once, here. UserError for what it cannot be."""
    from gems_edge.device.support import read_support
    from gems_edge.predict.room import check_room

    cost = learner.bundle.manifest["cost"]
    steps, keep = asked.steps, asked.keep
    if asked.add is not None:
        photos = read_support(asked.add, learner.bundle, partial(check_room, cost, what="adapt"), least=1)
        names = [file.name for file in photos.files]
        return Change(lambda at: at.teach(photos.images, photos.labels, steps, say_step, keep, names), len(names))
    if asked.photo is not None:
        images, file, label = learner.read_images([asked.photo]), asked.photo.name, str(asked.class_name)
        return Change(lambda at: at.teach(images, [label], steps, say_step, keep, [file]), 1)
    if asked.forget is not None:
        name = asked.forget
        return Change(lambda at: at.forget(name, steps, say_step))
    if asked.rename is not None:
        pair = asked.rename
        return Change(lambda at: at.rename(*_names(pair, at)))
    if asked.move is not None:
        number, new = _number_and_name(asked.move)
        return Change(lambda at: at.move(number, new, steps, say_step))
    if asked.drop is not None:
        dropped = asked.drop
        return Change(lambda at: at.drop(dropped, steps, say_step))
    changes = asked.undo or 1
    return Change(lambda at: at.undo(changes, say_step))


def _names(pair: str, learner: "Learner") -> tuple[str, str]:
    """OLD and NEW of OLD=NEW, where either may have the sign in it: the first cut that leaves a class that is there."""
    from gems_edge.errors import UserError

    cuts = [(pair[:place], pair[place + 1 :]) for place, sign in enumerate(pair) if sign == "="]
    if not cuts:
        raise UserError(f"--rename takes OLD=NEW, not {pair}")
    known = set(map(str, learner.classes))
    return next((cut for cut in cuts if cut[0] in known), cuts[0])


def _number_and_name(pair: str) -> tuple[int, str]:
    from gems_edge.errors import UserError

    number, sign, name = pair.partition("=")
    if not sign or not (number.isascii() and number.isdigit()):
        raise UserError(f"--move takes PHOTO=NAME, a number that --list shows and a class, not {pair}")
    return int(number[:18]), name


def _taught(learner: "Learner", path: str, change: Change) -> tuple[Document, list[str]]:
    """Change the state at `path`, whatever other processes teach it meanwhile."""
    from gems_edge.device.changing import saved_change
    from gems_edge.predict.room import check_room

    def changed(at: "Learner") -> "tuple[Adaptation | None, Explanation]":
        assert at.taught is not None
        check_room(at.bundle.manifest["cost"], at.taught.images + change.news, "adapt")
        return change.verb(at), at.explain()  # before others may remove its photos

    learner.load_state(path)
    overtaken = partial(say, f"another process has taught {path} meanwhile; once more, on what it taught")
    (adaptation, explanation), saved = saved_change(learner, path, changed, overtaken)
    if adaptation is None:
        document = state_document(saved, path) | explanation.to_json()
        lines = [f"{path}: generation {saved.generation}, {document['state_bytes']} bytes", *explanation.lines()]
    else:
        document, lines = adaptation_report(learner, adaptation, explanation, saved, path)
    said = saved.versions[-1].change if saved.versions else ""
    return document | {"change": said}, [f"{said}; {_classes_text(learner)}", *lines]


def _classes_text(learner: "Learner") -> str:
    assert learner.taught is not None
    album = learner.taught.album
    return "classes: " + ", ".join(f"{name} ({len(album.of(name))})" for name in album.classes)


def _listed(learner: "Learner", path: str) -> tuple[Document, list[str]]:
    """What the state holds, and whether that is enough."""
    from gems_edge.device.history import STEPS_BACK
    from gems_edge.wording import count_text

    state = learner.taught
    assert state is not None
    album, explanation = state.album, learner.explain()
    changes = [version.change for version in reversed(state.versions)]
    document = state_document(state, path) | {"change": changes[0], "undo": changes[:-1]} | explanation.to_json()
    lines = [table([(p.number, p.label, p.source) for p in album.photos], ("photo", "class", "file"))]
    lines += [f"generation {state.generation}, {document['state_bytes']} bytes; last: {changes[0]}"]
    lines += [f"{count_text(len(changes) - 1, 'change')} can be undone (at most {STEPS_BACK})"]
    return document, lines + explanation.lines()
