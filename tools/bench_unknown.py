"""Foreign objects on the board's own path: photos of taught classes that are answered, foreign ones that are unknown.

  python tools/bench_unknown.py BUNDLE --run RUN --data packed:FILE.npz [--shots 1,5] [--precision int8]

Test episodes: onnxruntime learns, and answers as many foreign photos, of all other test classes, as known ones. Beside
it the body as it was before training, with the largest cosine to a class mean and a threshold that keeps 90 % of the
known photos of validation episodes, on the same test episodes. Prints one JSON document.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from gems_edge.cli.values import IMAGE_SETS
from gems_edge.data.episodes import make_sampler
from gems_edge.data.mixture import Mixture, load_mixture
from gems_edge.data.specs import Specs
from gems_edge.data.tensors import episode_tensors, fast_layout
from gems_edge.device.familiar import KEPT
from gems_edge.device.learner import Learner
from gems_edge.export.foreign import Task, tasks_of
from gems_edge.export.unknown import COVERAGE, area
from gems_edge.files import write_atomic
from gems_edge.meta.evaluation.untrained import untrained
from gems_edge.meta.run import Run
from gems_edge.models.fewshot import body

_BATCH = 64


def asked_on_the_board(learner: Learner, images: Mixture, tasks: Sequence[Task]) -> dict[str, Any]:
    known, foreign, held, sizes, right = [], [], [], [], []
    for task in tasks:
        indices = task.indices
        learner.adapt(images.images[indices.support], indices.labels.tolist())
        numbers = np.concatenate([indices.query.reshape(-1), task.foreign])
        answers = learner.answers(images.images[numbers], coverage=COVERAGE)
        own = np.repeat(np.arange(len(indices.query)), indices.query.shape[1]).tolist()
        known += answers[: len(own)]
        foreign += answers[len(own) :]
        held += [label in (answer.candidates or ()) for label, answer in zip(own, answers)]
        sizes += [len(answer.candidates or ()) for answer in answers[: len(own)]]
        right += [answer.name == label for label, answer in zip(own, answers) if answer.known]
    return {
        "kept": float(np.mean([answer.known for answer in known])),
        "refused": float(np.mean([not answer.known for answer in foreign])),
        "area": area(np.array([a.score for a in known]), np.array([a.score for a in foreign])),
        "right_of_kept": float(np.mean(right)),
        "coverage": float(np.mean(held)),
        "set_size": float(np.mean(sizes)),
    }


class Frozen:
    """The body before training: features of length 1, each image's once."""

    def __init__(self, run: Run, images: Mixture):
        learned = untrained(run, run.config())
        if learned is None:
            raise click.UsageError("the weights that this run started from are not to be had")
        self.learned, self.images, self.features = learned, episode_tensors(images), dict[int, np.ndarray]()

    def of(self, numbers: np.ndarray) -> np.ndarray:
        missing = np.array([n for n in np.unique(numbers) if n not in self.features], np.int64)
        for start in range(0, len(missing), _BATCH):
            some = missing[start : start + _BATCH]
            with torch.no_grad():
                images = fast_layout(self.images.taken(some, torch.float32))
                found = body(self.learned.model, self.learned.weights, images).features.numpy()
            self.features |= zip(some.tolist(), found / np.linalg.norm(found, axis=1, keepdims=True))
        return np.stack([self.features[number] for number in numbers.tolist()])

    def largest(self, tasks: Sequence[Task]) -> tuple[np.ndarray, np.ndarray]:
        """The largest cosines of known and of foreign photos."""
        known, foreign = [], []
        for task in tasks:
            indices = task.indices
            support = self.of(indices.support)
            means = np.stack([support[indices.labels == one].mean(0) for one in range(len(indices.query))])
            means /= np.linalg.norm(means, axis=1, keepdims=True)
            known.append((self.of(indices.query.reshape(-1)) @ means.T).max(1))
            foreign.append((self.of(task.foreign) @ means.T).max(1))
        return np.concatenate(known), np.concatenate(foreign)

    def asked(self, validation: Sequence[Task], tests: Sequence[Task]) -> dict[str, float]:
        threshold = np.quantile(self.largest(validation)[0], 1 - KEPT)
        known, foreign = self.largest(tests)
        kept, refused = float((known >= threshold).mean()), float((foreign < threshold).mean())
        return {"kept": kept, "refused": refused, "area": area(known, foreign)}


def tasks_for(images: Mixture, split: str, learner: Learner, shots: int, queries: int, episodes: int) -> list[Task]:
    """In image numbers of the one set that there is."""
    sampler = make_sampler(images.sets[0], split, learner.bundle.ways, shots, queries, seed=1)
    return tasks_of(replace(sampler, start=0), episodes)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--run", "directory", type=click.Path(path_type=Path), required=True, help="What it was exported from.")
@click.option("--data", type=IMAGE_SETS, required=True, help="One image set.")
@click.option("--episodes", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--shots", default="1,5", show_default=True)
@click.option("--queries", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "int8"]), default="fp32", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(
    bundle: Path,
    directory: Path,
    data: Specs,
    episodes: int,
    shots: str,
    queries: int,
    precision: str,
    threads: int,
    output: Path | None,
) -> None:
    learner = Learner.load(bundle, threads, precision)
    images = load_mixture(data, image_size=learner.bundle.image_size, channels=learner.bundle.channels)
    frozen, rows = Frozen(Run(directory), images), []
    for number in map(int, shots.split(",")):
        validation, tests = (tasks_for(images, split, learner, number, queries, episodes) for split in ("val", "test"))
        row = {"shots": number, "board": asked_on_the_board(learner, images, tests)}
        rows.append(row | {"frozen_largest_cosine": frozen.asked(validation, tests)})
    result = {
        "bundle": bundle.name,
        "precision": precision,
        "ways": learner.bundle.ways,
        "episodes": episodes,
        "score": learner.bundle.manifest.get("unknown") and learner.bundle.manifest["unknown"]["score"],
        "shots": rows,
    }
    click.echo(json.dumps(result, indent=2))
    if output:
        write_atomic(output, json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
