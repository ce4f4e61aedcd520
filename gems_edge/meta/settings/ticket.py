"""The settings of a ticket (KDD'22): the table [ticket] of config.toml."""

from dataclasses import dataclass

from gems_edge.errors import UserError
from gems_edge.meta.settings.base import check_settings, setting
from gems_edge.models.ticket import UNITS


@dataclass(frozen=True)
class TicketMethod:
    """What a way of finding tickets needs and allows. The function that finds them has its name (tickets/find.py)."""

    from_trained: bool = False  # the masks are cut from a network that was trained to the end
    settles: bool = False  # the masks are cut when the first layer's mask stops changing in training
    ranked: bool = False  # weights are ranked by a score, so --scope applies
    smart_ratios: bool = False  # how much of a layer stays depends on the ratio alone
    start: str = "first"  # the weights to train: first (θ0), rewound (θ_k of --rewind) or fresh (drawn anew)
    units: tuple[str, ...] = ("weight",)


TICKETS = {
    "mwt": TicketMethod(from_trained=True, ranked=True, start="rewound", units=UNITS),
    "rr": TicketMethod(from_trained=True, ranked=True, start="fresh"),
    "rm": TicketMethod(),
    "sr": TicketMethod(smart_ratios=True),
    "snip": TicketMethod(ranked=True),
    "untrained": TicketMethod(ranked=True),
    "omt": TicketMethod(from_trained=True, ranked=True),
    "pm": TicketMethod(from_trained=True, ranked=True),
    "pmt": TicketMethod(settles=True, smart_ratios=True, units=UNITS),
}
FROM_TRAINED = tuple(name for name, method in TICKETS.items() if method.from_trained)


@dataclass(frozen=True)
class TicketConfig:
    method: str = setting(
        "none",
        "Train a sparse network: a meta winning ticket (mwt, pmt) or a baseline.",
        ("none", *TICKETS),
        name="ticket",
    )
    ratio: float = setting(0.8, "Share of weights that the ticket removes.", least=0)
    unit: str = setting("weight", "What is removed: single weights, or whole channels (then physically).", UNITS)
    scope: str = setting("global", "Magnitudes are ranked over all layers, or inside each.", ("global", "layer"))
    rounds: int = setting(1, "Train-and-prune rounds of mwt, rr, omt, pm; 1 prunes at once.", least=1, most=1000)
    rewind: int = setting(0, "Iteration whose weights the ticket starts from (mwt).", least=0)
    dense_run: str = setting("", "Finished dense run to take trained weights from, instead of training one (mwt, …).")
    interval: int = setting(500, "pmt looks at the first layer every so many iterations (γ).", least=1)
    queue: int = setting(5, "pmt remembers so many overlaps (l).", least=1, most=100_000)
    delta: float = setting(0.95, "pmt stops when remembered overlaps exceed this (δ).", least=0)
    stable: str = setting("any", "Which of them: any one (Algorithm 2), or all of a full queue.", ("any", "all"))
    secondary: str = setting(
        "random",
        "pmt's masks behind the first layer: random, or the largest weights of the moment.",
        ("random", "magnitude"),
    )
    head_keep: float = setting(
        0.3, "Share of the head that smart ratios keep (at most 3 times the overall share).", least=0
    )
    snip_episodes: int = setting(40, "Episodes over which snip sums its gradients.", least=1, most=1_000_000)
    round_to: int = setting(16, "Widths of a channel ticket are multiples of this.", least=1, most=1024)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.ratio >= 1:
            raise UserError(f"--ratio {self.ratio:g}: give the share of weights to remove, 0 (none) up to below 1")
        if self.delta >= 1:
            raise UserError(f"--delta {self.delta:g} can never be exceeded by an overlap; give less than 1")
        if self.head_keep > 1:
            raise UserError(f"--head-keep {self.head_keep:g} is a share; give 1 or less")
        if self.method != "none":
            self._check_method(TICKETS[self.method])

    def _check_method(self, method: TicketMethod) -> None:
        """UserError for a setting that this method has no use for."""
        if self.unit not in method.units:
            names = " and ".join(name for name, other in TICKETS.items() if self.unit in other.units)
            raise UserError(f"--unit {self.unit} works with {names}, not with {self.method}")
        if self.rewind and method.start != "rewound":
            names = " or ".join(name for name, other in TICKETS.items() if other.start == "rewound")
            raise UserError(f"--rewind is for --ticket {names}; {self.method} starts from {method.start} weights")
        if (self.rounds > 1 or self.dense_run) and not method.from_trained:
            raise UserError(
                f"--rounds and --dense-run are for {', '.join(FROM_TRAINED)}: {self.method} trains no dense network"
            )
        if self.rounds > 1 and self.dense_run:
            raise UserError("--dense-run has the weights of one round; leave it out with --rounds above 1")
        if self.rounds > 1 and self.unit == "channel":
            raise UserError("--unit channel prunes at once; leave out --rounds")
