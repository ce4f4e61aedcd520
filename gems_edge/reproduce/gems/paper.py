"""What GEMS (Pimpalkhute et al., WACV 2023) prints: Tables 1 to 5, and its claims in words.

Everything stands as printed, contradictions included; NOTES names those. Accuracies are shares, 5-way 1-shot, Conv-4.
The unit of the times is not given.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gems_edge.reproduce.claims import quotes_of
from gems_edge.reproduce.verdicts import FAILS, HOLDS

CUB, VGG, FUNGI, AIRCRAFT = "cub200", "vgg102", "fungi", "aircraft"
# The columns of Tables 1 and 2.
METHODS = ("maml", "multi-maml", "bmp", "mmsup")


@dataclass(frozen=True)
class Printed:
    """An accuracy as printed: the mean over 3 seeds, and what stands behind its ± (0: nothing)."""

    accuracy: float
    spread: float = 0.0


@dataclass(frozen=True)
class Trained:
    """One training of Tables 1 and 2, all four methods."""

    mixture: tuple[str, ...]
    seen: Mapping[str, Mapping[str, Printed]]  # method → set → accuracy (Table 1)
    time: Mapping[str, float]  # method → time (Table 1)
    unseen: Mapping[str, Mapping[str, Printed]]  # method → set → accuracy (Table 2), empty where it has no row

    def is_on(self, sets: Sequence[str]) -> bool:
        return set(self.mixture) == set(sets)


def _trainings(printed: str) -> Iterator[Trained]:
    """From a line with a training's time and one for each distribution, a column for each of METHODS."""
    for block in printed.split("time")[1:]:
        (mixture, *times), *lines = (line.split() for line in block.strip().splitlines())
        seen: dict[str, dict[str, Printed]] = {method: {} for method in METHODS}
        unseen: dict[str, dict[str, Printed]] = {method: {} for method in METHODS}
        for kind, name, *entries in lines:
            for method, entry in zip(METHODS, entries, strict=True):
                (seen if kind == "seen" else unseen)[method][name] = Printed(*map(float, entry.split("±")))
        time = dict(zip(METHODS, map(float, times), strict=True))
        yield Trained(tuple(mixture.split("+")), seen, time, unseen)


TRAININGS = tuple(
    _trainings("""
    time    cub200+vgg102                6.58         11.57        6.63         7.17
    seen    cub200                       0.506±0.008  0.533±0.011  0.563±0.006  0.524±0.028
    seen    vgg102                       0.703±0.009  0.719±0.011  0.751±0.005  0.723±0.022
    unseen  fungi                        0.410        0.361        0.411        0.388
    unseen  aircraft                     0.269        0.277        0.307        0.291
    time    cub200+fungi                 6.33         13.58        7.46         7.79
    seen    cub200                       0.487±0.016  0.533±0.011  0.522±0.028  0.525±0.022
    seen    fungi                        0.392±0.014  0.424±0.006  0.421±0.034  0.425±0.005
    unseen  vgg102                       0.603        0.638        0.684        0.611
    unseen  aircraft                     0.268        0.277        0.294        0.306
    time    cub200+vgg102+fungi          7.02         19.06        6.52         7.35
    seen    cub200                       0.483±0.015  0.533±0.011  0.543±0.002  0.517±0.027
    seen    vgg102                       0.691±0.011  0.719±0.011  0.733±0.015  0.691±0.017
    seen    fungi                        0.405±0.006  0.424±0.006  0.441±0.004  0.403±0.003
    time    cub200+vgg102+fungi+aircraft 5.59         28.49        7.72         8.23
    seen    cub200                       0.479±0.010  0.533±0.011  0.517±0.011  0.487±0.018
    seen    vgg102                       0.677±0.011  0.719±0.011  0.649±0.005  0.689±0.019
    seen    fungi                        0.398±0.004  0.424±0.006  0.423±0.013  0.380±0.006
    seen    aircraft                     0.283±0.004  0.400±0.010  0.402±0.025  0.349±0.012
""")
)

# Tables 3 to 5 vary one training, on these; Table 5 is tested on the first.
ABLATION = (VGG, CUB)
ABLATED = TRAININGS[0]
# Table 3: sparsity → accuracies.
SPARSITY: Mapping[float, Sequence[float]] = {
    0.1: (0.669, 0.509), 0.2: (0.676, 0.502), 0.3: (0.676, 0.520), 0.4: (0.681, 0.515), 0.5: (0.671, 0.509),
    0.6: (0.681, 0.512), 0.7: (0.665, 0.501), 0.8: (0.652, 0.499), 0.9: (0.653, 0.475),
}  # fmt: skip
# Table 4: n of Sn → accuracies.
DEPTH: Mapping[int, Sequence[float]] = {
    1: (0.671, 0.491), 2: (0.672, 0.496), 3: (0.678, 0.488), 4: (0.679, 0.494), 5: (0.706, 0.515), 6: (0.666, 0.503),
    7: (0.664, 0.503), 8: (0.671, 0.504),
}  # fmt: skip
# Table 5, tested on VGG102: method → inner steps → accuracy.
STEPS: Mapping[str, Mapping[int, float]] = {
    "bmp": {1: 0.774, 2: 0.764, 3: 0.755, 4: 0.746, 5: 0.739},
    "mmsup": {1: 0.734, 2: 0.722, 3: 0.703, 4: 0.689, 5: 0.723},
}

# What is damaged or undefined in the printed tables, and where they contradict each other or the text.
NOTES: Mapping[int, tuple[str, ...]] = {
    1: (
        "The paper gives no unit of its times. With four distributions those of MAML and Multi-MAML, 5.59 and 28.49, "
        "are our reading of damaged characters.",
        "Section 4.1 says that the training time of BMP and MMSUP is higher than Multi-MAML's; its table says the "
        "opposite.",
        "With four distributions BMP is below MAML on VGG102 (0.649, 0.677) and MMSUP on Fungi (0.380, 0.398); with "
        "two, Multi-MAML takes 1.75 times as long as BMP, not twice.",
    ),
    2: (
        "The columns of all rows but the first are our reading: the table's cells lie apart from their rows in the "
        "text.",
        "Section 4.1 has BMP and MMSUP above MAML; on Fungi MMSUP is below (0.388, 0.410).",
        "How one accuracy comes from Multi-MAML's several models on a distribution that none was trained on is not "
        "said. Here: each is tested by itself, and the mean is taken.",
    ),
    3: ("The paper says that the fixed sparsity is that of all layers, the head included.",),
    4: (
        "The paper defines neither S1 to S8 nor how sparse a layer is; Conv-4 has five layers with its head. Our "
        "reading: Sn is the n-th layer, with a sparsity of 0.9 there and 0 in all others.",
    ),
    5: (
        "Section 4.3 has BMP and MMSUP above MAML's five steps at any number of steps; MAML has 0.703 on VGG102 in "
        "Table 1, and MMSUP has 0.703 with three steps and 0.689 with four.",
        "With five steps BMP has 0.739 here and 0.751 in Table 1.",
    ),
}

QUOTES = quotes_of("""
bmp-maml | section 4.1, table 1 | BMP and MMSUP outperform base-MAML in terms of accuracy, or achieve a comparable
    accuracy
bmp-five | table 1 | [CUB200 + VGG102: CUB200 0.506 → 0.563, VGG102 0.703 → 0.751]
control | – | not in the paper: a control of ours
mmsup-between | section 1 | MAML (Acc.) ≤ GEMS (Acc.) ≤ MULTI-MAML (Acc.)
time | abstract | a speed-up of ∼ 2× to 4× in the training time
cross | section 4.1, table 2 | Both BMP and MMSUP achieve a better accuracy than MAML
sparsity-learned | section 4.1, table 3 | varying the sparsity in MMSUP gives a relatively better results as
    compared to keeping sparsity fixed
sparsity-falls | section 4.4, table 3 | as sparsity increases, the accuracy and training time both decrease
steps | section 4.3, table 5 | performance of BMP improves as adaptation steps decrease
steps-maml | section 4.3, table 5 | regardless of the number of adaptation steps, both BMP and MMSUP outperform the
    accuracy of MAML algorithm trained on 5 adaptation steps
""")

# Where the tables are damaged, contradict themselves, or are easily read wrongly.
READINGS = tuple(f"Table {table}: {note}" for table, notes in NOTES.items() for note in notes)

# Claim → verdict → what it means for someone who has several kinds of images.
ADVICE: Mapping[str, Mapping[str, str]] = {
    "bmp-maml": {
        HOLDS: "BMP is never worse than MAML on images that it was trained on.",
        FAILS: "On some kind of images BMP is worse than MAML: measure before you choose it.",
    },
    "mmsup-between": {
        HOLDS: "MMSUP lies between one MAML for all and a MAML for each kind of images.",
        FAILS: "MMSUP does not lie between one MAML for all and a MAML for each kind of images.",
    },
    "cross": {
        HOLDS: "On kinds of images that were not trained, BMP and MMSUP are better than MAML.",
        FAILS: "On kinds of images that were not trained, BMP and MMSUP are not both better than MAML.",
    },
    "time": {
        HOLDS: "One model for all kinds of images takes half the training time of one for each, or less.",
        FAILS: "One model for all kinds of images does not take half the training time of one for each.",
    },
    "steps": {
        HOLDS: "BMP needs no more than one inner step: fewer steps cost at most a point.",
        FAILS: "BMP with fewer inner steps loses more than a point.",
    },
    "sparsity-learned": {
        HOLDS: "Let MMSUP choose how much of a layer adapts: it is above every fixed share.",
        FAILS: "A fixed share of adapted weights is as good as MMSUP's own, or better.",
    },
}


def training_on(sets: Sequence[str]) -> Trained | None:
    """The paper's training on these distributions; else its first on as many, else None."""
    same = [trained for trained in TRAININGS if trained.is_on(sets)]
    as_many = [trained for trained in TRAININGS if len(trained.mixture) == len(sets)]
    return next(iter(same or as_many), None)
