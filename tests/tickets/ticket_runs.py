"""The tiny trainings that the tests of tickets share, and how they look at them."""

import math

from small_settings import SMALL

from gems_edge.meta.run import Run
from gems_edge.meta.settings.ticket import TICKETS
from gems_edge.models.ticket import load_ticket

ITERATIONS, RATIO = 12, 0.8
TINY = (
    *SMALL, "--widths", "16", "--head", "per-class", "--meta-batch", "2", "--queries", "3",
    "--iterations", ITERATIONS, "--validate-every", ITERATIONS, "--validation-episodes", "4", "--keep", "every:4",
)  # fmt: skip
PMT = ("--ticket", "pmt", "--interval", "4")
CHANNEL = ("--unit", "channel", "--ratio", "0.6", "--round-to", "2")
# Large outer steps, so that masks change within a few iterations.
FAST = ("--lr", "0.05")
# A threshold that one changed position misses: the first layer's mask never settles.
UNSETTLED = (*PMT, *FAST, "--delta", "0.999")

FIRST = "backbone.blocks.0.conv.weight"
SIZES = {FIRST: 144, **{f"backbone.blocks.{n}.conv.weight": 2304 for n in (1, 2, 3)}, "head.weight": 80}
TOTAL = sum(SIZES.values())

# The trainings that the tests share: one of every method, and variants. DENSE stands for the dense run's directory.
DENSE = "DENSE"
OPTIONS = {
    "dense": (),
    **{
        name: ("--ticket", name, *(("--dense-run", DENSE) if method.from_trained else ()))
        for name, method in TICKETS.items()
    },
    "mwt": ("--ticket", "mwt"),
    "snip": ("--ticket", "snip", "--snip-episodes", "5"),
    "pmt": PMT,
    "mwt-dense": ("--ticket", "mwt", "--dense-run", DENSE),
    "layer": ("--ticket", "mwt", "--scope", "layer", "--dense-run", DENSE),
    "rewound": ("--ticket", "mwt", "--rewind", "4"),
    "rewound-dense": ("--ticket", "mwt", "--rewind", "4", "--dense-run", DENSE),
    "rounds": ("--ticket", "mwt", "--rounds", "2"),
    "rr-rounds": ("--ticket", "rr", "--rounds", "2"),
    "unsettled": UNSETTLED,
    "magnitude": (*PMT, "--secondary", "magnitude"),
    "channel-mwt": ("--ticket", "mwt", *CHANNEL, *FAST),
    "channel-rewound": ("--ticket", "mwt", *CHANNEL, "--rewind", "4", "--dense-run", DENSE),
    "channel-pmt": (*PMT, *CHANNEL, *FAST, "--delta", "0.1"),
}
CHANNEL_RUNS = ("channel-mwt", "channel-rewound", "channel-pmt")


def ticket_of(run: Run):
    return load_ticket(run.ticket_path)


def counts(masks) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks.items()}


def overlap_is_chance(drawn, mask) -> bool:
    """Whether `drawn`, of as many positions as `mask`, shares at most six standard deviations over chance with it."""
    kept = mask.mean()
    return drawn[mask].mean() < kept + 6 * math.sqrt(kept * (1 - kept) / mask.sum())


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(bool((one[name] == other[name]).all()) for name in one)


def overlaps_logged(search: Run) -> list:
    watched = [line for line in search.metrics() if line["kind"] == "watch"]
    return [[line["iteration"], round(line["overlap"], 6)] for line in watched if "overlap" in line]
