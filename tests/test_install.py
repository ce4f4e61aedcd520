"""`pip install .` on a board: the commands work, and torch is not even there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def board(tmp_path_factory) -> Path:
    """A fresh virtual environment with a wheel built from this tree and its plain dependencies."""
    place = tmp_path_factory.mktemp("board")
    quiet = ["--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *quiet, "--no-deps", "-w", str(place), str(ROOT)],
        check=True,
        timeout=300,
    )
    subprocess.run([sys.executable, "-m", "venv", str(place / "venv")], check=True, timeout=120)
    wheel = next(place.glob("*.whl"))
    subprocess.run([place / "venv" / "bin" / "pip", "install", *quiet, str(wheel)], check=True, timeout=600)
    return place / "venv" / "bin"


def test_a_board_needs_no_torch(board, small_bundle, tmp_path):
    def run(*arguments, code=0):
        result = subprocess.run(
            [board / "gems-edge", *map(str, arguments)], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert result.returncode == code, result.stderr
        return result

    check = "import importlib.util as u; print([n for n in ('torch', 'onnx', 'matplotlib', 'rich', 'scipy') if u.find_spec(n)])"
    assert (
        subprocess.run([board / "python", "-c", check], capture_output=True, text=True, check=True).stdout.strip()
        == "[]"
    )
    for number, tint in enumerate((30, 120, 220)):
        (tmp_path / "photos" / f"kind {number}").mkdir(parents=True)
        Image.radial_gradient("L").point(lambda value: (value + tint) % 256).save(
            tmp_path / "photos" / f"kind {number}" / "a.png"
        )
    run("adapt", small_bundle, "--support", "photos", "-o", "s.state")
    answers = json.loads(run("predict", small_bundle, "--state", "s.state", "photos/kind 1/a.png", "--json").stdout)
    assert set(answers[0]["probabilities"]) == {"kind 0", "kind 1", "kind 2"}
    assert "rpi-4b" in run("devices", "list").stdout
    assert "rpi-4b" in run("bench", small_bundle, "--device", "rpi-4b").stdout
    assert "gems-edge[train]" in run("train", "-o", "run", code=2).stderr
    assert "gems-edge[train]" in run("export", "run", code=2).stderr


def test_the_wheel_holds_every_room(board):
    code = "import gems_edge.export, gems_edge.device_profiles as d, pathlib; print(sorted(p.name for p in pathlib.Path(d.__file__).parent.glob('*.toml')))"
    out = subprocess.run([board / "python", "-c", code], capture_output=True, text=True, check=True, cwd="/").stdout
    assert "rpi-4b.toml" in out and "rpi-zero-2w.toml" in out
