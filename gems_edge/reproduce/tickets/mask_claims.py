"""The claims of KDD'22 about masks of several tickets of one network (figures 6, 7, 9 and 15). numpy only."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from gems_edge.reproduce import verdicts
from gems_edge.reproduce.claims import claim_of
from gems_edge.reproduce.pooling import spread
from gems_edge.reproduce.tickets.paper import QUOTES
from gems_edge.reproduce.tickets.protocol import TicketSetup
from gems_edge.reproduce.verdicts import FAILS, HOLDS, OPEN, SIDES, Claim, Finding


def ratios_claim(setup: TicketSetup, groups: Mapping[float, Sequence[Mapping[str, float]]]) -> Claim:
    """Figure 6. `groups`: ratio → analysis.layer_ratios of each ticket."""
    findings = []
    for ratio, tickets in groups.items():
        if len(tickets) < 2:
            findings.append(verdicts.not_done(verdicts.percent(ratio), "fewer than two tickets"))
            continue
        spans = {name: max(t[name] for t in tickets) - min(t[name] for t in tickets) for name in tickets[0]}
        name = max(spans, key=spans.__getitem__)
        text = f"at most {100 * spans[name]:.2f} points apart ({_layer(name)})"
        data = {"apart": spans[name], "layer": name, "tickets": len(tickets)}
        findings.append(Finding(verdicts.percent(ratio), text, HOLDS if spans[name] <= 0.02 else FAILS, data))
    text = "Tickets of one network: the share removed of each layer differs by at most 2 points"
    return claim_of(QUOTES, "layer-ratios", text, setup, findings)


def overlap_claim(
    setup: TicketSetup, panels: Mapping[float, Mapping[str, Sequence[float]]], kept: Mapping[float, Mapping[str, float]]
) -> Claim:
    """Figures 7 and 15. `panels`: ratio → analysis.overlap; `kept`: ratio → share of each layer that the tickets keep.

    G random masks that keep the share k have k^(G−1) in common; that is chance.
    """
    findings = []
    for ratio, layers in panels.items():
        (first, shares), *others = layers.items()
        count = len(shares)
        if ratio < 0.6 or count < 2:
            continue
        excess = {name: values[-1] - kept[ratio][name] ** (count - 1) for name, values in layers.items()}
        worst = max((name for name, _ in others), key=excess.__getitem__)
        chance = {name: kept[ratio][name] ** (count - 1) for name in (first, worst)}
        holds = shares[-1] >= 0.4 and excess[first] > 0.05 and excess[worst] <= 0.05
        text = (
            f"O_{count}: first layer {shares[-1]:.1%} (chance {chance[first]:.1%}), {_layer(worst)} "
            f"{layers[worst][-1]:.1%} (chance {chance[worst]:.1%})"
        )
        data = {"tickets": count, "first": shares[-1], "first_chance": chance[first], "other": layers[worst][-1],
                "other_chance": chance[worst], "other_layer": worst}  # fmt: skip
        findings.append(Finding(verdicts.percent(ratio), text, HOLDS if holds else FAILS, data))
    text = (
        "From 60 % on all tickets share at least 40 % of the first layer's mask, more than chance; every other layer's "
        "share is at most 5 points above chance"
    )
    return claim_of(QUOTES, "overlap", text, setup, findings)


def emergence_claim(setup: TicketSetup, runs: Mapping[float, Sequence[Sequence[tuple[int, float]]]]) -> Claim:
    """Figure 9. `runs`: ratio → analysis.emergence of each ticket's training."""
    findings = []
    for ratio, curves in runs.items():
        settled = spread(min(1.0, since(curve, 0.9) / setup.config.iterations) for curve in curves)
        if settled is None:
            findings.append(verdicts.not_done(verdicts.percent(ratio)))
            continue
        verdict, reason = verdicts.at_most(settled, 0.1), SIDES
        text, data = verdicts.spread_text(settled, "{:.1%}"), settled.as_dict()
        untrained = spread(dict(curve).get(0) for curve in curves)  # None if the untrained weights were not kept
        if untrained:
            text += f" of the run; untrained weights have {verdicts.spread_text(untrained, '{:.1%}')} of it"
            data["untrained"] = untrained.mean
            if verdict == HOLDS and untrained.low >= 0.9:
                verdict, reason = OPEN, "the untrained weights have it already"
        findings.append(Finding(verdicts.percent(ratio), text, verdict, data, reason))
    text = "90 % of the primary mask is there, and stays, from 10 % of the run on"
    return claim_of(QUOTES, "emergence", text, setup, findings)


def since(curve: Iterable[tuple[int, float]], level: float) -> float:
    """The iteration from which the share never falls below `level` again; infinite if the last one does."""
    curve = sorted(curve)
    below_level = np.array([share < level for _, share in curve])
    first = int(np.flatnonzero(below_level)[-1]) + 1 if below_level.any() else 0
    return curve[first][0] if first < len(curve) else np.inf


def _layer(name: str) -> str:
    return name.removeprefix("backbone.").removesuffix(".weight")
