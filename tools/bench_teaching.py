"""A class that is added later: its accuracy, time and size beside teaching all classes at once.

  python tools/bench_teaching.py BUNDLE [--data packed:FILE.npz] [--episodes 100] [--shots 5] [-o FILE.json]

Of every episode all classes but the last are taught, saved, loaded by another learner, and the last one is added. Its
answers, its tensors to the bit and its time are compared with teaching all at once; the time counts saving on both
sides. `bytes_per_photo` is of the state's directory after the first save, without the weights.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from bundle_images import images_for

from gems_edge.cli.values import IMAGE_SETS
from gems_edge.data.episodes import EpisodeIndices
from gems_edge.data.mixture import Mixture, mixture_sampler
from gems_edge.data.shots import Shots
from gems_edge.data.specs import Specs
from gems_edge.device.learner import Learner
from gems_edge.device.photos import photos_bytes
from gems_edge.files import write_atomic
from gems_edge.meta.evaluation.accuracy import mean_accuracy


@dataclass(frozen=True)
class Compared:
    """One episode, taught at once and by adding its last class."""

    at_once: float  # the share of right queries
    added: float
    same_bits: bool
    seconds_at_once: float
    seconds_added: float
    bytes_per_photo: float


def compared(learner: Learner, images: Mixture, drawn: EpisodeIndices, directory: Path) -> Compared:
    pixels, labels = images.images[drawn.support], drawn.labels.tolist()
    queries = images.images[drawn.query.reshape(-1)]
    truth = np.repeat(np.arange(len(drawn.query)), drawn.query.shape[1])
    last = max(labels)
    first = [place for place, label in enumerate(labels) if label != last]
    rest = [place for place, label in enumerate(labels) if label == last]
    learner.adapt(pixels[first], [labels[place] for place in first])
    learner.save(directory / "added.state")
    kept = photos_bytes(directory / "added.state") / len(first)
    later = Learner(learner.bundle, learner.threads)
    later.load_state(directory / "added.state")

    def add() -> None:
        later.teach(pixels[rest], [labels[place] for place in rest])
        later.save(directory / "added.state")

    def at_once() -> None:
        learner.adapt(pixels, labels)
        learner.save(directory / "once.state")

    seconds_added, seconds_at_once = _seconds(add), _seconds(at_once)
    pair = [each.taught.tensors for each in (learner, later) if each.taught is not None]
    same = all(pair[0][name].tobytes() == pair[1][name].tobytes() for name in pair[0])
    right = [float((each.predict(queries).argmax(1) == truth).mean()) for each in (learner, later)]
    return Compared(right[0], right[1], same, seconds_at_once, seconds_added, kept)


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--data", type=IMAGE_SETS, help="Image sets; default: the bundle's own.")
@click.option("--episodes", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--shots", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--queries", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(
    bundle: Path, data: Specs | None, episodes: int, shots: int, queries: int, threads: int, output: Path | None
) -> None:
    learner = Learner.load(bundle, threads)
    about = learner.bundle
    images = images_for(about, data)
    [sampler, *_] = mixture_sampler(images, "test", about.ways, Shots.given(shots), queries, 0).samplers
    rows = []
    for task in range(episodes):
        with tempfile.TemporaryDirectory() as directory:
            rows.append(compared(learner, images, sampler.draw(0, task), Path(directory)))
    gain = mean_accuracy([row.added - row.at_once for row in rows])
    result = {
        "bundle": bundle.name,
        "episodes": episodes,
        "at_once": asdict(mean_accuracy([row.at_once for row in rows])),
        "added": asdict(mean_accuracy([row.added for row in rows])),
        "gain": gain.accuracy,
        "gain_ci95": gain.ci95,
        "same_bits": sum(row.same_bits for row in rows),
        "time_ratio": statistics.median(row.seconds_added / row.seconds_at_once for row in rows),
        "ms_at_once": 1e3 * statistics.median(row.seconds_at_once for row in rows),
        "ms_added": 1e3 * statistics.median(row.seconds_added for row in rows),
        "bytes_per_photo": statistics.mean(row.bytes_per_photo for row in rows),
    }
    click.echo(json.dumps(result, indent=2))
    if output:
        write_atomic(output, json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
