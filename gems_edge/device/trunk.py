"""What does not change for a task, computed once for each image: the features of trunk.onnx."""

import numpy as np

from gems_edge.device.batching import images_per_call
from gems_edge.device.bundle import FEATURES, IMAGES, Bundle
from gems_edge.device.inputs import network_input
from gems_edge.device.sessions import trunk_session
from gems_edge.errors import UserError


def trunk_features(bundle: Bundle, pixels: np.ndarray, threads: int | None, precision: str) -> np.ndarray:
    """What the trunk makes of images [N, S, S, C]: float32 [N, c, h, w] (of the whole body [N, F]), each by itself.

    Raises UserError for a bundle without a trunk, and for what no trunk of this manifest gives.
    """
    trunk = bundle.trunk
    if trunk is None:
        raise UserError(f"{bundle.path} has no trunk: each of its steps runs the whole network")
    session = trunk_session(bundle, threads, precision)
    batch = images_per_call(trunk.peak_bytes)
    features: np.ndarray | None = None
    for start in range(0, len(pixels), batch):
        some = network_input(pixels[start : start + batch])
        [result] = session.run([FEATURES], {IMAGES: some}, last=start + batch >= len(pixels))
        if result.shape != (len(some), *trunk.features):
            raise UserError(
                f"{session.what} gives features of shape {list(result.shape[1:])}, not {list(trunk.features)} as "
                "the manifest says; export the bundle again"
            )
        if not np.isfinite(result).all():
            raise UserError(f"{session.what} gives features that are not finite; give other images")
        if features is None:  # of a shape that the graph has proved, not of one that a manifest claims
            features = np.empty((len(pixels), *trunk.features), np.float32)
        features[start : start + batch] = result
    assert features is not None  # there is an image
    return features
