"""The installed package: sdist and wheel hold all that the tree does; an editable install is the tree; a board needs no
torch."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PIP_OPTIONS = ("--quiet", "--disable-pip-version-check")

pytestmark = pytest.mark.slow(15)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of what is packed: setuptools leaves files beside it, and would take what older builds left."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("gems_edge", "export", "device_profiles"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def packed(source, tmp_path_factory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it."""
    place = tmp_path_factory.mktemp("packed")
    command = [sys.executable, "-m", "build", "--outdir", str(place), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return next(place.glob("*.tar.gz")), next(place.glob("*.whl"))


def environment(place: Path, *what: str) -> Path:
    """bin/ of a fresh virtual environment with that installed."""
    subprocess.run([sys.executable, "-m", "venv", str(place / "venv")], check=True, timeout=120)
    programs = place / "venv" / "bin"
    subprocess.run([programs / "pip", "install", *PIP_OPTIONS, *what], check=True, timeout=600)
    return programs


@pytest.fixture(scope="module")
def board(packed, tmp_path_factory) -> Path:
    """bin/ of an environment with the wheel and its plain dependencies."""
    return environment(tmp_path_factory.mktemp("board"), str(packed[1]))


def test_wheel_and_sdist_hold_every_file(packed):
    sdist, wheel = packed
    kinds = (".py", ".toml", ".json", ".html", ".css", ".js", ".typed")
    walked = os.walk(ROOT / "gems_edge", followlinks=True)  # export/ and device_profiles/ are links
    tree = {
        str(Path(directory, name).relative_to(ROOT))
        for directory, _, names in walked
        for name in names
        if name.endswith(kinds)
    }
    with zipfile.ZipFile(wheel) as archive:
        assert tree <= set(archive.namelist())
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert tree <= held | {f"gems_edge/{name}" for name in held}
    assert {"gems_edge/export/pipeline.py", "gems_edge/device_profiles/rpi-4b.toml", "gems_edge/py.typed"} <= tree


def test_an_editable_install_is_the_tree(source, tmp_path):
    programs = environment(tmp_path, "--no-deps", "--editable", str(source))
    code = "import gems_edge.export as e, gems_edge.device_profiles as d; print(*e.__path__, *d.__path__)"
    done = subprocess.run([programs / "python", "-I", "-c", code], capture_output=True, text=True, check=True)
    export, profiles = (Path(place).resolve() for place in done.stdout.split())
    assert (export, profiles) == (source / "export", source / "device_profiles")


def test_a_board_needs_no_torch(board):
    heavy = "'torch', 'onnx', 'matplotlib', 'rich', 'scipy'"
    check = f"import importlib.util as u; print([n for n in ({heavy}) if u.find_spec(n)])"
    there = subprocess.run([board / "python", "-I", "-c", check], capture_output=True, text=True, check=True).stdout
    assert there.strip() == "[]"


def test_the_boards_commands_work(board, small_bundle, tmp_path):
    installed = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments, code=0):
        command = [board / "gems-edge", *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=installed, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stderr
        return done

    for number, tint in enumerate((30, 120, 220)):
        folder = tmp_path / "photos" / f"kind {number}"
        folder.mkdir(parents=True)
        shades = [(value + tint) % 256 for value in range(256)]
        Image.radial_gradient("L").point(shades).save(folder / "a.png")
    run("adapt", small_bundle, "--support", "photos", "-o", "s.state")
    answers = json.loads(run("predict", small_bundle, "--state", "s.state", "photos/kind 1/a.png", "--json").stdout)
    assert set(answers[0]["probabilities"]) == {"kind 0", "kind 1", "kind 2"}
    assert "rpi-4b" in run("devices", "list").stdout and "rpi-zero-2w" in run("devices", "list").stdout
    assert "rpi-4b" in run("bench", small_bundle, "--device", "rpi-4b").stdout
    assert "gems-edge[train]" in run("train", "-o", "run", code=2).stderr
    assert "gems-edge[train]" in run("export", "run", code=2).stderr
    assert "gems-edge[serve]" in run("serve", small_bundle, "--state", "s.state", code=2).stderr
