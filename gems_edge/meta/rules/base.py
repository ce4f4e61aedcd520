"""Update rules: what one inner step moves, and how. A rule is data plugged into `inner_step`."""

from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

from torch import Tensor

from gems_edge.device.bundle import HEAD
from gems_edge.models.fewshot import Weights, movable

# What a rule remembers of one task from step to step, by name. The start values depend on the meta-weights alone.
State = dict[str, Tensor]


@dataclass(frozen=True)
class Move:
    weights: Weights  # after the step
    state: State = field(default_factory=dict)  # for the next step
    # What the rule decided, detached, for logs: "mask" and "rate" (BMP), "keep" (MMSUP), each [layers] or [1].
    choice: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class FrozenChoice:
    """What a rule mostly chose for one distribution, as constants."""

    rule: "Rule"
    masks: Weights  # of a weight 1 where it adapts, else 0; what is not named adapts everywhere
    about: dict[str, Any]  # for the manifest: what was frozen, and how often the rule's own choice agrees


class Rule:
    """How a step moves the weights. Rules with meta-parameters φ find them in the weights, under names with ADAPTER.

    What is here suits a rule that moves every weight, remembers nothing and decides nothing.
    """

    name: str
    inner_lr: float
    head_lr: float = 0.0  # of the head's rows; 0: as all else
    adapter: ClassVar[str | None] = None  # where its masks, rates or kept shares come from; None: it has none

    @property
    def carried(self) -> tuple[str, ...]:
        """The entries of the state that a step changes."""
        return ()

    def rate(self, name: str) -> float:
        """The inner learning rate of a tensor, before what the rule decides of it."""
        return self.head_lr if self.head_lr and name in HEAD else self.inner_lr

    def scaled(self, factor: float) -> "Rule":
        """The rule, a dataclass, at `factor` times its rates."""
        names = {item.name for item in fields(self)} & {"inner_lr", "head_lr"}  # type: ignore[arg-type]
        rates = {name: factor * getattr(self, name) for name in names}
        return replace(self, **rates)  # type: ignore[type-var]

    def initial(self, weights: Weights, feature_channels: int) -> Weights:
        """φ at the start of meta-training, for a network of these weights; draws from torch's generator."""
        return {}

    def adapted(self, weights: Weights) -> tuple[str, ...]:
        """The names of what an inner step moves, in forward order, from a task's `weights` or from meta-weights."""
        return movable(weights)

    def of_part(self, weights: Weights, part: Weights) -> "Rule":
        """The rule that moves `part`, the upper part of `weights`, as this one moves them all; it moves nothing else.

        A rule that decides by what it sees of a network (g_φ) moves all of it, and has no such part.
        """
        return self

    def begin(self, weights: Weights) -> State:
        """The state before the first step of a task, from the meta-weights (a shared head with its one row)."""
        return {}

    def update(self, weights: Weights, gradients: Weights, features: Tensor, state: State) -> Move:
        """One step. `gradients` of the adapted weights; `features` [feature_size]: their mean over the support
        images, where every class counts alike."""
        raise NotImplementedError

    def decisions(self, weights: Weights) -> dict[str, int]:
        """The names and lengths of what a step's choice holds."""
        return {}

    @property
    def picks_weights(self) -> bool:
        """Whether a threshold that is carried picks single weights: rounded differently, it picks a few others."""
        return False

    def frozen(self, weights: Weights, choices: dict[str, Tensor]) -> FrozenChoice:
        """The majority of the `choices` of several tasks, each [tasks, steps, its length], as constants."""
        raise NotImplementedError

    def subnet(self, state: State) -> Weights:
        """Weights by name → 1 where the task's meta-gradient may move them, else 0; all others move everywhere."""
        return {}
