"""Have I taught enough? The forecast of `explain` beside the true accuracy.

  python tools/bench_forecast.py BUNDLE --data packed:FILE.npz [--ways 3,5,10] [--shots 5] [-o FILE.json]

Test episodes: onnxruntime learns the support photos, `explain` forecasts from them alone, and the queries say what is
true. Of each number of classes: the mean of both, of their difference with its 95 % interval and of its size, and the
shares of episodes whose true accuracy is below and above the interval that people are told. Prints one JSON document.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from bundle_images import images_for

from gems_edge.cli.values import IMAGE_SETS
from gems_edge.data.episodes import EpisodeIndices
from gems_edge.data.mixture import Mixture, mixture_sampler
from gems_edge.data.shots import Shots
from gems_edge.data.specs import Specs
from gems_edge.device.learner import Learner
from gems_edge.files import write_atomic
from gems_edge.meta.evaluation.accuracy import mean_accuracy


@dataclass(frozen=True)
class Forecast:
    """One episode: shares of right photos from 0 to 1."""

    forecast: float
    low: float
    high: float
    true: float


def forecast(learner: Learner, images: Mixture, drawn: EpisodeIndices) -> Forecast:
    """Raises UsageError for a bundle that gives no forecast."""
    learner.adapt(images.images[drawn.support], drawn.labels.tolist())
    left_out = learner.explain().left_out
    if left_out is None:
        raise click.UsageError(f"no forecast: {learner.explain().no_forecast}")
    answers = learner.predict(images.images[drawn.query.reshape(-1)]).argmax(axis=1)
    truth = np.repeat(np.arange(len(drawn.query)), drawn.query.shape[1])
    return Forecast(left_out.accuracy, *left_out.interval, float((answers == truth).mean()))


def compared(ways: int, rows: Sequence[Forecast]) -> dict[str, Any]:
    errors = [row.forecast - row.true for row in rows]
    mean = mean_accuracy(errors)
    return {
        "ways": ways,
        "forecast": float(np.mean([row.forecast for row in rows])),
        "true": float(np.mean([row.true for row in rows])),
        "difference": mean.accuracy,
        "difference_ci95": mean.ci95,
        "mean_size_of_difference": float(np.mean(np.abs(errors))),
        "true_below_interval": float(np.mean([row.true < row.low for row in rows])),
        "true_above_interval": float(np.mean([row.true > row.high for row in rows])),
    }


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--data", type=IMAGE_SETS, help="Image sets; default: the bundle's own.")
@click.option("--ways", default="3,5,10", show_default=True)
@click.option("--shots", type=click.IntRange(min=2), default=5, show_default=True)
@click.option("--episodes", type=click.IntRange(min=2), default=100, show_default=True)
@click.option("--queries", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(
    bundle: Path,
    data: Specs | None,
    ways: str,
    shots: int,
    episodes: int,
    queries: int,
    threads: int,
    output: Path | None,
) -> None:
    learner = Learner.load(bundle, threads)
    about, rows = learner.bundle, []
    images = images_for(about, data)
    for number in map(int, ways.split(",")):
        [sampler, *_] = mixture_sampler(images, "test", number, Shots.given(shots), queries, 0).samplers
        rows.append(compared(number, [forecast(learner, images, sampler.draw(0, task)) for task in range(episodes)]))
    result = {"bundle": bundle.name, "shots": shots, "episodes": episodes, "queries": queries, "ways": rows}
    click.echo(json.dumps(result, indent=2))
    if output:
        write_atomic(output, json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
