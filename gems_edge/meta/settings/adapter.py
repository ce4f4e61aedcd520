"""The settings of GEMS's perceptron (WACV'23): the table [adapter] of config.toml."""

from dataclasses import dataclass

from gems_edge.errors import UserError
from gems_edge.meta.settings.base import check_settings, setting


@dataclass(frozen=True)
class AdapterConfig:
    no_task_feature: bool = setting(False, "bmp: the adapter does not see the support images' features.")
    rate: str = setting(
        "task",
        "bmp: one learning rate per task and step, or one per layer too.",
        ("task", "layer"),
        name="adapter-rate",
    )
    mask_logit: float = setting(1.0, "bmp: logit of every layer's mask at the start; above 0 all layers adapt.")
    keep_share: float = setting(0.5, "mmsup: share of each layer in the subnet at the start.", least=0)
    sparsity: tuple[float, ...] = setting(
        (),
        "mmsup: learned, or a fixed share outside the subnet: one for all layers, or one per layer with commas.",
        empty="learned",
    )
    lr: float = setting(0.0, "Outer learning rate of the adapter; 0 takes --lr.", least=0, name="adapter-lr")

    def __post_init__(self) -> None:
        check_settings(self)
        if not 0 < self.keep_share < 1:
            raise UserError(f"--keep-share is {self.keep_share:g}; it must be above 0 and below 1")
        if not all(0 <= share <= 1 for share in self.sparsity):
            shares = ",".join(f"{share:g}" for share in self.sparsity)
            raise UserError(f"--sparsity {shares}: write learned, or numbers from 0 to 1 with commas")

    @property
    def keep(self) -> tuple[float, ...]:
        """Fixed kept shares, one for all layers or one per layer; none if they are learned."""
        return tuple(1 - share for share in self.sparsity)
