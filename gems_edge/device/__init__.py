"""What runs on the board: numpy, onnxruntime, pillow, click and safetensors, nothing else."""

from gems_edge.device.learner import Adaptation, Learner

__all__ = ["Adaptation", "Learner"]
