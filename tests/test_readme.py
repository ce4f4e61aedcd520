"""The README's commands, run in order as written, but with training cut short."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

README = (Path(__file__).parents[1] / "README.md").read_text()
SHORT = {
    "train": ["--iterations", "3", "--validation-episodes", "3", "--image-size", "32", "--widths", "16", "--queries", "4", "--meta-batch", "2"],
    "tickets": ["--preset", "tiny", "--ratio", "0.6", "--method", "pmt"],
    "gems": ["--preset", "tiny", "--data", "photos=folder:photos", "--method", "bmp"],
    "evaluate": ["--episodes", "3"],
    "export": ["--round-to", "1", "--recover-iterations", "2", "--episodes", "3"],
}  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def photo(path: Path, kind: int, number: int) -> None:
    """A coloured shape on a noisy ground: each kind has its own colour and number of corners."""
    random = np.random.default_rng([kind, number])
    image = Image.fromarray(random.integers(180, 255, (48, 60, 3), dtype=np.uint8))
    color = tuple(int(c) for c in np.random.default_rng(kind).integers(0, 200, 3))
    ImageDraw.Draw(image).regular_polygon((30, 24, 14 + number % 5), 3 + kind % 6, rotation=10 * number, fill=color)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture
def place(tmp_path):
    for kind in range(18):
        for number in range(8):
            photo(tmp_path / "photos" / f"kind-{kind}" / f"{number}.jpg", kind, number)
    for kind, name in enumerate(("mango", "papaya", "quince"), 50):
        photo(tmp_path / "new-fruit" / name / "1.jpg", kind, 0)
    photo(tmp_path / "table.jpg", 50, 1)
    (tmp_path / "sets").mkdir()
    return tmp_path


def test_commands(place, environment):
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    assert len(commands) >= 10
    for line in commands:
        words = shlex.split(line)
        if words[0] == "torchrun":
            words = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words[1:]]
            words[words.index("--nproc-per-node") + 1] = "2"
        else:
            assert words[0] == "gems-edge", line
            words = [sys.executable, "-m", "gems_edge", *words[1:]]
        command = next((name for name in SHORT if name in words), None)
        result = subprocess.run(
            [*words, *SHORT.get(command, [])], cwd=place, env=environment, capture_output=True, text=True, timeout=300
        )
        assert result.returncode == 0, f"{line}\n{result.stderr}"
    subprocess.run([sys.executable, "-c", *blocks("python")], cwd=place, env=environment, check=True, timeout=60)
    assert (place / "fruit.html").stat().st_size > 10_000 and (place / "plates.state").is_dir()


def test_files_that_the_readme_names_are_there():
    root = Path(__file__).parents[1]
    for path in re.findall(r"(?:tools|tests)/[\w/]+(?:\.py)?", README):
        assert (root / path).exists(), path
    targets = re.findall(r"^(\w+):", (root / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "test"} <= set(targets) and "make demo" in README and "make test" in README
