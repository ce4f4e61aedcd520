"""A rule of what lies above a cut: it neither sees nor moves the trunk."""

from dataclasses import dataclass, replace

from torch import Tensor

from gems_edge.meta.rules.base import FrozenChoice, Move, Rule, State
from gems_edge.models.cuts import Cut
from gems_edge.models.fewshot import Weights


@dataclass(frozen=True)
class OfTop(Rule):
    """`rule` for the part of a whole network's weights that lies above `cut`; the rest stays as it is."""

    rule: Rule
    cut: Cut

    def __post_init__(self) -> None:
        for name in ("name", "inner_lr", "head_lr", "adapter"):
            object.__setattr__(self, name, getattr(self.rule, name))

    @property
    def carried(self) -> tuple[str, ...]:
        return self.rule.carried

    @property
    def picks_weights(self) -> bool:
        return self.rule.picks_weights

    def rate(self, name: str) -> float:
        return self.rule.rate(name)

    def scaled(self, factor: float) -> "OfTop":
        return replace(self, rule=self.rule.scaled(factor))

    def initial(self, weights: Weights, feature_channels: int) -> Weights:
        return self.rule.initial(self.cut.above(weights), feature_channels)

    def adapted(self, weights: Weights) -> tuple[str, ...]:
        return self.rule.adapted(self.cut.above(weights))

    def of_part(self, weights: Weights, part: Weights) -> Rule:
        return self.rule.of_part(self.cut.above(weights), part)

    def begin(self, weights: Weights) -> State:
        return self.rule.begin(self.cut.above(weights))

    def update(self, weights: Weights, gradients: Weights, features: Tensor, state: State) -> Move:
        move = self.rule.update(self.cut.above(weights), gradients, features, state)
        return replace(move, weights=weights | move.weights)

    def decisions(self, weights: Weights) -> dict[str, int]:
        return self.rule.decisions(self.cut.above(weights))

    def frozen(self, weights: Weights, choices: dict[str, Tensor]) -> FrozenChoice:
        choice = self.rule.frozen(self.cut.above(weights), choices)
        return replace(choice, rule=OfTop(choice.rule, self.cut))

    def subnet(self, state: State) -> Weights:
        return self.rule.subnet(state)
