"""A whole image set as one uint8 tensor on the training device, and episodes cut out of it by index."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from gems_edge.data.episodes import EpisodeIndices
from gems_edge.data.imageset import ImageSet
from gems_edge.data.mixture import Mixture


@dataclass(frozen=True)
class Episode:
    """One task on the device; images are in 0…1, labels count from 0 to ways − 1."""

    support_images: torch.Tensor  # float [n, C, H, W], classes one after the other
    support_labels: torch.Tensor  # int64 [n]
    query_images: torch.Tensor  # float [ways * queries, C, H, W]
    query_labels: torch.Tensor  # int64 [ways * queries]


class Episodes:
    """All images of a set, or what a trunk made of them (meta/features.py): what episodes are cut out of by index."""

    @property
    def device(self) -> torch.device:
        """Where episodes are."""
        raise NotImplementedError

    def taken(self, numbers: np.ndarray, dtype: torch.dtype, random: np.random.Generator | None = None) -> torch.Tensor:
        """The images with these numbers, int64 [n], in float32 or float64; augmented where `random` numbers are given
        for it, and these images are to be."""
        raise NotImplementedError

    def episode(
        self,
        indices: EpisodeIndices,
        dtype: torch.dtype = torch.float32,
        random: np.random.Generator | None = None,
    ) -> Episode:
        """The images and labels of one task; the same values as images.to_input in float32. `random`: as of taken."""
        ways, queries = indices.query.shape
        of_query = np.repeat(np.arange(ways), queries)
        # In float32 first: bfloat16 cannot hold every whole number up to 255.
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        support, query = (
            self.taken(numbers, wide, random).to(dtype) for numbers in (indices.support, indices.query.reshape(-1))
        )
        support_images, support_labels = self._part(support, indices.labels, indices.turns)
        query_images, query_labels = self._part(query, of_query, indices.turns)
        return Episode(support_images, support_labels, query_images, query_labels)

    def _part(
        self, images: torch.Tensor, labels: np.ndarray, turns: np.ndarray | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if turns is not None:
            by_class = torch.split(images, np.bincount(labels, minlength=len(turns)).tolist())
            images = torch.cat([part.rot90(turn, (2, 3)) for part, turn in zip(by_class, turns.tolist())])
        return fast_layout(images), torch.from_numpy(labels).to(self.device)


@dataclass(frozen=True)
class EpisodeTensors(Episodes):
    """Of an episode only the indices are copied from host to device."""

    images: torch.Tensor  # uint8 [N, C, H, W]
    augment: Callable[[torch.Tensor, np.random.Generator], torch.Tensor] | None = None  # images [n, C, H, W] in 0…1

    @property
    def device(self) -> torch.device:
        return self.images.device

    def taken(self, numbers: np.ndarray, dtype: torch.dtype, random: np.random.Generator | None = None) -> torch.Tensor:
        images = self.images[torch.from_numpy(numbers).to(self.device)].to(dtype) * (1 / 255)
        return images if random is None or self.augment is None else self.augment(images, random)


def fast_layout(images: torch.Tensor) -> torch.Tensor:
    """The same [N, C, H, W], on a CPU with a pixel's channels side by side, which its convolutions and pools vectorise;
    features [N, F] as they are.

    Copied into new strides: of one channel `contiguous` would keep whatever there were, and all maps after it follow.
    """
    if images.device.type != "cpu" or images.ndim != 4:
        return images
    return torch.empty(images.shape, dtype=images.dtype, memory_format=torch.channels_last).copy_(images)


def episode_tensors(image_set: ImageSet | Mixture, device: torch.device | str = "cpu") -> EpisodeTensors:
    """Put one image set, or all of a mixture, on a device, once."""
    channels_first = torch.from_numpy(image_set.images).permute(0, 3, 1, 2)
    # Copied into fresh strides: with one channel the axes' order is ambiguous, `contiguous()` keeps whatever strides
    # numpy had, and a convolution chooses its kernel, and so its rounding, by them.
    images = torch.empty(channels_first.shape, dtype=torch.uint8).copy_(channels_first)
    return EpisodeTensors(images.to(device))
