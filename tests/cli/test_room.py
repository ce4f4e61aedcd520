"""Memory that is not there is told before anything is learned, by the real commands."""

import os
import re
import subprocess
import sys

import pytest
from board import assert_refused, gems_edge, handmade  # noqa: F401
from real_groups import own_group

from gems_edge import process_memory
from gems_edge.predict import room


@pytest.fixture
def here(tmp_path):
    """large.gems, whose steps take 200 MB as its manifest says, and photos."""
    handmade.write_bundle(tmp_path / "large.gems")

    def enlarge(manifest):
        manifest["cost"]["memory"]["adapt"]["arena_bytes"] = [200_000_000]
        manifest["cost"]["memory"]["predict"]["arena_bytes"] = [200_000_000, 200_000_000]

    handmade.edit_manifest(tmp_path / "large.gems", enlarge)
    handmade.write_pictures(tmp_path / "photos", *handmade.pictures(3, 1))
    return tmp_path


ADAPT = ("adapt", "large.gems", "--support", "photos", "-o", "s.state")


@pytest.mark.parametrize("arguments", [ADAPT, ("predict", "large.gems", "photos/kind 0"), ("bench", "large.gems")])
def test_no_room(gems_edge, here, monkeypatch, arguments):  # noqa: F811
    monkeypatch.setattr(process_memory, "memory_left", lambda: 50_000_000)
    monkeypatch.setattr(room, "swap_mb", lambda: 0.0)
    monkeypatch.setattr(room, "rss_mb", lambda: None)  # pytest's own memory is no board's
    result = gems_edge(*arguments)
    assert_refused(result, "its control group leaves 50 MB; ")
    assert re.search(r"is predicted to take \d{3} MB", result.err) and not (here / "s.state").exists()
    assert "fewer images" not in result.err  # with two, or one, there are none


def test_photos_that_come_count_beside_those_that_are_kept(gems_edge, here, monkeypatch):  # noqa: F811
    def grow(manifest):
        manifest["cost"]["memory"]["adapt"] |= {"images": [3, 6], "arena_bytes": [1_000_000, 400_000_000]}

    handmade.edit_manifest(here / "large.gems", grow)
    handmade.write_pictures(here / "more", *handmade.pictures(3, 1, seed=5))
    monkeypatch.setattr(process_memory, "memory_left", lambda: 250_000_000)
    monkeypatch.setattr(room, "swap_mb", lambda: 0.0)
    monkeypatch.setattr(room, "rss_mb", lambda: None)
    assert gems_edge(*ADAPT).code == 0
    assert_refused(gems_edge("teach", "large.gems", "s.state", "--add", "more"), "adapt with 6 images is predicted")
    assert gems_edge("teach", "large.gems", "s.state", "--move", "3=kind 1").code == 0


def test_little_room_is_a_warning(gems_edge, here, monkeypatch):  # noqa: F811
    for name, value in {"limit_mb": None, "machine_mb": 235.0, "rss_mb": None, "swap_mb": 0.0}.items():
        monkeypatch.setattr(room, name, lambda value=value: value)
    result = gems_edge(*ADAPT)
    assert result.code == 0 and (here / "s.state").exists()
    [line] = [line for line in result.err.splitlines() if line.startswith("warning: ")]
    assert "and this machine has 235 MB: it may be slow, or be killed; give fewer images" in line


KNOWN = [(100, None, 50, 2), (100, None, 900, 0), (9e3, 100, 900, 0), (None, 100, 0, 2), (None, None, 0, 0)]


@pytest.mark.parametrize("machine, limit, swap, code", KNOWN)
def test_swap_and_what_is_not_known(gems_edge, here, monkeypatch, machine, limit, swap, code):  # noqa: F811
    for name, value in {"limit_mb": limit, "machine_mb": machine, "rss_mb": None, "swap_mb": swap}.items():
        monkeypatch.setattr(room, name, lambda value=value: value)
    assert gems_edge(*ADAPT).code == code


def in_group(limit, directory, *arguments):
    """gems-edge in a control group below this one, of so many bytes."""
    script = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); os.execv(sys.argv[2], sys.argv[2:])"
    group = own_group("memory", "memory.max")
    try:
        for name in ("memory.max", "memory.limit_in_bytes"):
            if (group / name).exists():
                (group / name).write_text(str(limit))
        command = [sys.executable, "-c", script, str(group / "cgroup.procs"), sys.executable, "-m", "gems_edge"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run([*command, *arguments], cwd=directory, env=environment, capture_output=True, text=True)
    finally:
        group.rmdir()


OPENING = (
    ("predict", "large.gems", "photos/kind 0"),
    ADAPT,
    ("teach", "large.gems", "s.state", "--undo"),
    ("bench", "large.gems"),
    ("evaluate", "large.gems", "--data", "folder:photos"),
)


@pytest.mark.parametrize("arguments", OPENING, ids=lambda arguments: arguments[0])
def test_weights_that_have_no_room_are_not_read(here, arguments):
    """A process that read the 120 MB that the manifest lists would be killed in its group of 100."""
    handmade.replace_file(here / "large.gems", "weights.safetensors", bytes(120_000_000))
    done = in_group(100_000_000, here, *arguments)
    assert done.returncode == 2 and "its control group leaves " in done.stderr.splitlines()[-1], done


def test_a_real_control_group(here):
    """In a group of a limit that has no room; and of one that has."""
    small, large = (in_group(limit, here, *ADAPT) for limit in (120_000_000, 600_000_000))
    assert small.returncode == 2 and "its control group leaves 1" in small.stderr, small
    assert large.returncode == 0 and "warning" not in large.stderr, large
