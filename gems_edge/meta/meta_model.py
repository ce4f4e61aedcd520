"""A network with what it learned and how it adapts, whole and above its cut."""

from dataclasses import dataclass

from gems_edge.meta.rules.base import Rule
from gems_edge.models.cuts import Cut
from gems_edge.models.fewshot import FewShotModel, Weights
from gems_edge.models.split import Split, split


@dataclass(frozen=True)
class MetaModel:
    """A network with its meta-learned weights (φ among them) and the rule that adapts them."""

    model: FewShotModel
    weights: Weights
    rule: Rule


@dataclass(frozen=True)
class Halves:
    """A network cut in two, or whole."""

    whole: MetaModel
    parts: Split | None  # None: it has no trunk
    learned: MetaModel  # the top, with the rule for its weights alone; without a trunk the whole

    @property
    def below(self) -> Weights:
        """The trunk's weights."""
        return {} if self.parts is None else self.parts.below(self.whole.weights)


def halves(learned: MetaModel, cut: Cut | None) -> Halves:
    """The network of `learned` at a cut below which nothing adapts."""
    if cut is None:
        return Halves(learned, None, learned)
    parts = split(learned.model, cut)
    above = parts.above(learned.weights)
    return Halves(learned, parts, MetaModel(parts.top, above, learned.rule.of_part(learned.weights, above)))
