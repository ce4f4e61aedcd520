"""The update rules by name: what each decides and needs, and where it is made. No torch before one is made.

A new rule is a module here with `make(config)`, and a line in RULES: the settings' choices and checks, --help and
everything that asks what a rule does follow from it.
"""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # settings take the rules' names from here, so rules know them by type alone
    from gems_edge.meta.rules.base import Rule
    from gems_edge.meta.settings.run import TrainConfig

LAYERS, SHARES = "layers", "shares"


@dataclass(frozen=True)
class Facts:
    """What can be said of a rule without making it."""

    module: str
    moves_body: bool = True
    moves_head: bool = True
    # What it decides for each task with its perceptron: the LAYERS that a step adapts, or the SHARES of each layer's
    # weights that a task adapts, chosen at its first step.
    chooses: str = ""
    settings: tuple[str, ...] = ()  # those of the table [adapter] that it heeds
    one_model_each: bool = False  # trains a model for each distribution instead of one for all

    @property
    def needs_own_rows(self) -> bool:
        """Whether classes must differ before any step: a shared row that never moves scores them alike."""
        return not self.moves_head

    @property
    def takes_tickets(self) -> bool:
        return not self.one_model_each


RULES = {
    "maml": Facts("maml"),
    "anil": Facts("maml", moves_body=False),
    "boil": Facts("maml", moves_head=False),
    "bmp": Facts("bmp", chooses=LAYERS, settings=("no_task_feature", "rate", "mask_logit", "lr")),
    "mmsup": Facts("mmsup", chooses=SHARES, settings=("keep_share", "sparsity", "lr")),
    "multi-maml": Facts("maml", one_model_each=True),
}


def owners_of(setting: str) -> list[str]:
    """The rules that heed a setting of the table [adapter]."""
    return [name for name, facts in RULES.items() if setting in facts.settings]


def rule_of(config: "TrainConfig") -> "Rule":
    """The update rule that a run with this config trains, for a whole network, of which it sees what learns."""
    from gems_edge.meta.rules.top import OfTop

    module = importlib.import_module(f"gems_edge.meta.rules.{config.rule.module}")
    rule: Rule = module.make(config)
    cut = config.model_spec().cut if config.splits else None
    return rule if cut is None else OfTop(rule, cut)
