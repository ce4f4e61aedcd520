"""Where a bundle's network is cut: as high as nothing below is adapted and every image is computed by itself.

What lies below becomes trunk.onnx, which a board runs once for each support photo; adapt.onnx is a step of what lies
above. So of a run with `learn_from`; of ANIL, whose trunk is the whole body; and of a GEMS run whose choices were
frozen for one kind of images (specialise.py), up to the lowest layer that it lets learn.
"""

from dataclasses import dataclass
from typing import Any

import onnx

from gems_edge.device.bundle import FEATURES, TRUNK_FILE
from gems_edge.export.graphs import IMAGES, adapt_graph, trunk_graph
from gems_edge.export.source import MetaModel
from gems_edge.models.cuts import Cut
from gems_edge.models.spec import PER_IMAGE
from gems_edge.models.split import Split, split


@dataclass(frozen=True)
class Halves:
    """A network cut in two, or whole."""

    whole: MetaModel
    parts: Split | None  # None: it has no trunk
    learned: MetaModel  # the top, with the rule for its weights alone; without a trunk the whole

    def adapt_graph(self) -> onnx.ModelProto:
        """adapt.onnx, fed with images or with the trunk's features."""
        top = self.learned
        return adapt_graph(top.model, top.weights, top.rule, IMAGES if self.parts is None else FEATURES)

    def trunk_graph(self) -> onnx.ModelProto | None:
        return None if self.parts is None else trunk_graph(self.whole.model, self.parts, self.whole.weights)

    def entry(self) -> dict[str, Any] | None:
        """The manifest's "trunk"."""
        if self.parts is None:
            return None
        return {"file": TRUNK_FILE, "cut": self.parts.cut.name, "features": list(self.parts.top.input_shape)}


def halves(learned: MetaModel, cut: Cut | None) -> Halves:
    """The network of `learned` at a cut below which nothing adapts."""
    if cut is None:
        return Halves(learned, None, learned)
    parts = split(learned.model, cut)
    above = parts.above(learned.weights)
    rule = learned.rule.of_part(learned.weights, above)
    return Halves(learned, parts, MetaModel(parts.top, above, rule))


def highest_cut(learned: MetaModel) -> Cut | None:
    """The highest cut of a bundle's network; None: something adapts, or needs the whole batch, from the start."""
    spec = learned.model.spec
    adapted = set(learned.rule.adapted(learned.weights))
    for cut in reversed(spec.topology.cuts):
        alone = spec.normalization in PER_IMAGE or not cut.batch_statistics
        if alone and not adapted & split(learned.model, cut).trunk.names:
            return cut
    return None
