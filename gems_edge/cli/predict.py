"""gems-edge predict: classify images with a bundle and what it learned."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gems_edge.cli.common import PATH, Document, emit, json_option, say, table, threads_option, trust_options
from gems_edge.wording import count_text

if TYPE_CHECKING:
    import numpy as np

    from gems_edge.device import Learner
    from gems_edge.errors import UserError

_PROGRESS_SECONDS = 5.0
# Images decoded and held at a time.
_CHUNK = 64
UNKNOWN = "unknown"


@click.command()
@click.argument("bundle", type=click.Path())
@click.argument("images", nargs=-1, required=True, type=PATH, metavar="IMAGE…")
@click.option("--state", type=click.Path(), metavar="STATE", help="What `gems-edge adapt` learned.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "int8"]),
    help="int8: the quantised graph of a bundle that has one.  [default: as the bundle was exported to]",
)
@click.option("--accept-all", is_flag=True, help="Answer with a class even where an image is like none of them.")
@click.option(
    "--coverage",
    type=float,
    metavar="SHARE",
    help="Answer with sets of classes, the smallest that hold the right one at this rate, such as 0.9.",
)
@threads_option
@trust_options
@json_option
def command(
    bundle: str,
    images: tuple[Path, ...],
    state: str | None,
    precision: str | None,
    accept_all: bool,
    coverage: float | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Classify images, or all images of a directory, with BUNDLE.

    Images that cannot be read are named, and the others are answered; the exit code is 2 then.

    What is like nothing that was taught is "unknown", with the best guess beside it; so is what is most like a class
    named "none".

    \b
    Example:
      gems-edge predict plates.gems --state mine.state image.jpg
      gems-edge predict plates.gems --state mine.state photos/ --json
      gems-edge predict plates.gems --state mine.state --coverage 0.9 image.jpg
    """
    from gems_edge.device import Learner
    from gems_edge.device.answers import check_coverage
    from gems_edge.errors import UserError
    from gems_edge.predict.room import check_room

    check_coverage(coverage)
    files = _expand(images)
    count = min(_CHUNK, len(files))
    has_room = partial(check_room, images=count, what="predict")
    learner = Learner.load(bundle, threads, precision, may_read=has_room, check_all=False)  # the first answer waits
    if state is None:
        say(f"{bundle} has been taught nothing yet, so its answers mean nothing; use gems-edge adapt and give --state")
    else:
        learner.load_state(state)
        if learner.bundle.familiar is None and coverage is not None:
            say(
                f"{bundle} was exported without foreign objects, so it knows nothing as unknown, and sets follow its "
                "probabilities; export it again to have both measured"
            )
    answers, refused = _answers(learner, files, accept_all, coverage)
    if refused and not answers:
        raise refused[0]
    _show(answers, coverage, as_json)
    if refused:
        raise UserError(f"{count_text(len(refused), 'image')} of {len(files)} could not be read (named above)")


def _answers(
    learner: "Learner", files: Sequence[Path], accept_all: bool, coverage: float | None
) -> tuple[list[Document], list["UserError"]]:
    """The document of `predict --json`: one entry for each image that can be read; and what is wrong with others."""
    import time

    refused: list[UserError] = []
    names = [str(name) for name in learner.classes]
    answers: list[Document] = []
    said = time.monotonic()
    for start in range(0, len(files), _CHUNK):
        chunk, pixels = _read(learner, files[start : start + _CHUNK], refused)
        found = learner.answers(pixels, coverage=coverage, accept_all=accept_all) if chunk else []
        for file, answer in zip(chunk, found):
            shares = dict(zip(names, map(float, answer.shares)))
            guess, sets = str(answer.guess), answer.candidates
            answers.append({
                "image": str(file),
                "label": UNKNOWN if answer.name is None else guess,
                "known": answer.known,
                "guess": guess,
                "score": answer.score,
                "probability": shares[guess],
                "probabilities": shares,
                **({} if sets is None else {"set": [str(name) for name in sets]}),
            })  # fmt: skip
        if time.monotonic() - said > _PROGRESS_SECONDS:
            said = time.monotonic()
            say(f"{len(answers)} of {len(files)} images")
    return answers, refused


def _show(answers: list[Document], coverage: float | None, as_json: bool) -> None:
    if as_json:
        emit(answers)
        return
    titles = ("image", "class", "probability", "next" if coverage is None else "set")
    click.echo(table(map(_line, answers), titles))


def _read(learner: "Learner", files: Sequence[Path], refused: list["UserError"]) -> tuple[list[Path], "np.ndarray"]:
    """The files that can be read, and their pixels [N, S, S, C]; of the others `refused` gets what is wrong, which is
    said as it is found, where there is more than one file."""
    import numpy as np

    from gems_edge.errors import UserError

    good, pixels = [], [learner.read_images([])]
    for file in files:
        try:
            pixels.append(learner.read_images([file]))
            good.append(file)
        except UserError as error:
            refused.append(error)
            if len(files) > 1:
                say(str(error))
    return good, np.concatenate(pixels)


def _expand(images: Iterable[Path]) -> list[Path]:
    """Files as they are given; a directory stands for the images in it."""
    from gems_edge.errors import UserError
    from gems_edge.images import list_images

    files: list[Path] = []
    for path in images:
        if not path.is_dir():
            files.append(path)
            continue
        inside = list_images(path)
        if not inside:
            raise UserError(f"{path} holds no image; name image files, or a directory with images in it")
        files += inside
    return files


def _line(answer: Document) -> tuple[str, str, str, str]:
    guess = answer["guess"]
    label = guess if answer["known"] else f"{UNKNOWN} ({guess}?)"
    if "set" in answer:
        return answer["image"], label, f"{answer['probability']:.3f}", ", ".join(answer["set"]) or "none of them"
    others = sorted((item for item in answer["probabilities"].items() if item[0] != guess), key=lambda item: -item[1])
    following = f"{others[0][0]} {others[0][1]:.3f}" if others else ""
    return answer["image"], label, f"{answer['probability']:.3f}", following
