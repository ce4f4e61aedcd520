"""What the commands share: --json, lines for people, tables."""

import json
from typing import Any

import click

json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document on stdout and nothing else there."
)


def emit(document: Any) -> None:
    """The one JSON document of a --json call."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def say(message: str) -> None:
    """A line for the person at the terminal: stderr, so that stdout stays the result."""
    click.echo(message, err=True)


def table(rows: list[list[str]], header: list[str]) -> str:
    """Left-aligned plain-text columns."""
    cells = [header] + [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
