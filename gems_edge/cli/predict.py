"""gems-edge predict: classify images with a bundle and what it learned."""

import click

from gems_edge.cli.common import emit, json_option, say, table

_PROGRESS_SECONDS = 5.0
# Images decoded and held at a time.
_CHUNK = 64


@click.command()
@click.argument("bundle", type=click.Path())
@click.argument("images", nargs=-1, required=True, type=click.Path(), metavar="IMAGE…")
@click.option("--state", type=click.Path(), metavar="STATE", help="What `gems-edge adapt` learned.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "int8"]),
    default="fp32",
    show_default=True,
    help="int8: the quantised graph of a bundle that was exported with --int8.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads; one per core if left out.")
@json_option
def command(bundle, images, state, precision, threads, as_json):
    """Classify images, or all images of a directory, with BUNDLE.

    \b
    Example:
      gems-edge predict plates.gems --state mine.state image.jpg
      gems-edge predict plates.gems --state mine.state photos/ --json
    """
    import time
    import warnings

    from gems_edge.device import Learner

    files = _expand(images)
    learner = Learner.load(bundle, threads, precision)
    if state is None:
        say(f"{bundle} has been taught nothing yet, so its answers mean nothing; use gems-edge adapt and give --state")
    else:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            learner.load_state(state)
        for warning in caught:
            say(f"warning: {warning.message}")
    rows = []
    said = time.monotonic()
    for start in range(0, len(files), _CHUNK):
        rows.extend(learner.predict(learner.read_images(files[start : start + _CHUNK])))
        if time.monotonic() - said > _PROGRESS_SECONDS:
            said = time.monotonic()
            say(f"{len(rows)} of {len(files)} images")
    names = [str(name) for name in learner.classes]
    results = [
        {
            "image": str(file),
            "label": names[int(row.argmax())],
            "probability": float(row.max()),
            "probabilities": dict(zip(names, map(float, row))),
        }
        for file, row in zip(files, rows)
    ]
    if as_json:
        emit(results)
    else:
        click.echo(table([_line(result) for result in results], ["image", "class", "probability", "next"]))


def _expand(images):
    """Files as they are given; a directory stands for the images in it."""
    from pathlib import Path

    from gems_edge.errors import UserError
    from gems_edge.images import list_images

    files = []
    for path in map(Path, images):
        if not path.is_dir():
            files.append(path)
            continue
        inside = list_images(path)
        if not inside:
            raise UserError(f"{path} holds no image; name image files, or a directory with images in it")
        files += inside
    return files


def _line(result):
    ranked = sorted(result["probabilities"].items(), key=lambda item: -item[1])
    following = f"{ranked[1][0]} {ranked[1][1]:.3f}" if len(ranked) > 1 else ""
    return [result["image"], result["label"], f"{result['probability']:.3f}", following]
