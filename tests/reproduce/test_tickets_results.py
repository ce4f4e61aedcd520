"""From results of cells to rows, differences, factors and verdicts, on made-up results."""

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from gems_edge.report.page import Table, render_page
from gems_edge.reproduce.page import Study
from gems_edge.reproduce.pooling import pooled
from gems_edge.reproduce.protocol import Trial
from gems_edge.reproduce.results import difference, factor, rows_of
from gems_edge.reproduce.tickets import masks, paper, plan, protocol
from gems_edge.reproduce.tickets.claims import accuracy_claims, cost_claims
from gems_edge.reproduce.tickets.page import reproduce
from gems_edge.reproduce.tickets.plan import TicketTrial
from gems_edge.reproduce.verdicts import FAILS, HOLDS, MISSING, OPEN

PRESET = protocol.with_data(protocol.SMALL, {"omniglot": "omniglot"})
SETUP = PRESET.setups[0]
LAYERS = ("backbone.blocks.0.conv.weight", "backbone.blocks.1.conv.weight", "head.weight")
EPISODES = 300


def document(trial: TicketTrial, accuracy: float, deviation: float = 0.1, found_after: int = 12) -> dict:
    """A result.json whose single episodes have this mean and standard deviation."""
    ci95 = 1.96 * deviation / math.sqrt(EPISODES)
    dense = 240.0
    find = {"dense": 0, "mwt": dense, "rr": dense, "pmt": found_after}.get(trial.method, 0)
    train = dense * (1 - trial.ratio)
    books = {name: {"find": unit * find, "train": unit * train} for name, unit in (("paper", 1), ("full", 16))}
    found = {"iterations": find, "seconds": 0.4 * find, "cpu_seconds": 0.39 * find}
    if trial.method == "pmt":
        found |= {"settled": found_after < dense, "delta": 0.98, "interval": 6, "overlaps": [[6, 0.9], [12, 0.99]]}
    if trial.method == "snip":
        found |= {"episodes": 40}
    ticket = None
    if trial.method != "dense":
        ratios = dict.fromkeys(LAYERS, trial.ratio)
        ticket = {"method": trial.method, "ratio": trial.ratio, "found": found, "layer_ratios": ratios}
    entry = {"accuracy": accuracy, "ci95": ci95, "episodes": EPISODES}
    return {
        "name": trial.name, "accuracy": {"support": entry | {"accuracy": accuracy - 0.02}, "transductive": entry},
        "normalization": "transductive", "training": {"iterations": 240, "seconds": 90.0, "cpu_seconds": 88.0},
        "flops": {name: book | {"total": book["find"] + book["train"]} for name, book in books.items()},
        "ticket": ticket,
    }  # fmt: skip


def entries(method: str, ratio: float, accuracies: list[float], **options) -> tuple[list[TicketTrial], dict]:
    """The trials and results of one row, a training per accuracy."""
    variant = {key: options.pop(key) for key in ("variant",) if key in options}
    trials = [Trial(SETUP, method, seed, ratio, **variant) for seed in range(1, len(accuracies) + 1)]
    return trials, {trial.name: document(trial, value, **options) for trial, value in zip(trials, accuracies)}


def rows_from(*parts: tuple[list[TicketTrial], dict]):
    return rows_of(
        itertools.chain.from_iterable(trials for trials, _ in parts), {k: v for _, r in parts for k, v in r.items()}
    )


# --- Accuracy ---


def test_difference_is_the_wider_interval():
    scipy_stats = pytest.importorskip("scipy.stats")
    # Seeds that agree: the episodes decide.
    rows = rows_from(entries("mwt", 0.8, [0.70, 0.72, 0.74]), entries("dense", 0.0, [0.75, 0.77, 0.79]))
    found = difference(rows[0], rows[1])
    assert found.mean == pytest.approx(-0.05) and found.low == pytest.approx(found.high)
    own, theirs = (pooled([d["accuracy"]["transductive"] for d in row.done.values()]).ci95 for row in rows)
    assert found.half == pytest.approx(math.hypot(own, theirs))
    # Seeds that do not: the trainings decide.
    wide = rows_from(entries("mwt", 0.8, [0.60, 0.72, 0.74]), entries("dense", 0.0, [0.75, 0.77, 0.71]))
    found, gaps = difference(wide[0], wide[1]), np.array([-0.15, -0.05, 0.03])
    low, high = scipy_stats.t.interval(0.95, 2, gaps.mean(), gaps.std(ddof=1) / math.sqrt(3))
    assert (found.mean - found.half, found.mean + found.half) == (pytest.approx(low, 1e-4), pytest.approx(high, 1e-4))
    assert (found.low, found.high, found.trainings) == (pytest.approx(-0.15), pytest.approx(0.03), 3)


def test_difference_takes_common_seeds_only():
    trials, results = entries("mwt", 0.8, [0.5, 0.6, 0.7])
    dense = entries("dense", 0.0, [0.9, 0.8, 0.7])
    del results[trials[0].name]
    found = difference(*rows_from((trials, results), dense))
    assert found.trainings == 2 and found.mean == pytest.approx(-0.1)
    assert difference(*rows_from((trials, {}), dense)) is None
    one = difference(*rows_from((trials, {trials[1].name: results[trials[1].name]}), dense))
    assert one.trainings == 1 and math.isinf(one.half)
    json.dumps(one.as_dict(), allow_nan=False)


def test_rows():
    trials, results = entries("mwt", 0.8, [0.7, 0.8])
    del results[trials[1].name]
    rows = rows_of([*trials, *trials, *entries("snip", 0.8, [0.6])[0]], results | entries("snip", 0.8, [0.6])[1])
    assert [(row.method, row.wanted, list(row.done)) for row in rows] == [("mwt", (1, 2), [1]), ("snip", (1,), [1])]
    assert rows[0].mode == "transductive" and set(rows[0].modes) == {"transductive", "support"}
    assert rows[0].accuracy(mode="support").accuracy == pytest.approx(0.68)
    assert rows[0].cost("find.iterations").mean == 240
    assert rows[1].cost("find.seconds") is None  # SNIP's gradients are not timed
    assert rows.find(SETUP, "mwt", 0.8) is rows[0] and rows.find(SETUP, "mwt", 0.9) is None


def test_factor_is_of_sums_and_of_single_seeds():
    slow, quick = entries("pmt", 0.8, [0.7], found_after=24), entries("pmt", 0.8, [0.7], found_after=12)
    trials = [Trial(SETUP, "pmt", seed, 0.8) for seed in (1, 2)]
    tickets = {trials[0].name: next(iter(slow[1].values())), trials[1].name: next(iter(quick[1].values()))}
    rows = rows_from((trials, tickets), entries("mwt", 0.8, [0.7, 0.7]))
    found = factor(rows[1], rows[0], "paper.find")
    assert (found.low, found.high) == (10, 20)
    assert found.mean == pytest.approx(480 / 36)  # and not 15, the mean of the factors
    assert factor(None, rows[0], "paper.find") is None


# --- Verdicts ---


def claim_of(claims, key):
    (found,) = [claim for claim in claims if claim.key == key]
    return found


def test_accuracy_claims():
    dense = entries("dense", 0.0, [0.90, 0.91, 0.92])
    good, bad = entries("mwt", 0.8, [0.89, 0.90, 0.91]), entries("mwt", 0.8, [0.80, 0.81, 0.82])
    near = entries("mwt", 0.8, [0.87, 0.88, 0.89])
    for mwt, verdict in ((good, HOLDS), (bad, FAILS), (near, OPEN)):
        claim = claim_of(accuracy_claims(rows_from(mwt, dense)), "mwt-dense")
        assert (claim.verdict, len(claim.findings)) == (verdict, 1)
    assert claim.explained == "not decided: the interval has the bound in it"
    assert claim.quote is paper.QUOTES["mwt-dense"]
    one = claim_of(accuracy_claims(rows_from(entries("mwt", 0.8, [0.5]), entries("dense", 0.0, [0.9]))), "mwt-dense")
    assert one.explained == "not decided: one training each"
    trials, results = entries("mwt", 0.8, [0.5, 0.5, 0.5])
    del results[trials[2].name]
    part = claim_of(accuracy_claims(rows_from((trials, results), dense)), "mwt-dense")
    assert part.verdict == MISSING and part.findings[0].text.endswith("[2 of 3 seeds]")
    undone = claim_of(accuracy_claims(rows_from((good[0], {}), dense)), "mwt-dense")
    assert (undone.verdict, undone.findings[0].text) == (MISSING, "–")


def test_a_claim_over_ratios_needs_all_and_fails_by_one():
    def claim(at_80: float, at_90: float | None):
        trials, results = entries("rr", 0.9, [at_90 or 0.0] * 3)
        rows = rows_from(
            entries("mwt", 0.8, [0.8] * 3), entries("mwt", 0.9, [0.7] * 3), entries("rr", 0.8, [at_80] * 3),
            (trials, results if at_90 else {}), entries("rr", 0.6, [0.99] * 3), entries("mwt", 0.6, [0.8] * 3),
        )  # fmt: skip
        return claim_of(accuracy_claims(rows), "rr-mwt")

    assert claim(0.7, 0.6).verdict == HOLDS
    assert [figure.label for figure in claim(0.7, 0.6).findings] == ["80 %", "90 %"]  # 60 % is not in the claim
    assert claim(0.7, 0.8).verdict == FAILS
    assert claim(0.7, 0.7).verdict == OPEN
    assert claim(0.7, None).verdict == MISSING
    assert claim(0.9, None).verdict == FAILS


def test_variants_are_compared_with_the_plain_rows():
    plain, layer = entries("mwt", 0.8, [0.8] * 3), entries("mwt", 0.8, [0.7] * 3, variant="layer")
    claims = accuracy_claims(rows_from(plain, layer))
    assert claim_of(claims, "global").verdict == HOLDS
    assert {claim.key for claim in claims} == {"global"}
    k6, k120 = (entries("mwt", 0.8, [value] * 3, variant=name) for name, value in (("k6", 0.85), ("k120", 0.6)))
    assert claim_of(accuracy_claims(rows_from(plain, k6, k120)), "rewind").verdict == HOLDS


@pytest.mark.parametrize("found_after, finds, settles", [(12, HOLDS, HOLDS), (36, FAILS, FAILS), (240, FAILS, FAILS)])
def test_cost_claims(found_after, finds, settles):
    rows = rows_from(entries("mwt", 0.8, [0.7] * 2), entries("pmt", 0.8, [0.7] * 2, found_after=found_after))
    claims = cost_claims(rows)
    assert claim_of(claims, "find-cost").verdict == finds
    assert claim_of(claims, "settles").verdict == settles
    total = claim_of(claims, "total-cost")
    assert total.findings[0].data["mean"] == pytest.approx((240 + 48) / (found_after + 48))


def test_a_mask_that_cannot_move_does_not_settle():
    tickets = entries("pmt", 0.8, [0.7] * 2, found_after=12)
    rows = rows_from(entries("mwt", 0.8, [0.7] * 2), tickets)

    def settles(untrained=None):
        return claim_of(cost_claims(rows, untrained and {(SETUP.name, 0.8): untrained}), "settles")

    assert settles().verdict == HOLDS and "the first look that can stop it" in settles().findings[0].text
    assert settles(0.97).verdict == HOLDS
    assert settles(0.99).explained == "not decided: the untrained weights have the mask already"
    for result in tickets[1].values():
        result["ticket"]["layer_ratios"] = {LAYERS[0]: 0.0, LAYERS[1]: 0.9}
    assert settles().explained == "not decided: the first layer keeps every weight"
    find = claim_of(cost_claims(rows), "find-cost")
    assert find.verdict == HOLDS and find.findings[0].text.endswith("γ sets the factor")


def test_costs_on_both_sides_are_not_decided():
    trials = [Trial(SETUP, "pmt", seed, 0.8) for seed in (1, 2)]
    tickets = {trial.name: document(trial, 0.7, found_after=n) for trial, n in zip(trials, (30, 36))}
    claim = claim_of(cost_claims(rows_from(entries("mwt", 0.8, [0.7] * 2), (trials, tickets))), "find-cost")
    assert claim.verdict == OPEN and claim.findings[0].text == "7.27× (6.67× … 8.00×)"
    assert claim.explained == "not decided: the seeds lie on both sides of the bound"


def test_overlap_claim_counts_chance():
    first, deep = LAYERS[:2]
    kept = {0.8: {first: 0.7, deep: 0.2}}
    good = masks.overlap_claim(SETUP, {0.8: {first: [1, 0.9, 0.8], deep: [1, 0.3, 0.05]}}, kept)
    assert good.verdict == HOLDS and "first layer 80.0% (chance 49.0%)" in good.findings[0].text
    shared = masks.overlap_claim(SETUP, {0.8: {first: [1, 0.9, 0.8], deep: [1, 0.9, 0.7]}}, kept)
    assert shared.verdict == FAILS
    # As much as random masks have in common is no overlap.
    chance = masks.overlap_claim(SETUP, {0.8: {first: [1, 0.7, 0.5], deep: [1, 0.2, 0.04]}}, kept)
    assert chance.verdict == FAILS
    # Below 60 % the paper claims nothing.
    assert masks.overlap_claim(SETUP, {0.4: {first: [1, 0.1], deep: [1, 0.9]}}, kept).findings == ()


def test_emergence_that_the_initial_weights_have_is_not_decided():
    def claim(*shares):
        return masks.emergence_claim(SETUP, {0.8: [list(zip((0, 12, 24, 120, 240), shares))]})

    assert claim(0.5, 0.8, 0.95, 0.97, 1.0).verdict == HOLDS
    assert claim(0.5, 0.8, 0.85, 0.97, 1.0).verdict == FAILS
    assert claim(0.5, 0.95, 0.95, 0.85, 1.0).verdict == FAILS  # it has to stay
    assert claim(0.97, 0.95, 0.95, 0.97, 1.0).explained == "not decided: the untrained weights have it already"
    never = claim(0.5, 0.5, 0.5, 0.5, 0.5)
    assert never.verdict == FAILS and never.findings[0].data["mean"] == 1.0


# --- The paper ---


def test_the_papers_factors_fit_its_costs():
    """Printed with two digits of the costs; the one that does not fit is noted."""
    for number, table in paper.TABLES.items():
        for row, costs in table.items():
            for ratio, cost in costs.items():
                if (number, row, ratio) == (3, "MAML/tiered/1-shot", 0.8):
                    assert cost["paper.total"].pmt == 14.34 and any("14.34" in note for note in paper.NOTES[3])
                    continue
                for part, exactness in (("paper.total", 0.03), ("paper.find", 0.12)):
                    mwt, pmt, factor = cost[part]
                    assert mwt / pmt == pytest.approx(factor, rel=exactness)


def test_every_setup_of_the_paper_has_its_row():
    for setup in protocol.PAPER.setups:
        number = next(n for n, backbone in plan.BACKBONES.items() if backbone == setup.config.backbone)
        assert tuple(paper.TABLES[number][setup.row]) == protocol.PAPER.ratios


# --- The page ---


def made_up(parts: Mapping[str, list[TicketTrial]]) -> dict:
    """Results of all cells of `parts`, with accuracies that fall with the ratio."""
    loss = {"mwt": 0.1, "pmt": 0.11, "rr": 0.2, "rm": 0.3, "sr": 0.15, "snip": 0.2, "omt": 0.16, "pm": 0.12}
    trials = dict.fromkeys(trial for trials in parts.values() for trial in trials)
    random = np.random.default_rng(0)
    return {
        trial.name: document(trial, 0.8 - loss.get(trial.method, 0) * trial.ratio**2 + random.normal(0, 0.003))
        for trial in trials
    }


def study_of(figures=(), numbers=(), results=None) -> Study:
    parts = plan.parts(PRESET, numbers, figures)
    cells = plan.cells(PRESET, [trial for trials in parts.values() for trial in trials])
    return Study(PRESET, Path("nowhere"), parts, cells, made_up(parts) if results is None else results)


def tables_of(sections) -> str:
    cells = [cell for s in sections for b in s.blocks if isinstance(b, Table) for row in b.rows for cell in row]
    return "\n".join(cells)


def test_page_of_tables():
    made = reproduce(study_of())
    titles = [section.title for section in made.sections]
    assert titles[1] == "The paper's claims: omniglot" and "Cost: omniglot (Conv-4, MAML, 5-way 1-shot)" in titles
    page = render_page("made up", made.sections)
    assert "16.67×" in page and "pooled" in page and "δ = 0.98" in page
    claims = {claim["claim"]: claim["verdict"] for claim in made.document["claims"]}
    assert claims["find-cost"] == HOLDS and claims["rm-mwt"] == HOLDS and claims["mwt-dense"] == FAILS
    row = next(row for row in made.document["rows"] if (row["method"], row["ratio"]) == ("pmt", 0.8))
    assert row["times_less_than_mwt"]["paper.find"]["mean"] == 20 and row["seeds"]["done"] == [1, 2, 3]
    assert set(row["accuracy"]) == {"support", "transductive"} and row["mode"] == "transductive"
    json.dumps(made.document, allow_nan=False)


def test_controls_are_as_large_as_the_tickets_and_stand_beside_them():
    preset = protocol.with_data(protocol.TRAINED, {"omniglot": "omniglot"})
    parts = plan.parts(preset)
    cells = plan.cells(preset, [trial for trials in parts.values() for trial in trials])
    tasks = {cell.name: cell.task["config"] for cell in cells}
    assert tasks["omniglot/dense-0.8-narrow-s1"]["widths"] == [14]
    assert tasks["omniglot/dense-0.9-short-s8"]["iterations"] == 160
    assert tasks["omniglot/mwt-0.8-channel-s1"]["ticket"]["unit"] == "channel"
    results = {name: document for name, document in made_up(parts).items() if name.endswith(("s1", "s2", "s3"))}
    made = reproduce(Study(preset, Path("nowhere"), {plan.CONTROLS: parts[plan.CONTROLS]}, cells, results))
    controls = [claim for claim in made.document["claims"] if claim["claim"] == "control"]
    assert len(controls) == 4 and all(len(claim["figures"]) == 2 for claim in controls)
    assert {"dense, narrower", "dense, trained for less", "MWT, channels", "UNTRAINED"} <= set(
        tables_of(made.sections).split("\n")
    )


def test_page_of_what_is_not_done():
    made = reproduce(study_of(results={}))
    assert made.document["cells"] == {"planned": 57, "done": 0, "missing": [cell.name for cell in study_of().cells]}
    assert {claim["verdict"] for claim in made.document["claims"]} == {MISSING}
    assert "–" in tables_of(made.printed) and "Not everything is done" in render_page("nothing", made.sections)


def test_page_of_curves():
    numbers = (1, 2, 3, 4, 5, 8, 12, 13, 14)
    made = reproduce(study_of(numbers))
    text = tables_of(made.printed)
    for label in ("one-shot", "3 rounds", "layer-wise", "k = 120", "ticket 4", "OMT", "PM"):
        assert f"\n{label}\n" in text
    titles = [section.title for section in made.sections]
    for number in numbers:
        assert any(title.startswith(f"Figure {number}: ") for title in titles)
    render_page("curves", made.sections)


def test_tables_2_and_3_print_costs():
    made = reproduce(study_of(numbers=(2, 3)))
    assert all(not section.title.startswith("Accuracy") for section in made.printed)
    text = tables_of(made.printed)
    assert "16.67×" in text and "6.15×" in text and "14.34" in render_page("costs", made.sections).replace("P)", "")
    assert {row["method"] for row in made.document["rows"]} == {"dense", "mwt", "pmt"}
