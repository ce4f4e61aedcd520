"""The plan of the house: which room may import which, and how long a function may be."""

import ast
import subprocess
import sys
from pathlib import Path

import draw_rooms
import pytest

ROOT = Path(__file__).parents[1]
LONGEST_FUNCTION = 50


def product_files() -> list[Path]:
    return [file for room in ("gems_edge", "export") for file in sorted((ROOT / room).rglob("*.py"))]


def test_arrows_run_downward_and_in_no_circle():
    """The contracts are in pyproject.toml: [tool.importlinter]."""
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_function_fits_a_screen():
    too_long = [
        f"{file.relative_to(ROOT)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for file in product_files()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= LONGEST_FUNCTION
    ]
    assert not too_long


def test_rooms_at_the_top_are_linked_into_the_package():
    for name in ("export", "device_profiles"):
        assert (ROOT / "gems_edge" / name).resolve() == ROOT / name


def test_every_room_has_tests_and_quick_ones(request):
    """`make quick` must not lose a room to the marker."""
    if request.config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        pytest.skip("only a part of the tests is run")
    quick = {
        item.path.relative_to(ROOT / "tests").parts[0]
        for item in request.session.items
        if item.get_closest_marker("slow") is None
    }
    rooms = {directory.parent.name for directory in (ROOT / "gems_edge").glob("*/__init__.py")}
    assert rooms - {"device_profiles"} <= quick


def test_the_picture_is_of_these_imports():
    picture = draw_rooms.PICTURE.read_text()
    assert draw_rooms.mark(draw_rooms.source()) in picture, "draw it again: python tools/draw_rooms.py"
