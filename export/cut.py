"""Where a bundle's network is cut: as high as nothing below is adapted and every image is computed by itself.

What lies below becomes trunk.onnx, which a board runs once for each support photo; adapt.onnx is a step of what lies
above. So of a run with `learn_from`; of ANIL, whose trunk is the whole body; and of a GEMS run whose choices were
frozen for one kind of images (specialise.py), up to the lowest layer that it lets learn.
"""

from typing import Any

import onnx

from gems_edge.device.bundle import FEATURES, IMAGES
from gems_edge.export.graphs import adapt_graph, trunk_graph
from gems_edge.meta.meta_model import Halves, MetaModel
from gems_edge.models.cuts import Cut
from gems_edge.models.spec import PER_IMAGE


def board_step(halves: Halves) -> onnx.ModelProto:
    """adapt.onnx, fed with images or with the trunk's features."""
    top = halves.learned
    return adapt_graph(top.model, top.weights, top.rule, IMAGES if halves.parts is None else FEATURES)


def board_trunk(halves: Halves) -> onnx.ModelProto | None:
    """trunk.onnx; None: there is no trunk."""
    return None if halves.parts is None else trunk_graph(halves.whole.model, halves.parts, halves.whole.weights)


def trunk_entry(halves: Halves) -> dict[str, Any] | None:
    """The manifest's "trunk"."""
    if halves.parts is None:
        return None
    return {"cut": halves.parts.cut.name, "features": list(halves.parts.top.input_shape)}


def highest_cut(learned: MetaModel) -> Cut | None:
    """The highest cut of a bundle's network; None: something adapts, or needs the whole batch, from the start."""
    spec = learned.model.spec
    adapted = learned.rule.adapted(learned.weights)
    for cut in reversed(spec.topology.cuts):
        alone = spec.normalization in PER_IMAGE or not cut.batch_statistics
        if alone and not any(cut.is_below(name) for name in adapted):
            return cut
    return None
