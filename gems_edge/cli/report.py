"""gems-edge report: one HTML page about runs and bundles."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gems_edge.cli.common import FILE, PATH, emit, json_option, say_unchecked, trust_flags
from gems_edge.errors import UserError
from gems_edge.places import check_file_place

if TYPE_CHECKING:
    from gems_edge.report.page import Section


@click.command()
@click.argument("subjects", nargs=-1, required=True, type=PATH, metavar="RUN|BUNDLE…")
@click.option("-o", "--output", default="report.html", show_default=True, type=FILE, help="The page to write.")
@click.option("--title", help="Heading of the page; the names of what it is about if left out.")
@trust_flags
@json_option
def command(subjects: tuple[Path, ...], output: Path, title: str | None, as_json: bool) -> None:
    """Write one self-contained HTML page about runs (training curves) and bundles (accuracy, size, cost).

    \b
    Example:
      gems-edge report runs/glyphs glyphs.gems -o report.html
    """
    check_file_place(output)
    sections = [section for subject in subjects for section in _sections(subject)]
    names = ", ".join(subject.absolute().name.removesuffix(".gems") for subject in subjects)
    size = write_page(output, title or f"gems-edge: {names}", sections)
    if any(map(_is_bundle, subjects)):
        say_unchecked()
    if as_json:
        emit({"report": str(output), "bytes": size, "sections": [section.title for section in sections]})
    else:
        click.echo(output)


def write_page(path: Path, title: str, sections: Sequence["Section"]) -> int:
    """One page, written atomically; its size in bytes. Raises as check_file_place."""
    from gems_edge.files import write_atomic
    from gems_edge.report.page import render_page

    check_file_place(path)
    page = render_page(title, sections)
    write_atomic(path, page)
    return len(page.encode())


def _sections(subject: Path) -> list["Section"]:
    from gems_edge.report.bundles import bundle_sections
    from gems_edge.report.sections import run_sections

    if not subject.is_dir():
        raise UserError(f"{subject} does not exist or is not a directory; name run directories and bundles (NAME.gems)")
    return bundle_sections(subject) if _is_bundle(subject) else run_sections(subject)


def _is_bundle(subject: Path) -> bool:
    return (subject / "manifest.json").exists() or subject.suffix == ".gems"
