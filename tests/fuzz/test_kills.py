"""A few kills and power cuts of the writers whose files an owner keeps; tools/kill_writers.py has more of all."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow(40)

TOOL = Path(__file__).resolve().parents[2] / "tools" / "kill_writers.py"
# How many kills and power cuts.
TIMES = {"adapt": (12, 40), "pack": (6, 20), "add": (4, 8), "install": (3, 6), "rollback": (3, 8)}


@pytest.mark.parametrize("name", TIMES)
def test_old_or_new_is_there(name, environment, tmp_path):
    """In a process of its own: what was forked after a graph was loaded must not load another."""
    kills, states = map(str, TIMES[name])
    options = ("--writer", name, "--kills", kills, "--states", states, "--seed", "17", "-o", tmp_path / "kills")
    result = subprocess.run([sys.executable, TOOL, *options], env=environment, capture_output=True, text=True)
    assert result.returncode == 0 and ": 0 faults" in result.stdout, result.stdout + result.stderr
