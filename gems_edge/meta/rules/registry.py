"""From a run's config to its update rule."""

from gems_edge.meta.rules.base import Rule, UpdateRule
from gems_edge.meta.rules.bmp import BMP
from gems_edge.meta.rules.mmsup import MMSUP
from gems_edge.meta.settings.run import TrainConfig


def rule_of(config: TrainConfig) -> Rule:
    """The update rule that a run with this config trains."""
    adapter = config.adapter
    if config.method == "bmp":
        return BMP(config.inner_lr, not adapter.no_task_feature, adapter.rate == "layer", adapter.mask_logit)
    if config.method == "mmsup":
        return MMSUP(config.inner_lr, adapter.keep_share, adapter.keep)
    return UpdateRule(config.method, config.inner_lr)
