"""Whose ranges the maps of the int8 graph should have: `python tools/compare_int8_ranges.py BUNDLE --data D`.

On the same test episodes, each adapted in float32 on onnxruntime: ranges fixed beforehand over adapted validation episodes (the
largest value seen, which is what export does, or the mean over episodes of each one's largest), and ranges taken from the
support images of the very episode, as a board could with one more pass. Printed: accuracy against float32's, paired, with its
95 % interval; agreement of labels; mean difference of a probability.
"""

import json
import sys
from pathlib import Path

import click
import numpy as np

from gems_edge.data.mixture import load_mixture, mixture_sampler
from gems_edge.device.learner import Learner
from gems_edge.device.quantised import map_scale
from gems_edge.device.runtime import Session
from gems_edge.export.quantise import EPISODES, IMAGE, integer_graph, map_ranges
from gems_edge.images import to_input
from gems_edge.meta.evaluation.accuracy import mean_accuracy
from gems_edge.models.spec import ModelSpec


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--data", required=True)
@click.option("--test-data", help="Other images for the test episodes: how ranges carry over to another distribution.")
@click.option("--episodes", default=60, show_default=True)
def main(bundle, data, test_data, episodes):
    learner = Learner.load(bundle, 1)
    about, weights = learner.bundle.manifest, learner.bundle.weights
    spec = ModelSpec(
        about["backbone"]["name"], tuple(about["backbone"]["widths"]), learner.bundle.image_size, learner.bundle.channels,
        about["normalization"], about["head"], about["ways"],
    )  # fmt: skip

    def taught(name: str, split: str, count: int):
        """(weights, support, queries, labels) of each adapted episode."""
        images = load_mixture((name,), image_size=spec.image_size, channels=spec.channels)
        sampler = mixture_sampler(images, split, about["ways"], about["shots"], about["queries"], 1)
        for task in range(count):
            drawn = sampler.draw(0, task, count)[1]
            support, queries = (images.images[part.reshape(-1)] for part in (drawn.support, drawn.query))
            learner.adapt(support, np.repeat(np.arange(about["ways"]), about["shots"]).tolist())
            labels = np.repeat(np.arange(about["ways"]), about["queries"])
            yield weights | learner._weights, to_input(support), queries, labels

    seen = [map_ranges(spec, now, to_input(queries))[1] for now, _, queries, _ in taught(data, "val", EPISODES)]

    def over(function):
        ends = {name: [one[name] for one in seen] for name in seen[0]}
        return {name: tuple(function(np.array(rows))) for name, rows in ends.items()}

    fixed = {
        "largest over episodes": over(lambda rows: (rows[:, 0].min(), rows[:, 1].max())),
        "mean over episodes": over(lambda rows: rows.mean(0)),
    }
    found = {name: [] for name in (*fixed, "support images of the episode")}
    for now, support, queries, labels in taught(test_data or data, "test", episodes):
        expected = learner.predict(queries)
        for name, rows in found.items():
            ranges = fixed.get(name) or map_ranges(spec, now, support)[1]
            scales = {n: map_scale(*ends) if n != IMAGE else map_scale(0.0, 1.0) for n, ends in ranges.items()}
            session = Session(integer_graph(spec, now, scales)[0].SerializeToString(), name, threads=1)
            logits = session.run(["logits"], {"images": to_input(queries)})[0]
            shifted = np.exp(logits - logits.max(1, keepdims=True))
            answers = shifted / shifted.sum(1, keepdims=True)
            right = [(one.argmax(1) == labels).mean() for one in (answers, expected)]
            same = (answers.argmax(1) == expected.argmax(1)).mean()
            rows.append((right[0] - right[1], same, np.abs(answers - expected).mean()))
    result = {}
    for name, rows in found.items():
        change, (_, same, apart) = mean_accuracy([row[0] for row in rows]), np.mean(rows, axis=0)
        result[name] = {
            "difference": change.accuracy, "ci95": change.ci95, "agreement": same, "probability_difference": apart,
        }  # fmt: skip
    json.dump(
        {"bundle": str(bundle), "data": test_data or data, "episodes": episodes, "ranges": result}, sys.stdout, indent=1
    )
    print()


if __name__ == "__main__":
    main()
