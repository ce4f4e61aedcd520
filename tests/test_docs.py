"""The commands of README.md and docs/, run in order as written, but with training cut short."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_photos import write_kinds, write_photo

from gems_edge.torchrun import torchrun

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
TINY = ["--iterations", "3", "--validation-episodes", "3", "--image-size", "32", "--widths", "16"]
TRAIN = ["--queries", "3", "--meta-batch", "2"]
SHORT = {
    # A pretrained network has its widths, and pixels for its five strides.
    "pretrained": ["--iterations", "3", "--validation-episodes", "3", "--image-size", "64", *TRAIN],
    "train": [*TINY, *TRAIN],
    "tickets": ["--preset", "tiny", "--ratio", "0.6", "--method", "pmt"],
    "gems": ["--preset", "tiny", "--data", "photos=folder:photos", "--method", "bmp"],
    "evaluate": ["--episodes", "3"],
    "export": ["--round-to", "1", "--recover-iterations", "2", "--episodes", "3"],
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """The lines of the page's bash blocks; what stands in sh blocks needs a board, hours, or an empty machine."""
    return [line for block in blocks(page, "bash") for line in block.splitlines() if line.strip()]


def write_photos(directory: Path) -> None:
    write_kinds(directory / "photos", 18, 8)
    for kind, name in enumerate(("mango", "papaya", "quince"), 50):
        write_photo(directory / "new-fruit" / name / "1.jpg", kind, 0)
    for kind, name in ((50, "mango"), (53, "kiwi")):
        write_photo(directory / "more-fruit" / name / "2.jpg", kind, 2)
    write_photo(directory / "table.jpg", 50, 1)
    (directory / "sets").mkdir()
    (directory / "my_net.py").write_text(blocks(ROOT / "docs" / "networks.md", "python")[0])


@pytest.fixture(scope="session")
def run_commands(cli_here, environment) -> Callable[[Path, Path], None]:
    """`run_commands(page, directory)` runs the page's commands there, gems-edge in this process."""

    def run(page: Path, directory: Path) -> None:
        for line in commands(page):
            program, *words = shlex.split(line)
            short = next((options for name, options in SHORT.items() if name in words), [])
            if program == "torchrun":
                assert words[0] == "--nproc-per-node"
                command = [*torchrun(2), *words[2:], *short]
                result = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
                assert result.returncode == 0, f"{line}\n{result.stderr}"
            else:
                assert program == "gems-edge", line
                cli_here(*words, *short, cwd=directory)

    return run


@pytest.fixture(scope="session")
def after_readme(made_once, run_commands) -> Path:
    """A directory with photos in which the README's commands have run; look, don't touch."""

    def make(directory: Path) -> None:
        directory.mkdir()
        write_photos(directory)
        run_commands(README, directory)

    return made_once("readme", make)


@pytest.mark.slow(60)
def test_the_readme(after_readme, environment, tmp_path):
    assert len(commands(README)) >= 8
    assert (after_readme / "fruit.html").stat().st_size > 10_000 and (after_readme / "pi4.gems").is_dir()
    directory = tmp_path / "readme"
    shutil.copytree(after_readme, directory)
    subprocess.run([sys.executable, "-c", *blocks(README, "python")], cwd=directory, env=environment, check=True)
    assert (directory / "plates.state").is_dir()


@pytest.mark.slow(40)
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_a_page(page, after_readme, run_commands, tmp_path):
    shutil.copytree(after_readme, tmp_path / "work")
    run_commands(page, tmp_path / "work")


@pytest.mark.parametrize("page", [README, ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.stem)
def test_what_a_page_names_is_there(page):
    # An example may name a file that it makes.
    text = re.sub(r"^```\w+ \S+\n.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for path in re.findall(r"\b(?:tools|tests|gems_edge|export|device_profiles)/[\w/-]+(?:\.\w+)?", text):
        assert (ROOT / path).exists(), path
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / target).exists(), target
    make = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake (demo|test|quick|lint)\b", text)) <= set(make)


@pytest.mark.parametrize("page", [README, ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.stem)
def test_lines_of_prose_are_120_columns(page):
    """Tables, code and pictures may be wider."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith(("|", "!["))] == []


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 150
