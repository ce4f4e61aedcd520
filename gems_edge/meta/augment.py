"""Augmentation of training images (--augment): crops, colours and mirrors that leave the class what it is.

Validation and tests see images as they are. No torch here before an image is changed.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from gems_edge.meta.settings.run import TrainConfig

NONE = "none"
# Streams of random numbers apart from a seed's episodes and weights: of an episode's images, and of kept views.
_EPISODES, _VIEWS = 0xA46, 0xA47


@dataclass(frozen=True)
class Strength:
    area: float  # the least share of an image that a crop keeps; it is then resized to the image's size
    stretch: float  # at most so many times wider or narrower than the image
    colour: float  # brightness, contrast and saturation change by up to this share
    hue: float  # up to this part of the circle
    mirrored: bool  # half of the images


STRENGTHS = {
    "light": Strength(area=0.8, stretch=1.1, colour=0.1, hue=0.0, mirrored=False),
    "strong": Strength(area=0.5, stretch=4 / 3, colour=0.4, hue=0.1, mirrored=True),
}
AUGMENTATIONS = (NONE, *STRENGTHS)


@dataclass(frozen=True)
class Augmentation:
    """What changes images, and how many views of an image are kept where features are (the image itself is the first).

    Colours of grey images change in brightness and contrast alone.
    """

    strength: Strength
    image_size: int  # pixels on a side
    views: int

    @cached_property
    def transform(self) -> Any:
        from torchvision.transforms import v2

        strength, colour = self.strength, self.strength.colour
        crop = v2.RandomResizedCrop(self.image_size, (strength.area, 1), (1 / strength.stretch, strength.stretch))
        mirror = [v2.RandomHorizontalFlip()] if strength.mirrored else []
        return v2.Compose([crop, *mirror, v2.ColorJitter(colour, colour, colour, strength.hue)])

    @property
    def text(self) -> str:
        """All that decides what becomes of an image, but the random numbers."""
        return repr(self.transform)

    def __call__(self, images: "Tensor", random: np.random.Generator) -> "Tensor":
        """Images [n, C, H, W] in 0…1, each changed by random numbers of its own.

        torch's generator, from which torchvision draws, is left as it was.
        """
        import torch

        changed = torch.empty_like(images)
        with torch.random.fork_rng(devices=[]):
            for image, seed in zip(range(len(images)), random.integers(2**63, size=len(images)).tolist()):
                torch.default_generator.manual_seed(seed)
                changed[image] = self.transform(images[image])
        return changed


def augmentation_of(config: "TrainConfig") -> Augmentation | None:
    """What the settings of a resolved config ask for; None: images stay as they are."""
    if config.augment == NONE:
        return None
    return Augmentation(STRENGTHS[config.augment], config.image_size, config.views)


def of_task(seed: int, iteration: int, task: int) -> np.random.Generator:
    """The random numbers of one training task's images: a function of where training stands, as its episode is."""
    return np.random.default_rng([seed, _EPISODES, iteration, task])


def of_view(view: int) -> np.random.Generator:
    """The random numbers of the kept view with this number, from 1 on; the same in every run, which can share it."""
    return np.random.default_rng([_VIEWS, view])
