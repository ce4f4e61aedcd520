"""gems-edge report: one HTML page about runs and bundles."""

import click

from gems_edge.cli.common import emit, json_option


@click.command()
@click.argument("places", nargs=-1, required=True, type=click.Path(), metavar="RUN|BUNDLE…")
@click.option(
    "-o",
    "--output",
    default="report.html",
    show_default=True,
    type=click.Path(dir_okay=False),
    help="The page to write.",
)
@click.option("--title", help="Heading of the page; the names of what it is about if left out.")
@json_option
def command(places, output, title, as_json):
    """Write one self-contained HTML page about runs (training curves) and bundles (accuracy, size, cost).

    \b
    Example:
      gems-edge report runs/glyphs glyphs.gems -o report.html
    """
    from pathlib import Path

    from gems_edge.errors import UserError
    from gems_edge.report.sections import bundle_sections, run_sections

    sections = []
    for place in map(Path, places):
        if not place.is_dir():
            raise UserError(
                f"{place} does not exist or is not a directory; name run directories and bundles (NAME.gems)"
            )
        is_bundle = (place / "manifest.json").exists() or place.suffix == ".gems"
        sections += bundle_sections(place) if is_bundle else run_sections(place)
    names = ", ".join(Path(place).absolute().name.removesuffix(".gems") for place in places)
    size = write_page(Path(output), title or f"gems-edge: {names}", sections)
    if as_json:
        emit({"report": str(output), "bytes": size, "sections": [section.title for section in sections]})
    else:
        click.echo(output)


def write_page(path, title, sections):
    """One page, written atomically; its bytes. UserError if its directory is not there."""
    from gems_edge.errors import UserError
    from gems_edge.files import write_atomic
    from gems_edge.report.page import render_page

    if not path.absolute().parent.is_dir():
        raise UserError(f"{path.parent} does not exist; create it or write the page elsewhere with -o")
    page = render_page(title, sections)
    write_atomic(path, page)
    return len(page.encode())
