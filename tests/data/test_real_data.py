"""The images in ../shared/data, where they are; elsewhere these tests are skipped."""

from pathlib import Path

import numpy as np
import pytest

from gems_edge.data.episodes import make_sampler
from gems_edge.data.published import read_split, split_of
from gems_edge.data.sources import load_images

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real images in {SHARED}")


def test_omniglot():
    image_set = load_images(f"packed:{SHARED / 'omniglot.npz'}")
    assert image_set.images.shape == (32460, 28, 28, 1) and image_set.inverted and np.median(image_set.images) == 0
    assert np.bincount(np.unique(image_set.split, return_inverse=True)[1]).tolist() == [423, 1028, 172]
    # The split that the torchvision set of this name gets is the same.
    assert np.array_equal(split_of(image_set.classes, read_split("omniglot")), image_set.split)


def test_grocery():
    image_set = load_images(f"packed:{SHARED / 'grocery.npz'}")
    assert image_set.images.shape == (5421, 84, 84, 3) and not image_set.inverted and len(image_set.classes) == 81
    # Its groups are coarse classes, no near-duplicates.
    assert image_set.group is None
    assert make_sampler(image_set, "test", 20, 5, 15, 0).draw(0, 0).query.shape == (20, 15)


def test_traffic_signs_share_no_track():
    image_set = load_images(f"packed:{SHARED / 'gtsrb.npz'}", image_size=32, channels=1)
    assert image_set.images.shape == (6797, 32, 32, 1) and image_set.group is not None
    for split, ways in (("train", 5), ("val", 5), ("test", 5)):
        sampler = make_sampler(image_set, split, ways, 5, 15, 0)
        for task in range(50):
            episode = sampler.draw(0, task)
            support_groups, query_groups = (image_set.group[part] for part in (episode.support, episode.query))
            for support, query in zip(support_groups.reshape(ways, 5), query_groups):
                assert not set(support) & set(query)
