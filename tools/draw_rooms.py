"""Draws docs/rooms.svg, the rooms of the house and the imports between them, from the code.

Needs graphviz (`dot`). Ranks are the layers that pyproject.toml holds the imports to ([tool.importlinter]), texts the
first line of a room's docstring. An arrow that follows from others (a → c where a → b → c) is left out. The picture
holds the SHA-256 of what it was drawn from, so that a test can tell whether it is still true.
"""

import ast
import hashlib
import subprocess
import tomllib
from itertools import product
from pathlib import Path
from textwrap import wrap

import grimp

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "rooms.svg"
PACKAGE = "gems_edge"

Arrows = set[tuple[str, str]]


def layers() -> list[list[str]]:
    """The rooms, layer by layer from the top; files that are no folder (errors.py, …) are not drawn."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    names = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    rooms = [[name.strip() for name in layer.split("|")] for layer in names]
    return [row for layer in rooms if (row := [name for name in layer if (ROOT / PACKAGE / name).is_dir()])]


def direct_arrows(rooms: set[str]) -> Arrows:
    """(importing room, imported room) of every import, also those inside functions."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    pairs = {
        (importing.split(".")[1], imported.split(".")[1])
        for importing in graph.modules
        for imported in graph.find_modules_directly_imported_by(importing)
        if "." in importing and "." in imported
    }
    return {(start, end) for start, end in pairs if start != end and {start, end} <= rooms}


def without_shortcuts(arrows: Arrows, rooms: set[str]) -> Arrows:
    """The arrows that do not follow from others."""
    reached = set(arrows)
    for middle, start, end in product(sorted(rooms), repeat=3):  # Floyd and Warshall: the middle runs outermost
        if (start, middle) in reached and (middle, end) in reached:
            reached.add((start, end))
    return {
        (start, end)
        for start, end in arrows
        if not any((start, room) in reached and (room, end) in reached for room in rooms)
    }


def box(room: str) -> str:
    docstring = ast.get_docstring(ast.parse((ROOT / PACKAGE / room / "__init__.py").read_text())) or ""
    text = "<br/>".join(wrap(docstring.partition("\n")[0], 32))
    return f'{room} [label=<<b>{room}/</b><br/><font point-size="10">{text}</font>>]'


def source() -> str:
    """The picture in graphviz's language; the same imports give the same text."""
    ranks = layers()
    rooms = {room for row in ranks for room in row}
    lines = [
        "digraph rooms {",
        'node [shape=box, style="rounded,filled", fillcolor="#eef4fa", color="#8899aa", fontname="Helvetica"]',
        'edge [color="#556677", arrowsize=0.7]',
        "ranksep=0.35; nodesep=0.25",
        *(box(room) for room in sorted(rooms)),
        *(f"{{rank=same; {'; '.join(row)}}}" for row in ranks),
        *(f"{start} -> {end}" for start, end in sorted(without_shortcuts(direct_arrows(rooms), rooms))),
        *(f"{above[0]} -> {below[0]} [style=invis]" for above, below in zip(ranks, ranks[1:], strict=False)),
        "}",
    ]
    return "\n".join(lines)


def mark(text: str) -> str:
    return f"<!-- drawn from {hashlib.sha256(text.encode()).hexdigest()} -->"


if __name__ == "__main__":
    picture = subprocess.run(["dot", "-Tsvg"], input=source(), capture_output=True, text=True, check=True).stdout
    PICTURE.write_text(f"{picture}{mark(source())}\n")
    print(PICTURE)
