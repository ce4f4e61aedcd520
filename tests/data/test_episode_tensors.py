import numpy as np
import torch
from data_making import make_set

from gems_edge.data.episodes import make_sampler
from gems_edge.data.tensors import EpisodeTensors, episode_tensors
from gems_edge.images import to_input


def test_episode_equals_the_boards_input():
    image_set = make_set([20] * 6, ["train"] * 6, channels=3, size=5)
    indices = make_sampler(image_set, "train", 4, 2, 3, 0).draw(0, 0)
    tensors = episode_tensors(image_set)
    assert (
        tensors.images.dtype == torch.uint8
        and tensors.images.shape == (120, 3, 5, 5)
        and tensors.images.is_contiguous()
    )
    episode = tensors.episode(indices)
    assert np.array_equal(episode.support_images.numpy(), to_input(image_set.images[indices.support]))
    assert np.array_equal(episode.query_images.numpy(), to_input(image_set.images[indices.query.reshape(-1)]))
    assert episode.support_labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert episode.query_labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_other_precisions():
    image_set = make_set([128, 128], ["train"] * 2)
    indices = make_sampler(image_set, "train", 2, 1, 127, 0).draw(0, 0)
    expected = image_set.images[indices.query.reshape(-1)].astype(np.float64).transpose(0, 3, 1, 2) / 255
    tensors = episode_tensors(image_set)
    double = tensors.episode(indices, torch.float64).query_images
    assert double.dtype == torch.float64 and np.allclose(double.numpy(), expected, rtol=1e-15)
    half = tensors.episode(indices, torch.bfloat16).query_images
    assert half.dtype == torch.bfloat16 and np.allclose(half.double().numpy(), expected, rtol=2**-8)


def test_turned_classes_are_turned_as_a_whole():
    """Support and query of a class share one turn, and nothing else changes."""
    from dataclasses import replace

    from gems_edge.data.episodes import EpisodeIndices

    images = torch.arange(6 * 4, dtype=torch.uint8).view(6, 1, 2, 2)
    plain = EpisodeIndices(np.arange(2), np.array([0, 1]), np.arange(2), np.array([[2, 3], [4, 5]]))
    turned = replace(plain, turns=np.array([0, 3]))
    before, after = (EpisodeTensors(images).episode(indices) for indices in (plain, turned))
    assert torch.equal(before.support_images[0], after.support_images[0])
    assert torch.equal(before.query_images[:2], after.query_images[:2])
    assert torch.equal(before.support_images[1].rot90(3, (1, 2)), after.support_images[1])
    assert torch.equal(before.query_images[2:].rot90(3, (2, 3)), after.query_images[2:])
    assert torch.equal(before.query_labels, after.query_labels)
