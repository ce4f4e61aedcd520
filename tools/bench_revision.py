"""This tree against another revision of the project: a meta-iteration and a gradient step, alternating in one run.

  python tools/bench_revision.py bff4950 -o revision.json

Both are used as a user would: `gems-edge train` (the rate that it logs), `gems-edge export`, and `Learner.adapt` on the
bundle. Both must compute the same: a bundle's weights within rounding, the losses of training within 1 % and those of
gradient steps within 0.1 %. Every block is a process of its own; blocks take turns, a figure is the median over the
rounds, and the ratio that of the rounds' ratios. Nothing else should run meanwhile.

  python tools/bench_revision.py main~5 --network mobilenet-v2@0.35-96 -o mobile.json

measures networks that both revisions know instead of those of the project's history.
"""

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
import numpy as np
from alternating import times_faster
from networks import Network, read_name
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[1]
# Adam's first steps are as long for any gradient: rounding alone turns those of a gradient of next to nothing, as a
# shared head's is. So losses are compared, and bundles are of weights that have hardly moved.
TRAINING_TOLERANCE, LOSS_TOLERANCE, WEIGHT_TOLERANCE = 1e-2, 1e-3, 1e-6
HARDLY = ("--lr", "1e-9")
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
results = [learner.adapt(images, labels, steps=6) for _ in range(int(sys.argv[3]))]
print(json.dumps([[s for result in results for s in result.seconds[1:]], list(results[0].losses)]))
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
    Training("conv4-64 28 px", ("--backbone", "conv4", "--image-size", "28", "--shots", "1"), 24),
    Training("conv4-64 84 px", ("--backbone", "conv4", "--image-size", "84", "--shots", "1"), 6),
)
STEPS_OF = (
    Step("conv4-64 28 px 5 images", ("--backbone", "conv4", "--image-size", "28", "--shots", "1")),
    Step(
        "conv4-64 84 px 25 images", ("--backbone", "conv4", "--image-size", "84", "--shots", "5", "--inner-lr", "0.01")
    ),
    Step(
        "resnet12 84 px 5 images",
        ("--backbone", "resnet12", "--image-size", "84", "--shots", "1", "--inner-lr", "0.001"),
    ),
)


def rows_of(network: Network) -> tuple[Training, tuple[Step, ...]]:
    """The rows of any network: training, and steps of 5 and of 25 images."""
    options = ("--backbone", network.backbone, "--width-multiplier", str(network.multiplier))
    options += ("--image-size", str(network.size), "--inner-lr", "0.001")
    steps = tuple(Step(f"{network.name} {5 * shots} images", (*options, "--shots", str(shots))) for shots in (1, 5))
    return Training(network.name, (*options, "--shots", "1"), 6), steps


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

    def train(self, run: str, options: tuple[str, ...], iterations: int) -> tuple[float, list[float]]:
        """Meta-iterations per second, as the run logs them, the median of its intervals but the first; its losses."""
        interval = max(1, iterations // 3)
        limits = ["--iterations", iterations, "--checkpoint-every", interval, "--validate-every", 10**6]
        quick = ["--validation-episodes", "2", "--channels", "1", *options]
        self.python("-m", "gems_edge", "train", "--data", "glyphs", *map(str, limits), *quick, "-o", run)
        lines = [json.loads(line) for line in (self.work / run / "metrics.jsonl").read_text().splitlines()]
        rates, losses = ([line[key] for line in lines if line["kind"] == "train"] for key in ("rate", "loss"))
        return statistics.median(rates[1:] or rates), losses

    def export(self, run: str) -> None:
        options = ["--ratio", "0", "--episodes", "2", "-o", f"{run}.gems"]
        self.python("-m", "gems_edge", "export", run, *options)

    def steps(self, bundle: str, count: int) -> tuple[float, list[float]]:
        """Milliseconds of a gradient step, the median of a block; and the losses of an adaptation."""
        seconds, losses = json.loads(self.python("-c", STEPS, bundle, str(self.threads), str(count)))
        return 1e3 * statistics.median(seconds), losses

    def weights(self, bundle: str) -> dict[str, np.ndarray]:
        return load_file(self.work / bundle / "weights.safetensors")


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
    losses: list[list[float]] = [[] for _ in trees]
    for number in range(rounds):
        run = f"{training.name.replace(' ', '-')}-{number}"
        for place in (0, 1) if number % 2 else (1, 0):
            rate, losses[place] = trees[place].train(run, training.options, training.iterations)
            milliseconds[place].append(1e3 / rate)
        check_losses(run, losses, TRAINING_TOLERANCE)
    return row(f"meta-iteration {training.name}", trees, milliseconds)


def step_row(trees: list[Tree], step: Step, rounds: int, count: int) -> dict[str, Any]:
    run = step.name.replace(" ", "-")
    for tree in trees:
        tree.train(run, (*step.options, *HARDLY), 1)
        tree.export(run)
    ours, other = (tree.weights(f"{run}.gems") for tree in trees)
    if different := [name for name in other if np.abs(ours[name] - other[name]).max() > WEIGHT_TOLERANCE]:
        raise click.ClickException(f"{run}: {', '.join(different)} of the two revisions' bundles differ")
    milliseconds: list[list[float]] = [[] for _ in trees]
    losses: list[list[float]] = [[] for _ in trees]
    for number in range(rounds):
        for place in (0, 1) if number % 2 else (1, 0):
            taken, losses[place] = trees[place].steps(f"{run}.gems", count)
            milliseconds[place].append(taken)
    check_losses(run, losses, LOSS_TOLERANCE)
    return row(f"gradient step {step.name}", trees, milliseconds)


def check_losses(run: str, losses: list[list[float]], tolerance: float) -> None:
    if any(abs(ours - other) > tolerance * abs(other) for ours, other in zip(*losses, strict=True)):
        raise click.ClickException(f"{run}: the losses of the two revisions differ: {losses[0]}, {losses[1]}")


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
@click.option("--network", "networks", multiple=True, help="Rows of this one (BACKBONE@WIDTH_MULTIPLIER-PIXELS).")
def main(
    revision: str, output: Path, rounds: int, threads: int, repeats: int, only: str, networks: tuple[str, ...]
) -> None:
    trainings, steps = TRAININGS, STEPS_OF
    if networks:
        asked = [rows_of(read_name(name)) for name in networks]
        trainings, steps = tuple(training for training, _ in asked), tuple(step for _, each in asked for step in each)
    with tempfile.TemporaryDirectory(prefix="gems-edge-revisions-") as directory:
        place = Path(directory)
        trees = [
            Tree("this tree", ROOT, place / "ours", threads),
            Tree(revision, check_out(revision, place / "sources"), place / "other", threads),
        ]
        rows = [training_row(trees, training, rounds) for training in trainings if only in training.name]
        rows += [step_row(trees, step, rounds, repeats) for step in steps if only in step.name]
    document = {"revision": revision, "threads": threads, "rows": rows}
    output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
