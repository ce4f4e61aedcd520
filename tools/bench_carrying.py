"""What teaching with thumbnails costs, which is what is left of photos where a new bundle has another trunk.

    python tools/bench_carrying.py fruit.gems --data packed:grocery.npz [--episodes 30] [--seed 3]

Printed: accuracy over the same test episodes, 5 ways and 5 photos, taught with the photos and with their thumbnails.
"""

import argparse

import numpy as np

from gems_edge.data.episodes import make_sampler
from gems_edge.data.mixture import load_mixture
from gems_edge.device import Learner
from gems_edge.device.photos import small_picture

WAYS, SHOTS, QUERIES = 5, 5, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("--data", required=True)
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    learner = Learner.load(options.bundle, 1)
    bundle = learner.bundle
    images = load_mixture((options.data,), image_size=bundle.image_size, channels=bundle.channels).sets[0]
    sampler = make_sampler(images, "test", WAYS, SHOTS, QUERIES, seed=options.seed)
    right: dict[str, list[float]] = {"photos": [], "thumbnails": []}
    for number in range(options.episodes):
        episode = sampler.draw(0, number)
        photos, queries = images.images[episode.support], images.images[episode.query.ravel()]
        small = learner.read_images([small_picture(photo, bundle.inverted) for photo in photos])
        for name, pixels in (("photos", photos), ("thumbnails", small)):
            learner.adapt(pixels, episode.labels.tolist())
            answers = np.array(learner.classes)[learner.predict(queries).argmax(axis=1)]
            right[name].append(float((answers == np.repeat(np.arange(WAYS), QUERIES)).mean()))
    difference = 100 * (np.array(right["thumbnails"]) - right["photos"])
    half = 1.96 * difference.std(ddof=1) / len(difference) ** 0.5
    means = ", ".join(f"{name} {100 * np.mean(values):.1f} %" for name, values in right.items())
    print(f"{options.episodes} episodes: {means}; difference {difference.mean():+.2f} ± {half:.2f}")


if __name__ == "__main__":
    main()
