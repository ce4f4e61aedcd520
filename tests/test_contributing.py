"""The worked examples of CONTRIBUTING.md: applied to a copy of the code as they stand, then used."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_settings import SMALL

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def section(title: str) -> str:
    return re.split(r"^## ", PAGE, flags=re.MULTILINE)[[*re.findall(r"^## (.*)", PAGE, re.MULTILINE)].index(title) + 1]


def write_files(text: str, root: Path) -> None:
    """Blocks whose first line names a file after the language are that file."""
    for name, content in re.findall(r"^```\w+ (\S+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        (root / name).write_text(content)


def apply_changes(text: str, root: Path) -> None:
    """Blocks of language diff: lines with + go behind the lines before them, which must stand in the file once."""
    for block in re.findall(r"^```diff\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        name = re.search(r"^\+\+\+ b/(\S+)", block, re.MULTILINE)[1]
        lines = block.partition("@@\n")[2].splitlines()
        before = "\n".join(line[1:] for line in lines[: next(n for n, line in enumerate(lines) if line[:1] == "+")])
        old = "\n".join(line[1:] for line in lines if line[:1] != "+")
        new = "\n".join(line[1:] for line in lines)
        assert before and old.startswith(before)
        source = (root / name).read_text()
        assert source.count(old) == 1, f"{name} has no longer, or more than once:\n{old}"
        (root / name).write_text(source.replace(old, new))


@pytest.fixture
def changed(tmp_path, environment):
    """A copy of the code: `apply(title)` makes the changes of that section there, `run(module, …)` uses them."""
    for name in ("gems_edge", "export", "device_profiles", "tests", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    def apply(title: str) -> None:
        write_files(section(title), tmp_path)
        apply_changes(section(title), tmp_path)

    def run(*command: str) -> str:
        variables = environment | {"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]}
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    return apply, run


QUICK = [*map(str, SMALL), "--iterations", "3", "--validation-episodes", "2"]
NETWORK = ["--image-size", "24", "--steps", "2", "--queries", "4", "--iterations", "3", "--validation-episodes", "2"]
ARCTANGENT = """import torch
from torch import nn

class Network(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, 8, 3, 2, bias=False), nn.BatchNorm2d(8)

    def forward(self, images):
        return torch.atan(self.norm(self.conv(images))).flatten(1)

def make(channels):
    return Network(channels)
"""
PYTEST = ("pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist")


@pytest.mark.slow(30)
def test_an_update_rule(changed):
    apply, run = changed
    apply("An update rule")
    run("gems_edge", "train", *QUICK, "--method", "bounded", "-o", "run")
    run("gems_edge", "export", "run", "--ratio", "0", "--episodes", "3", "-o", "new.gems")
    run(*PYTEST, "tests/meta/test_rules.py", "-k", "bounded")


@pytest.mark.slow(60)
def test_a_network(changed):
    apply, run = changed
    apply("A network")
    run("gems_edge", "train", *NETWORK, "--backbone", "tiny", "-o", "run")
    run(
        "gems_edge", "export", "run", "--ratio", "0.5", "--recover-iterations", "2", "--episodes", "3", "-o", "new.gems"
    )
    assert "MB" in run("gems_edge", "bench", "new.gems", "--device", "rpi-4b")
    run(*PYTEST, "tests/networks", "-k", "tiny and not slow")


@pytest.mark.slow(30)
def test_an_op(changed, tmp_path):
    apply, run = changed
    apply("An op")
    (tmp_path / "net.py").write_text(ARCTANGENT)
    run("gems_edge", "train", *NETWORK, "--backbone", "net.py:make", "-o", "run")
    run("gems_edge", "export", "run", "--ratio", "0", "--episodes", "3", "-o", "new.gems")


@pytest.mark.slow(30)
def test_a_criterion(changed):
    apply, run = changed
    apply("A criterion")
    run("gems_edge", "train", *QUICK, "--ticket", "large_init", "--ratio", "0.5", "-o", "run")
    assert "large_init" in run("gems_edge", "ticket", "show", "run")
    run(*PYTEST, "tests/tickets/test_tickets.py", "-k", "every_method_has_a_finder or large_init")


@pytest.mark.slow(30)
def test_a_board(changed):
    apply, run = changed
    apply("A board")
    run("gems_edge", "devices", "check", "device_profiles/my-board.toml")
    assert "my-board" in run("gems_edge", "devices", "list")
    run(*PYTEST, "tests/predict/test_profiles.py")
