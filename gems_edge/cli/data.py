"""gems-edge data: which images there are, packing a folder into one file, a look at a set."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gems_edge.cli.common import FILE, PATH, Document, emit, json_option, say, show_lines, table
from gems_edge.errors import UserError
from gems_edge.places import check_file_place

if TYPE_CHECKING:
    from gems_edge.data.imageset import ImageSet

root_option = click.option(
    "--root", type=PATH, help="Where torchvision's sets are or are downloaded to.  [default: the cache]"
)
size_option = click.option(
    "--image-size",
    type=int,
    help="Side of the square images in pixels.  [default: the source's own, 84 for colour photos]",
)
skip_option = click.option(
    "--skip-bad", is_flag=True, help="Leave out images that cannot be read, each named, instead of refusing."
)
channels_option = click.option(
    "--channels", type=click.Choice(["1", "3"]), help="1: greyscale, 3: colour.  [default: the source's own]"
)


@click.group()
def command() -> None:
    """List, pack and show image data.

    \b
    Example:
      gems-edge data list
      gems-edge data show glyphs -o glyphs.png
      gems-edge data pack photos -o photos.npz
    """


@command.command("list")
@root_option
@json_option
def list_command(root: Path | None, as_json: bool) -> None:
    """What --data can name, and whether it is on this machine.

    \b
    Example:
      gems-edge data list
    """
    from gems_edge.data.sources import list_sources

    sources = list_sources(root)
    if as_json:
        emit([{"name": source.name, "ready": source.ready, "where": source.where} for source in sources])
        return
    ready = {True: "yes", False: "no: downloaded at the first use", None: "-"}
    rows = [[source.name, ready[source.ready], source.where] for source in sources]
    click.echo(table(rows, ["data", "ready", "where"]))


@command.command()
@click.argument("spec")
@click.option("-o", "--output", type=FILE, help="Write a contact sheet (PNG).")
@size_option
@channels_option
@skip_option
@root_option
@json_option
def show(
    spec: str,
    output: Path | None,
    image_size: int | None,
    channels: str | None,
    skip_bad: bool,
    root: Path | None,
    as_json: bool,
) -> None:
    """Classes, images and splits of SPEC, and a picture of it.

    \b
    Example:
      gems-edge data show folder:photos -o photos.png
    """
    from gems_edge.data.imageset import contact_sheet
    from gems_edge.data.sources import load_images
    from gems_edge.files import write_atomic

    if output is not None:
        check_file_place(output)
    depth = int(channels) if channels else None
    image_set = load_images(spec, image_size=image_size, channels=depth, root=root, skip_bad=skip_bad)
    facts = _facts(image_set)
    if output is not None:
        buffer = io.BytesIO()
        contact_sheet(image_set).save(buffer, "PNG")
        write_atomic(output, buffer.getvalue())
        facts["contact_sheet"] = str(output)
    if as_json:
        emit(facts)
        return
    _print(facts)


@command.command()
@click.argument("folder", type=PATH)
@click.option("-o", "--output", required=True, type=FILE, help="The packed file (.npz) to write.")
@size_option
@channels_option
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of the split by class, where FOLDER gives none.",
)
@skip_option
@json_option
def pack(
    folder: Path,
    output: Path,
    image_size: int | None,
    channels: str | None,
    seed: int,
    skip_bad: bool,
    as_json: bool,
) -> None:
    """Put the images of FOLDER (CLASS/image or train|val|test/CLASS/image) into one file for packed:FILE.npz.

    Images that cannot be read are all named, and nothing is written; with --skip-bad the others are packed.

    \b
    Example:
      gems-edge data pack photos -o photos.npz --image-size 84
    """
    from gems_edge.data.folder import read_folder
    from gems_edge.data.packed import write_packed
    from gems_edge.data.sources import check_format

    if output.suffix != ".npz":
        raise UserError(f"{output} must end in .npz")
    check_file_place(output)
    depth = int(channels) if channels else None
    check_format(image_size, depth)
    image_set = read_folder(folder, image_size, depth, seed, skip_bad=skip_bad)
    source = image_set.source.replace(f"folder {folder}", f"packed from {folder.resolve().name}", 1)
    write_packed(image_set, output, source=source)
    facts = {**_facts(image_set), "packed": str(output), "bytes": output.stat().st_size}
    if as_json:
        emit(facts)
        return
    _print(facts)
    say(f"use it with --data packed:{output}")


def _facts(image_set: "ImageSet") -> Document:
    sizes = image_set.class_sizes()
    splits = {split: image_set.of_split(split) for split in ("train", "val", "test")}
    return {
        "data": image_set.name,
        "classes": len(image_set.classes),
        "images": len(image_set.images),
        "image_size": int(image_set.images.shape[1]),
        "channels": int(image_set.images.shape[3]),
        "inverted": image_set.inverted,
        "images_per_class": {"min": int(sizes.min()), "max": int(sizes.max())},
        "splits": {
            split: {"classes": len(classes), "images": int(sizes[classes].sum())} for split, classes in splits.items()
        },
        "grouped": image_set.group is not None,
        "source": image_set.source,
    }


def _print(facts: Document) -> None:
    per_class = facts["images_per_class"]
    pixels = f"{facts['image_size']}×{facts['image_size']}, {'greyscale' if facts['channels'] == 1 else 'colour'}"
    ink = ", dark background (read inverted)" if facts["inverted"] else ""
    show_lines(
        f"{facts['data']}: {facts['classes']} classes, {facts['images']} images "
        f"({per_class['min']} to {per_class['max']} a class)"
    )
    show_lines(pixels + ink)
    if facts["grouped"]:
        show_lines("images come in groups of near-duplicates; support and query never share one")
    rows = [[name, split["classes"], split["images"]] for name, split in facts["splits"].items()]
    click.echo(table(rows, ["split", "classes", "images"]))
    show_lines(f"source: {facts['source']}")
    for key in ("contact_sheet", "packed"):
        if key in facts:
            show_lines(f"written: {facts[key]}")
