"""Draws docs/rooms.svg, the rooms of the house and the imports between them, from the code: `python tools/draw_rooms.py`.

Rows are the layers that pyproject.toml holds the imports to ([tool.importlinter]), texts the first sentence of a room's
docstring. An arrow that follows from others (a → c where a → b → c) is left out.
"""

import ast
import sys
import tomllib
from html import escape
from itertools import product
from pathlib import Path
from textwrap import wrap

import grimp

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "rooms.svg"
PACKAGE = "gems_edge"
BOX_WIDTH, BOX_HEIGHT, GAP, ROW_GAP = 200, 70, 16, 40

Rows = list[list[str]]
Arrows = set[tuple[str, str]]


def rows() -> Rows:
    """The rooms, layer by layer from the top; files that are no folder (errors.py, …) are not drawn."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    rooms = [[name.strip() for name in layer.split("|")] for layer in layers]
    return [row for names in rooms if (row := [name for name in names if (ROOT / PACKAGE / name).is_dir()])]


def arrows(rooms: set[str]) -> Arrows:
    """(importing room, imported room), without those that follow from others."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    direct = set()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            ends = tuple(name.split(".")[1] for name in (module, imported) if "." in name)
            if len(ends) == 2 and ends[0] != ends[1] and rooms.issuperset(ends):
                direct.add(ends)
    reached = set(direct)
    for middle, start, end in product(sorted(rooms), repeat=3):  # Floyd and Warshall: the middle runs outermost
        if (start, middle) in reached and (middle, end) in reached:
            reached.add((start, end))
    return {
        (start, end)
        for start, end in direct
        if not any((start, room) in reached and (room, end) in reached for room in rooms)
    }


def describe(room: str) -> str:
    text = ast.get_docstring(ast.parse((ROOT / PACKAGE / room / "__init__.py").read_text())) or ""
    return text.partition("\n")[0]


def draw() -> str:
    """The picture as SVG text; the same code gives the same text."""
    layers = rows()
    width = max(len(row) for row in layers) * (BOX_WIDTH + GAP) + GAP
    height = len(layers) * (BOX_HEIGHT + ROW_GAP)
    corner = {}
    for depth, row in enumerate(layers):
        left = (width - len(row) * (BOX_WIDTH + GAP) + GAP) / 2
        for place, room in enumerate(row):
            corner[room] = (left + place * (BOX_WIDTH + GAP), 10 + depth * (BOX_HEIGHT + ROW_GAP))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#567"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        *(_arrow(corner[start], corner[end]) for start, end in sorted(arrows(set(corner)))),
        *(_box(room, *corner[room]) for room in sorted(corner)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = start, end
    x1, y1, x2 = x1 + BOX_WIDTH / 2, y1 + BOX_HEIGHT, x2 + BOX_WIDTH / 2
    bend = (y2 - y1) / 2
    return (
        f'<path d="M{x1:g} {y1:g}C{x1:g} {y1 + bend:g} {x2:g} {y2 - bend:g} {x2:g} {y2:g}" fill="none" '
        'stroke="#567" stroke-width="1.3" marker-end="url(#tip)"/>'
    )


def _box(room: str, x: float, y: float) -> str:
    lines = wrap(describe(room), 37)
    text = "".join(
        f'<text x="{x + 8:g}" y="{y + 33 + 13 * number:g}" font-size="10.5" fill="#345">{escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" fill="#eef4fa" stroke="#89a"/>'
        f'<text x="{x + 8:g}" y="{y + 18:g}" font-size="14" font-weight="bold" fill="#123">{room}/</text>{text}'
    )


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PICTURE.write_text(draw())
    print(PICTURE)
