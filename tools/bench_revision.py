"""This tree against another revision of the project: a meta-iteration and a gradient step, alternating in one run.

  python tools/bench_revision.py bff4950 -o revision.json

Both are used as a user would: `gems-edge train` (the rate that it logs), `gems-edge export`, and `Learner.adapt` on the
bundle. Both must compute the same: trained weights and the bundle's files are compared to the bit. Every block is a
process of its own; blocks take turns, a figure is the median over the rounds, and the ratio that of the rounds' ratios.
Nothing else should run meanwhile.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from alternating import times_faster

ROOT = Path(__file__).parents[1]
LINKED = ("export", "device_profiles")  # of revisions that had no links to them in the package
# In a fresh process: the seconds of gradient steps on the bundle's own number of random images.
STEPS = """
import json, sys
import numpy as np
from gems_edge.device import Learner
learner = Learner.load(sys.argv[1], threads=int(sys.argv[2]))
bundle = learner.bundle
shape = (bundle.ways * bundle.shots, bundle.image_size, bundle.image_size, bundle.channels)
images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
labels = np.repeat(np.arange(bundle.ways), bundle.shots).tolist()
seconds = [s for _ in range(int(sys.argv[3])) for s in learner.adapt(images, labels, steps=6).seconds[1:]]
print(json.dumps(seconds))
"""


@dataclass(frozen=True)
class Training:
    """A row of the training table: a network on glyphs, 5 ways, 1 shot, 5 steps, meta-batch 4, second order."""

    name: str
    options: tuple[str, ...]
    iterations: int


@dataclass(frozen=True)
class Step:
    """A row of the adaptation table: a network, exported whole."""

    name: str
    options: tuple[str, ...]


TRAININGS = (
    Training("conv4-64 28 px", ("--backbone", "conv4", "--image-size", "28"), 24),
    Training("conv4-64 84 px", ("--backbone", "conv4", "--image-size", "84"), 6),
)
STEPS_OF = (
    Step("conv4-64 28 px 5 images", ("--backbone", "conv4", "--image-size", "28")),
    Step(
        "conv4-64 84 px 25 images", ("--backbone", "conv4", "--image-size", "84", "--shots", "5", "--inner-lr", "0.01")
    ),
    Step("resnet12 84 px 5 images", ("--backbone", "resnet12", "--image-size", "84", "--inner-lr", "0.001")),
)


class Tree:
    """The sources of one revision, and what was made with them."""

    def __init__(self, name: str, sources: Path, work: Path, threads: int):
        self.name, self.sources, self.work, self.threads = name, sources, work, threads
        work.mkdir()

    def python(self, *arguments: str | Path) -> str:
        """What a Python process with this tree's package prints."""
        environment = {**os.environ, "PYTHONPATH": str(self.sources), "OMP_NUM_THREADS": str(self.threads)}
        command = [sys.executable, "-P", *map(str, arguments)]
        done = subprocess.run(command, cwd=self.work, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise click.ClickException(f"{self.name}: {' '.join(command[:6])} … failed: {done.stderr.strip()[-500:]}")
        return done.stdout

    def train(self, run: str, options: tuple[str, ...], iterations: int) -> float:
        """Meta-iterations per second, as the run logs them: the median of its intervals but the first."""
        interval = max(1, iterations // 3)
        limits = ["--iterations", iterations, "--checkpoint-every", interval, "--validate-every", 10**6]
        quick = ["--validation-episodes", "2", "--channels", "1", *options]
        self.python("-m", "gems_edge", "train", "--data", "glyphs", *map(str, limits), *quick, "-o", run)
        lines = [json.loads(line) for line in (self.work / run / "metrics.jsonl").read_text().splitlines()]
        rates = [line["rate"] for line in lines if line["kind"] == "train"]
        return statistics.median(rates[1:] or rates)

    def export(self, run: str) -> None:
        options = ["--ratio", "0", "--episodes", "2", "-o", f"{run}.gems"]
        self.python("-m", "gems_edge", "export", run, *options)

    def steps(self, bundle: str, count: int) -> float:
        """Milliseconds of a gradient step, the median of a block."""
        return 1e3 * statistics.median(json.loads(self.python("-c", STEPS, bundle, str(self.threads), str(count))))

    def digests(self, folder: str, names: tuple[str, ...]) -> dict[str, str]:
        return {name: hashlib.sha256((self.work / folder / name).read_bytes()).hexdigest() for name in names}


def check_out(revision: str, directory: Path) -> Path:
    """The files of a revision of this repository in `directory`."""
    directory.mkdir()
    archive = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True)
    if archive.returncode:
        raise click.ClickException(f"git knows no revision {revision!r} of this repository")
    subprocess.run(["tar", "-x", "-C", directory], input=archive.stdout, check=True)
    for name in LINKED:
        link = directory / "gems_edge" / name
        if not link.exists():
            link.symlink_to(directory / name)
    return directory


def training_row(trees: list[Tree], training: Training, rounds: int) -> dict[str, Any]:
    milliseconds: list[list[float]] = [[] for _ in trees]
    for number in range(rounds):
        run = f"{training.name.replace(' ', '-')}-{number}"
        for place in (0, 1) if number % 2 else (1, 0):
            milliseconds[place].append(1e3 / trees[place].train(run, training.options, training.iterations))
        same(trees, run, ("weights.safetensors",))
    return row(f"meta-iteration {training.name}", trees, milliseconds)


def step_row(trees: list[Tree], step: Step, rounds: int, count: int) -> dict[str, Any]:
    run = step.name.replace(" ", "-")
    for tree in trees:
        tree.train(run, step.options, 1)
        tree.export(run)
    same(trees, run, ("weights.safetensors",))
    same(trees, f"{run}.gems", ("predict.onnx", "adapt.onnx", "weights.safetensors"))
    milliseconds: list[list[float]] = [[] for _ in trees]
    for number in range(rounds):
        for place in (0, 1) if number % 2 else (1, 0):
            milliseconds[place].append(trees[place].steps(f"{run}.gems", count))
    return row(f"gradient step {step.name}", trees, milliseconds)


def same(trees: list[Tree], folder: str, names: tuple[str, ...]) -> None:
    ours, other = (tree.digests(folder, names) for tree in trees)
    if different := [name for name in names if ours[name] != other[name]]:
        raise click.ClickException(f"{folder}: {', '.join(different)} of the two revisions differ")


def row(name: str, trees: list[Tree], milliseconds: list[list[float]]) -> dict[str, Any]:
    ratio = times_faster(milliseconds[1], milliseconds[0])
    medians = {tree.name: round(statistics.median(times), 3) for tree, times in zip(trees, milliseconds, strict=True)}
    click.echo(f"{name}: {medians} ms, this tree is {ratio['median']} times as fast {ratio['p10_p90']}")
    return {"row": name, "ms": medians, "times_as_fast": ratio, "rounds": len(milliseconds[0])}


@click.command(help=__doc__)
@click.argument("revision")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="JSON to write.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=4, show_default=True, help="Adaptations of a block.")
@click.option("--only", default="", help="Rows whose name holds this.")
def main(revision: str, output: Path, rounds: int, threads: int, repeats: int, only: str) -> None:
    with tempfile.TemporaryDirectory(prefix="gems-edge-revisions-") as directory:
        place = Path(directory)
        trees = [
            Tree("this tree", ROOT, place / "ours", threads),
            Tree(revision, check_out(revision, place / "sources"), place / "other", threads),
        ]
        rows = [training_row(trees, training, rounds) for training in TRAININGS if only in training.name]
        rows += [step_row(trees, step, rounds, repeats) for step in STEPS_OF if only in step.name]
    document = {"revision": revision, "threads": threads, "rows": rows}
    output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
