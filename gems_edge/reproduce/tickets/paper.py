"""What KDD'22 (Gao et al., Finding Meta Winning Ticket to Train Your MAML) prints: Tables 2 and 3, its claims in words.

Everything stands as printed, contradictions included; NOTES names those. Costs are in 10¹⁵ FLOPs by the paper's own
book (tickets/flops.py, book "paper").
"""

from collections.abc import Mapping
from typing import NamedTuple

from gems_edge.reproduce.claims import quotes_of
from gems_edge.reproduce.verdicts import FAILS, HOLDS

RATIOS = (0.6, 0.8, 0.9)


class Costs(NamedTuple):
    mwt: float
    pmt: float
    factor: float


def _costs(printed: str) -> dict[str, dict[float, dict[str, Costs]]]:
    """Row → ratio → costs, named as in results.COSTS. From lines of a name, finding with MWT, with PMT (cost and
    factor at each ratio), and finding and training (MWT, PMT and factor at each ratio)."""
    table = {}
    for line in printed.strip().splitlines():
        name, find_mwt, *rest = line.split()
        find, total = iter(map(float, rest[:6])), iter(map(float, rest[6:]))
        costs = zip(RATIOS, zip(find, find), zip(total, total, total), strict=True)
        table[name] = {
            ratio: {"paper.find": Costs(float(find_mwt), *finding), "paper.total": Costs(*whole)}
            for ratio, finding, whole in costs
        }
    return table


# table → row → ratio → what it prints.
TABLES: Mapping[int, Mapping[str, Mapping[float, Mapping[str, Costs]]]] = {
    2: _costs("""
MAML/mini/1-shot    0.78  0.05 16.67   0.06 13.33   0.06  13.3    1.14  0.41 2.78    1.24  0.52 2.37    1.24  0.52 2.39
ANIL/mini/1-shot    1.94  0.20  9.52   0.28  7.02   0.28  7.02    2.93  1.20 2.46    3.23  1.56 2.07    3.23  1.57 2.06
BOIL/mini/1-shot    0.39  0.04    10   0.05  7.69   0.05  7.69    0.58  0.23 2.55    0.63  0.29 2.16    0.62  0.28 2.19
MAML/tiered/1-shot  0.78  0.06 13.33   0.08  9.41   0.08  9.41    1.13  0.41 2.76    1.23  0.53  2.3    1.20  0.51 2.36
MAML/mini/5-shot    3.89  0.27 14.29   0.32 12.31   0.32 12.31    5.71  2.09 2.73    6.22  2.65 2.35    6.20  2.65 2.34
    """),
    3: _costs("""
MAML/mini/1-shot   20.08  3.26  6.15   3.76  5.33   4.14  4.85   30.62 13.80 2.22   33.73 17.42 1.94   34.13 18.19 1.88
ANIL/mini/1-shot   50.19 13.80  3.64  14.43  3.48  15.18  3.31   78.05 41.66 1.87   79.30 43.54 1.82   78.30 43.29 1.81
BOIL/mini/1-shot   10.04  2.51     4   2.66  3.78   2.86  3.51   15.46  7.93 1.95   16.06  8.88 1.81   16.46  9.29 1.77
MAML/tiered/1-shot 20.08  3.51  5.71   3.89  5.16   4.64  4.32   31.37 14.81 2.12   33.53 14.34 1.93   33.13 17.69 1.87
MAML/mini/5-shot  100.38 21.33  4.71  22.59  4.44  26.98  3.72  154.21 75.16 2.05  165.13 88.34 1.87  162.12 88.71 1.82
    """),
}

# Where the printed figures contradict each other.
NOTES: Mapping[int, tuple[str, ...]] = {
    2: (
        "Section 1 gives 2.07 to 2.78 for the whole training; the table's least is 2.06 (ANIL, 90 %), and "
        "section 5.3 says 2.06 to 2.39.",
        "Factors of finding are the paper's own, of costs before they were rounded to two digits: 0.78/0.05 is 15.6, "
        "not 16.67.",
    ),
    3: (
        "MAML/tiered at 80 %: PMT 14.34 contradicts its own factor 1.93 (33.53/1.93 = 17.37, so 17.34 was meant?).",
        "Section 1 gives 3.51 to 6.15 for finding and 1.77 to 1.94 for the whole training; the table's least factor of "
        "finding is 3.31 (ANIL, 90 %) and its greatest of the whole training 2.22 (MAML/mini/1-shot, 60 %).",
    ),
}


QUOTES = quotes_of("""
mwt-dense | section 3.2 | MWT is able to identify tickets with 80% of weights pruned, while incurring a few-shot
    accuracy drop within 3% across backbones, datasets, and few-shot settings. […] at pruning ratio 80% with Conv-4,
    miniImageNet and 5-way 1-shot settings, MWT only incurs 1% drop in accuracy
rr-mwt | section 3.2 | At the same pruning ratios, the tickets found by RR incur an accuracy drop of 4%
rm-mwt | section 3.2 | and those found by RM introduce an accuracy drop of 5%
rm-rr | section 3.2 | RM performs notably worse than RR
pmt-mwt | section 5.2 | Compared with MWT (the upper bound), PMT incurs at most 1% drop in accuracy at the same
    pruning ratios. […] [ResNet-12:] The accuracy drop of PMT compared to MWT is within 2%
pmt-baselines | section 5.2 | when the pruning ratio is increased from 60% to 98%, PMT outperforms RM, SR, and SNIP
    in few-shot classification accuracy
settles | section 4.3 | Over 90% mask locations of the primary masks are fixed within 3,000 iterations for Conv-4,
    and 7,500 training iterations for ResNet-12. […] only 4%-9% of total iterations
find-cost | section 1 | PMT accelerates meta winning ticket finding by 7.02 to 16.67 × on Conv-4, and 3.51 to 6.15 ×
    on ResNet-12
total-cost | section 1 | It also reduces the computation overhead of meta-training a sparse network by 2.07 to 2.78
    × on Conv-4 and 1.77 to 1.94 × on ResNet-12
iterative | section 3.1, figure 1 | For both Conv-4 and ResNet-12, iterative pruning and one-shot pruning yield
    similar performances. However, the computation cost of iterative pruning is nearly 7 times that of one-shot
    pruning
global | section 3.1, figure 2 | the global pruning outperforms layer-wise pruning with all pruning ratios by about
    1%
rewind | section 3.2, figure 5 | an overly large rewind k tends to induce notable accuracy drop at all pruning
    ratios
pm-sr | section 4.2, figure 8 | PM outperforms SR, which implies the importance of primary masks
omt-sr | section 4.2, figure 8 | OMT achieves similar performance with the random ticket SR
control | – | not in the paper: a control of ours
layer-ratios | section 4.2, figure 6 | given a global pruning ratio, the per-layer pruning ratios of meta winning
    tickets are almost the same
overlap | section 4.2, figures 7 and 15 | when PR ≥ 60%, the overlapped mask locations drop to zero in the layers
    other than the first. When PR = 98%, the overlap is still 40% in the first layer
emergence | section 4.3, figure 9 | Over 90% mask locations of the primary masks are fixed within 3,000 iterations
    for Conv-4, and 7,500 training iterations for ResNet-12
""")

# What the paper says in words of a method's accuracy; its figures 3, 4, 12 and 13 have no numbers beside the curves.
ACCURACY: Mapping[str, str] = {
    "dense": "the reference",
    "mwt": "within 3 points of dense at 80 %",
    "rr": "4 points lower",
    "rm": "5 points lower",
    "sr": "below PMT from 60 % on",
    "snip": "below PMT from 60 % on",
    "pmt": "within 1 point of MWT (ResNet-12: 2)",
    "omt": "like SR",
    "pm": "above SR",
}

# What the paper is easily read as, and is not; then where its tables contradict themselves.
READINGS = (
    "The totals of Tables 2 and 3 are no cost of training: they are iterations × inner steps × 20 images × forward "
    "multiplications of the backbone, without back-propagation, queries and second-order terms, and a "
    "multiplication with its addition counts once (80,000 × 5 × 20 × 97 million is the printed 0.78 · 10¹⁵).",
    "A factor of 2 in FLOPs is none in seconds: a mask of single weights is multiplied all the same on every common "
    "processor.",
    "“Over 90 % of the primary mask within 4 to 9 % of the run” says something only beside the mask of the untrained "
    "weights, from which all tickets of one start begin.",
    *(f"Table {table}: {note}" for table, notes in NOTES.items() for note in notes),
)

# Claim → verdict → what it means for someone who trains a network for a device.
ADVICE: Mapping[str, Mapping[str, str]] = {
    "mwt-dense": {
        HOLDS: "Four fifths of the weights can go for 3 points or less, if the ticket is cut from a trained network.",
        FAILS: "Do not expect 80 % of the weights to go for 3 points: here it cost more.",
    },
    "pmt-mwt": {
        HOLDS: "The early ticket (PMT) costs at most a point over the full search: use it.",
        FAILS: "The early ticket (PMT) is clearly worse than the full search (MWT): pay for MWT where accuracy counts.",
    },
    "rr-mwt": {
        HOLDS: "A ticket's start weights matter: rewind, do not draw anew.",
        FAILS: "Start weights do not matter: a ticket's mask works as well from fresh weights.",
    },
    "rm-mwt": {
        HOLDS: "Which weights stay matters: random masks of the same size are worse.",
        FAILS: "Which weights stay does not matter: random masks are as good.",
    },
    "global": {
        HOLDS: "Rank weights over the whole network, not inside layers.",
        FAILS: "Ranking inside layers is as good as over the whole network, or better.",
    },
    "iterative": {
        HOLDS: "Prune at once: rounds of pruning bring nothing and cost a training each.",
        FAILS: "Rounds of pruning and pruning at once differ by more than a point.",
    },
    "rewind": {
        HOLDS: "Rewind to the start, not to a late iteration.",
        FAILS: "Late rewinding does no harm.",
    },
    "pm-sr": {
        HOLDS: "A trained first layer's mask is worth having, even with random masks behind it.",
        FAILS: "The first layer's mask is worth no more than a random one of smart ratios.",
    },
}
