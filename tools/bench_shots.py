"""More photos never make it worse: accuracy of a run or a bundle by the number of photos that it is taught from.

  python tools/bench_shots.py RUN|BUNDLE [--shots 1 --shots 5 --shots 5,1,1,1,1 …] [--steps 5] [-o FILE.json]

Every row is of the same episodes: the same classes and queries, and of each class the first photos of one list. So the
gain, of the paired differences, says more than two accuracies do. A number of photos is compared with the number before
it, unequal numbers with one photo each. The exit code is 1 if a row is surely worse: by more than the gain's interval.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch
from bundle_images import images_for

from gems_edge.cli.common import table
from gems_edge.cli.values import IMAGE_SETS
from gems_edge.data.episodes import EpisodeIndices, EpisodeSampler
from gems_edge.data.mixture import Mixture, load_mixture, mixture_sampler
from gems_edge.data.shots import ONE_SHOT, Shots
from gems_edge.data.specs import Specs, own_specs
from gems_edge.device.learner import Learner
from gems_edge.files import write_atomic
from gems_edge.meta.evaluation.accuracy import mean_accuracy
from gems_edge.meta.evaluation.bundle import answer_episode
from gems_edge.meta.evaluation.episodes import evaluate
from gems_edge.meta.features import episodes_of
from gems_edge.meta.meta_model import MetaModel, halves
from gems_edge.meta.processes import alone
from gems_edge.meta.rules.registry import rule_of
from gems_edge.meta.run import Run
from gems_edge.meta.task_threads import TaskThreads
from gems_edge.wording import percent_text

SHOTS = ("1", "2", "3", "4", "5", "10", "5,1,1,1,1", "5,4,3,2,1")


@dataclass(frozen=True)
class FirstPhotos:
    """Draws the episodes of `whole`, and of each class the first photos alone."""

    whole: EpisodeSampler
    shots: Shots

    @property
    def ways(self) -> int:
        return self.whole.ways

    @property
    def rotate(self) -> bool:
        return self.whole.rotate

    def draw(self, iteration: int, task: int) -> EpisodeIndices:
        drawn = self.whole.draw(iteration, task)
        counts = self.shots.draw(self.ways, ())
        each = drawn.support.reshape(self.ways, -1)
        support = np.concatenate([images[:count] for images, count in zip(each, counts.tolist())])
        return replace(drawn, support=support, labels=np.repeat(np.arange(self.ways), counts))


# Of one distribution and one number of photos: the share of right queries of every episode.
Tested = Callable[[FirstPhotos], Sequence[float]]


class Opened(NamedTuple):
    """What a run or a bundle is tested on, with how many classes, and how."""

    images: Mixture
    ways: int
    tested: Tested


def of_run(directory: Path, data: Specs | None, split: str, steps: int | None, episodes: int) -> Opened:
    """Above its cut, where it has one, on features."""
    run = Run(directory)
    config, (model, weights) = run.config(), run.model()
    specs = own_specs(data, config.data) if data else config.data
    images = load_mixture(specs, image_size=config.image_size, channels=config.channels)
    parts = halves(MetaModel(model, weights, rule_of(config)), model.spec.cut)
    read, top = episodes_of(parts, images, (split,), alone(torch.device("cpu"))), parts.learned
    threads = TaskThreads(top.model, episodes)
    key = config.normalization, config.steps if steps is None else steps

    def tested(sampler: FirstPhotos) -> Sequence[float]:
        shares = evaluate(
            threads, top.weights, read, sampler, top.rule, steps=[key[1]], modes=[key[0]], tasks=range(episodes)
        )
        return shares[key]

    return Opened(images, config.ways, tested)


def of_bundle(directory: Path, data: Specs | None, split: str, steps: int | None, episodes: int) -> Opened:
    learner = Learner.load(directory)
    bundle = learner.bundle
    images = images_for(bundle, data)

    def tested(sampler: FirstPhotos) -> Sequence[float]:
        tasks = (sampler.draw(0, task) for task in range(episodes))
        return [answer_episode(learner, images, task, steps).right for task in tasks]

    return Opened(images, bundle.ways, tested)


def rows_of(opened: Opened, shots: Sequence[Shots], split: str, queries: int, seed: int) -> list[dict]:
    """A row for each distribution and number of photos, in the order in which they are compared."""
    most = Shots.given(max(each.most for each in shots))
    ways = next((len(each.of_class) for each in shots if each.of_class), opened.ways)
    sampler = mixture_sampler(opened.images, split, ways, most, queries, seed)
    rows = []
    for name, whole in zip(sampler.names, sampler.samplers):
        known: dict[Shots, np.ndarray] = {}
        for each in shots:
            known[each] = np.array(opened.tested(FirstPhotos(whole, each)))
            before = [other for other in known if not other.of_class and other.most < each.most]
            base = ONE_SHOT if each.of_class else max(before, key=lambda other: other.most, default=each)
            row = {"data": name, "shots": each.value, **mean_accuracy(known[each]).as_dict()}
            if base in known and base != each:
                gain = mean_accuracy(known[each] - known[base])
                row |= {"compared_with": base.value, "gain": gain.accuracy, "gain_ci95": gain.ci95}
            rows.append(row)
    return rows


def worse(row: dict) -> bool:
    return "gain" in row and row["gain"] < -row["gain_ci95"]


def in_words(row: dict) -> tuple[str, ...]:
    shots = ",".join(map(str, row["shots"])) if isinstance(row["shots"], list) else str(row["shots"])
    gain = percent_text(row["gain"], row["gain_ci95"], 2, signed=True) if "gain" in row else ""
    return row["data"], shots, percent_text(row["accuracy"], row["ci95"], 2), gain, "WORSE" if worse(row) else ""


@click.command()
@click.argument("subject", type=click.Path(path_type=Path, exists=True))
@click.option("--data", type=IMAGE_SETS, help="Default: those of the run.")
@click.option("--shots", multiple=True, default=SHOTS, show_default=True)
@click.option("--steps", type=click.IntRange(0), help="Inner steps; default: as the run or the bundle has them.")
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True)
@click.option("--episodes", default=600, show_default=True)
@click.option("--queries", default=15, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(subject, data, shots, steps, split, episodes, queries, seed, output):
    of_subject = of_bundle if (subject / "manifest.json").exists() else of_run
    opened = of_subject(subject, data, split, steps, episodes)
    rows = rows_of(opened, [Shots.parse_given(each) for each in shots], split, queries, seed)
    print(table(map(in_words, rows), ("data", "photos", "accuracy %", "gain", "")))
    if output:
        document = {"subject": str(subject), "split": split, "seed": seed, "rows": rows}
        write_atomic(output, json.dumps(document, indent=1) + "\n")
    sys.exit(any(map(worse, rows)))


if __name__ == "__main__":
    main()
