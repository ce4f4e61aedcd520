"""gems-edge predict: classify images with a bundle and what it learned."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gems_edge.cli.common import PATH, Document, emit, json_option, say, table, trust_options

if TYPE_CHECKING:
    from gems_edge.device import Learner

_PROGRESS_SECONDS = 5.0
# Images decoded and held at a time.
_CHUNK = 64


@click.command()
@click.argument("bundle", type=click.Path())
@click.argument("images", nargs=-1, required=True, type=PATH, metavar="IMAGE…")
@click.option("--state", type=click.Path(), metavar="STATE", help="What `gems-edge adapt` learned.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "int8"]),
    help="int8: the quantised graph of a bundle that has one.  [default: as the bundle was exported to]",
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads; one per core if left out.")
@trust_options
@json_option
def command(
    bundle: str, images: tuple[Path, ...], state: str | None, precision: str | None, threads: int | None, as_json: bool
) -> None:
    """Classify images, or all images of a directory, with BUNDLE.

    \b
    Example:
      gems-edge predict plates.gems --state mine.state image.jpg
      gems-edge predict plates.gems --state mine.state photos/ --json
    """
    from gems_edge.device import Learner
    from gems_edge.predict.room import check_room

    files = _expand(images)
    learner = Learner.load(bundle, threads, precision)
    check_room(learner.bundle.manifest["cost"], min(_CHUNK, len(files)), "predict")
    if state is None:
        say(f"{bundle} has been taught nothing yet, so its answers mean nothing; use gems-edge adapt and give --state")
    else:
        learner.load_state(state)
    answers = _answers(learner, files)
    if as_json:
        emit(answers)
    else:
        click.echo(table(map(_line, answers), ("image", "class", "probability", "next")))


def _answers(learner: "Learner", files: Sequence[Path]) -> list[Document]:
    """The document of `predict --json`: one entry for each image."""
    import time

    names = [str(name) for name in learner.classes]
    answers: list[Document] = []
    said = time.monotonic()
    for start in range(0, len(files), _CHUNK):
        chunk = files[start : start + _CHUNK]
        for file, row in zip(chunk, learner.predict(learner.read_images(chunk))):
            answers.append({
                "image": str(file),
                "label": names[int(row.argmax())],
                "probability": float(row.max()),
                "probabilities": dict(zip(names, map(float, row))),
            })  # fmt: skip
        if time.monotonic() - said > _PROGRESS_SECONDS:
            said = time.monotonic()
            say(f"{len(answers)} of {len(files)} images")
    return answers


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
    ranked = sorted(answer["probabilities"].items(), key=lambda item: -item[1])
    following = f"{ranked[1][0]} {ranked[1][1]:.3f}" if len(ranked) > 1 else ""
    return answer["image"], answer["label"], f"{answer['probability']:.3f}", following
