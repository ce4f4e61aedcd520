"""What runs on the board: numpy, onnxruntime, pillow, click and safetensors, nothing else."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gems_edge.device.adapting import Adaptation
    from gems_edge.device.answers import Answer
    from gems_edge.device.explanation import Explanation
    from gems_edge.device.learner import Learner

__all__ = ["Adaptation", "Answer", "Explanation", "Learner"]
_FROM = {"Adaptation": "adapting", "Answer": "answers", "Explanation": "explanation", "Learner": "learner"}


def __getattr__(name: str) -> object:
    """The names above, imported when they are asked for: predictions need parts of this room, and no onnxruntime."""
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FROM[name]}"), name)
