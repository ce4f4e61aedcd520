"""What runs on the board: numpy, onnxruntime, pillow, click and safetensors, nothing else."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gems_edge.device.answers import Answer
    from gems_edge.device.learner import Adaptation, Learner

__all__ = ["Adaptation", "Answer", "Learner"]


def __getattr__(name: str) -> object:
    """The names above, imported when they are asked for: predictions need parts of this room, and no onnxruntime."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gems_edge.device import learner

    return getattr(learner, name)
