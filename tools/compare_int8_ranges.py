"""Whose ranges the maps of the int8 graph should have: `python tools/compare_int8_ranges.py BUNDLE --data D`.

On the same test episodes, each adapted in float32 on onnxruntime: ranges fixed beforehand over adapted validation
episodes (the largest value seen, which is what export does, or the mean over episodes of each one's largest), and
ranges taken from the support images of the very episode, as a board could with one more pass. Printed: accuracy against
float32's, paired, with its 95 % interval; agreement of labels; mean difference of a probability.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import onnx

from gems_edge.data.mixture import load_mixture, mixture_sampler
from gems_edge.device.learner import Learner
from gems_edge.device.runtime import Session
from gems_edge.export.quantise import EPISODES, integer_graph, map_ranges
from gems_edge.images import to_input
from gems_edge.meta.evaluation.accuracy import mean_accuracy

Weights = dict[str, np.ndarray]
Episode = tuple[Weights, np.ndarray, np.ndarray, np.ndarray]  # adapted weights, support, queries, queries' labels
Ranges = dict[str, tuple[float, float]]


def episodes_of(learner: Learner, data: str, split: str, count: int) -> Iterator[Episode]:
    """Episodes of `data`, each after `learner` was adapted to it."""
    about, bundle = learner.bundle.manifest, learner.bundle
    images = load_mixture((data,), image_size=bundle.image_size, channels=bundle.channels)
    sampler = mixture_sampler(images, split, about["ways"], about["shots"], about["queries"], 1)
    for task in range(count):
        drawn = sampler.draw(0, task, count)[1]
        support, queries = (images.images[part.reshape(-1)] for part in (drawn.support, drawn.query))
        learner.adapt(support, drawn.labels.tolist())
        labels = np.repeat(np.arange(about["ways"]), about["queries"])
        yield bundle.all_tensors() | learner._now.weights, to_input(support), queries, labels


def fixed_ranges(learner: Learner, predict: onnx.ModelProto, data: str) -> dict[str, Ranges]:
    """Ranges over adapted validation episodes, by how they are put together."""
    of_episodes = [
        map_ranges(predict, weights, to_input(queries))[1]
        for weights, _, queries, _ in episodes_of(learner, data, "val", EPISODES)
    ]
    ends = {name: np.array([ranges[name] for ranges in of_episodes]) for name in of_episodes[0]}
    return {
        "largest over episodes": {name: (rows[:, 0].min(), rows[:, 1].max()) for name, rows in ends.items()},
        "mean over episodes": {name: tuple(rows.mean(0)) for name, rows in ends.items()},
    }


def predict_int8(predict: onnx.ModelProto, weights: Weights, ranges: Ranges, queries: np.ndarray) -> np.ndarray:
    """Probabilities of the int8 graph with these ranges."""
    session = Session(integer_graph(predict, weights, ranges)[0].SerializeToString(), "int8", threads=1)
    logits = session.run(["logits"], {"images": to_input(queries)})[0]
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def compared(answers: np.ndarray, expected: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Of one episode: change of accuracy, agreement of labels, mean difference of a probability."""
    accuracy, before = ((rows.argmax(1) == labels).mean() for rows in (answers, expected))
    return accuracy - before, (answers.argmax(1) == expected.argmax(1)).mean(), np.abs(answers - expected).mean()


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--data", required=True)
@click.option("--test-data", help="Other images for the test episodes: how ranges carry over to another distribution.")
@click.option("--episodes", default=60, show_default=True)
def main(bundle, data, test_data, episodes):
    learner = Learner.load(bundle, 1, "fp32")
    predict = onnx.load_from_string(learner.bundle.model("predict.onnx"))
    fixed = fixed_ranges(learner, predict, data)
    comparisons = {name: [] for name in (*fixed, "support images of the episode")}
    for weights, support, queries, labels in episodes_of(learner, test_data or data, "test", episodes):
        expected = learner.predict(queries)
        for name, rows in comparisons.items():
            ranges = fixed.get(name) or map_ranges(predict, weights, support)[1]
            rows.append(compared(predict_int8(predict, weights, ranges, queries), expected, labels))
    result = {}
    for name, rows in comparisons.items():
        change, (_, same, apart) = mean_accuracy([row[0] for row in rows]), np.mean(rows, axis=0)
        result[name] = {
            "difference": change.accuracy, "ci95": change.ci95, "agreement": same, "probability_difference": apart,
        }  # fmt: skip
    document = {"bundle": str(bundle), "data": test_data or data, "episodes": episodes, "ranges": result}
    json.dump(document, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
