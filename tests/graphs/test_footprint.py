"""What commands leave on disk, and what importing them loads."""

import json
import subprocess
import sys

import pytest
from small_settings import SMALL

HEAVY = ("torch", "torchvision", "onnx", "onnx_ir", "matplotlib", "rich", "scipy", "jinja2")


def files_below(directory):
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


@pytest.mark.slow(30)
def test_nothing_is_written_outside_run_bundle_state_and_cache(cli, tmp_path):
    home, work, temporary = tmp_path / "home", tmp_path / "work", tmp_path / "tmp"
    for place in (home, work, temporary):
        place.mkdir()
    changes = {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "TMPDIR": str(temporary),
        "GEMS_EDGE_CACHE": "",
    }
    cli("train", *SMALL, "--iterations", "4", "-o", "run", cwd=work, **changes)
    cli("evaluate", "run", "--episodes", "2", cwd=work, **changes)
    cli("export", "run", "--ratio", "0.5", "--episodes", "2", "-o", "a.gems", cwd=work, **changes)
    cli("report", "run", "a.gems", "-o", "page.html", cwd=work, **changes)
    cli("evaluate", "a.gems", "--episodes", "2", cwd=work, **changes)
    assert {name.split("/")[0] for name in files_below(work)} == {"run", "a.gems", "page.html"}
    assert {"/".join(name.split("/")[:2]) for name in files_below(home)} == {".cache/gems-edge"}
    assert files_below(temporary) == set()


@pytest.mark.parametrize("order, warned", [("gems_edge, onnxruntime", False), ("onnxruntime, gems_edge", True)])
def test_onnxruntime_tells_nobody_or_it_is_said(order, warned, tmp_path, environment):
    done = subprocess.run(
        [sys.executable, "-c", f"import {order}"],
        env=environment | {"HOME": str(tmp_path), "XDG_CACHE_HOME": ""},
        capture_output=True,
        text=True,
    )
    assert ("onnxruntime was imported before gems_edge" in done.stderr) == warned
    assert warned or files_below(tmp_path) == set()


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from gems_edge.cli.main import group; group(['--help'], standalone_mode=False)\n"
        "print(sorted(m for m in sys.modules if '.' not in m))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()[-1]
    assert not set(HEAVY + ("numpy", "onnxruntime")) & set(eval(loaded))


def test_every_command_has_help_with_an_example(cli):
    from gems_edge.cli.main import COMMANDS

    for name in COMMANDS:
        text = cli(name, "--help").stdout
        assert "Example" in text or "Commands:" in text, name


def test_the_boards_commands_load_nothing_of_the_workstation(small_bundle, tmp_path, environment):
    from PIL import Image

    Image.new("L", (40, 40), "white").save(tmp_path / "a.png")
    code = (
        "import sys, atexit, json\n"
        "atexit.register(lambda: print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})), file=sys.stderr))\n"
        "sys.argv = ['gems-edge', *sys.argv[1:]]\n"
        "from gems_edge.cli.main import main\n"
        "main()"
    )
    command = [sys.executable, "-c", code, "predict", str(small_bundle), str(tmp_path / "a.png")]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert not set(HEAVY) & set(json.loads(result.stderr.splitlines()[-1]))


def test_without_arguments_the_help_is_shown_readably():
    for arguments in ([], ["data"], ["devices"]):
        result = subprocess.run([sys.executable, "-m", "gems_edge", *arguments], capture_output=True, text=True)
        assert result.returncode == 2 and "Traceback" not in result.stderr
        assert len((result.stdout + result.stderr).splitlines()) > 5, arguments
