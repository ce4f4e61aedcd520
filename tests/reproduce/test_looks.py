"""Seeds until claims are decided: intervals over seeds and episodes, what a claim needs, and which rows get more."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gems_edge.meta.settings.run import TrainConfig
from gems_edge.reproduce.claims import Claim, Finding, Quote, accuracy_finding
from gems_edge.reproduce.looks import asked, more
from gems_edge.reproduce.page import Study, flatness
from gems_edge.reproduce.pooling import Noise, half_width, paired, student
from gems_edge.reproduce.power import POWER, needs, power, seeds_needed
from gems_edge.reproduce.protocol import Preset, Setup, Trial
from gems_edge.reproduce.results import rows_of
from gems_edge.reproduce.verdicts import FAILS, HOLDS, OPEN, Bound, above, below, within

EPISODES = 100
PRESET = Preset(name="made up", about="", seeds=6, episodes=EPISODES, data={}, looks=(2, 4, 6))
SETUP = Setup("setup", TrainConfig(normalization="support"))
scatter = st.just(0.0) | st.floats(1e-6, 0.2)


# --- Intervals ---


@given(scatter, scatter, st.integers(2, 10), st.integers(2, 1000))
def test_an_interval_knows_seeds_and_episodes(seeds, episodes, trainings, tested):
    half = half_width(Noise(seeds, episodes), trainings, tested, 0.05)
    assert half >= student(trainings - 1) * seeds / math.sqrt(trainings) * (1 - 1e-9)
    assert half >= 1.96 * math.hypot(seeds / math.sqrt(trainings), episodes / math.sqrt(tested)) * (1 - 1e-6)
    assert half_width(Noise(seeds, episodes), trainings, tested, 0.01) >= half


def test_the_interval_covers():
    """Over made-up grids whose seeds, episodes and pairs of both scatter, the truth lies outside of 10 % at most."""
    random, missed, grids = np.random.default_rng(0), 0, 400
    for _ in range(grids):
        single = 0.01 * random.normal(size=(4, 1)) + 0.1 * random.normal(size=(1, 60)) + random.normal(0, 0.1, (4, 60))
        noise = Noise(single.mean(1).std(ddof=1), single.mean(0).std(ddof=1))
        missed += abs(single.mean()) > half_width(noise, 4, 60, 0.1)
    assert missed / grids <= 0.1


def test_all_readings_together_decide_wrongly_in_5_percent_at_most():
    """Where the truth is the bound itself, every decision is wrong; a grid decides at the first reading that can."""
    random, wrong, grids = np.random.default_rng(0), 0, 600
    for _ in range(grids):
        single = 0.02 * random.normal(size=(6, 1)) + 0.05 * random.normal(size=(1, 60)) + random.normal(0, 0.1, (6, 60))
        for reading in PRESET.readings:
            seen = single[:reading]
            noise = Noise(seen.mean(1).std(ddof=1), seen.mean(0).std(ddof=1))
            if abs(seen.mean()) > half_width(noise, reading, 60, PRESET.alpha):
                wrong += 1
                break
    assert 0 < wrong / grids <= 0.05


def entry(shares: np.ndarray) -> dict:
    ci95 = 1.96 * shares.std(ddof=1) / math.sqrt(len(shares))
    return {"accuracy": shares.mean(), "ci95": ci95, "episodes": len(shares), "shares": shares.tolist()}


def test_what_episodes_do_to_both_is_no_noise():
    hard = np.random.default_rng(0).uniform(0.4, 0.8, EPISODES)
    pairs = [(entry(hard + 0.02 + seed / 1000), entry(hard)) for seed in range(3)]
    found = paired(pairs)
    assert found.mean == pytest.approx(0.021) and found.half == pytest.approx(student(2) * 0.001 / math.sqrt(3))
    without = [[{key: side[key] for key in ("accuracy", "ci95", "episodes")} for side in pair] for pair in pairs]
    assert paired(without).half > 5 * found.half
    # Another number of episodes cannot be paired.
    assert paired([(entry(hard[:50]), entry(hard)), (entry(hard[:50]), entry(hard))]).noise is None


# --- Power ---


def test_power_grows_with_seeds_and_the_needed_number_is_the_least():
    noise = Noise(0.015, 0.05)
    grown = [power(noise, seeds, PRESET) for seeds in range(2, 12)]
    assert grown == sorted(grown) and 0 < grown[0] < grown[-1] < 1
    needed = seeds_needed(noise, PRESET)
    assert power(noise, needed, PRESET) >= POWER > power(noise, needed - 1, PRESET)
    assert seeds_needed(Noise(0.0, 0.0), PRESET) == 2 and seeds_needed(Noise(1.0, 1.0), PRESET) is None


def test_power_is_how_often_intervals_decide():
    noise, random = Noise(0.02, 0.05), np.random.default_rng(0)
    decided = 0
    for _ in range(500):
        single = 0.02 + 0.02 * random.normal(size=(6, 1)) + 0.05 * random.normal(size=(1, EPISODES))
        own = Noise(single.mean(1).std(ddof=1), single.mean(0).std(ddof=1))
        decided += single.mean() > half_width(own, 6, EPISODES, PRESET.alpha)
    assert decided / 500 == pytest.approx(power(noise, 6, PRESET), abs=0.06)


def test_bounds_in_words():
    bounds = (above(-0.03), above(0), below(0), within(0.01), Bound(least=math.nextafter(0, 1)))
    assert [bound.text() for bound in bounds] == ["≥ −3", "≥ 0", "< 0", "within ±1", "> 0"]


# --- Readings ---


def made_up(gaps: dict[str, float], seeds: int) -> tuple[list[Trial], dict]:
    """Methods that differ from "plain" by so much, ± 1 point from seed to seed."""
    trials = [Trial(SETUP, method, seed) for seed in range(1, seeds + 1) for method in ("plain", *gaps)]
    hard = np.random.default_rng(1).uniform(0.4, 0.8, EPISODES)
    results = {
        trial.name: {"accuracy": {"support": entry(hard + gaps.get(trial.method, 0) + 0.01 * (-1) ** trial.seed)}}
        for trial in trials
    }
    for trial in trials:
        if trial.method == "plain":
            results[trial.name] = {"accuracy": {"support": entry(hard)}}
    return trials, results


def claims_at(trials, results) -> list[Claim]:
    rows = rows_of(trials, results, PRESET.alpha)
    plain = rows.find(SETUP, "plain")
    findings = [accuracy_finding(row.method, row, plain, above(0)) for row in rows if row is not plain]
    return [Claim(found.label, Quote("", ""), found.label, "setup", (found,)) for found in findings]


def test_only_what_is_not_decided_is_trained_further():
    gaps = {"better": 0.5, "worse": -0.5, "alike": 0.0}
    trials, results = made_up(gaps, 6)
    study = Study(PRESET, Path("nowhere"), {"part": trials}, [], {})
    seeds, path = {}, []
    while True:
        due = asked(study, seeds)["part"]
        path.append(len(due))
        claims = claims_at(due, results)
        later = more(PRESET, claims, seeds)
        if later == seeds:
            break
        seeds = later
    assert path == [8, 12, 16]  # two of four rows get two more, twice
    verdicts = {claim.key: claim.verdict for claim in claims}
    assert verdicts == {"better": HOLDS, "worse": FAILS, "alike": OPEN}
    assert {key[1] for key in seeds} == {"plain", "alike"}
    # Nor is a difference forgotten that was decided, where its row goes on for another one.
    [one] = [claim for claim in claims_at(due, results) if claim.key == "alike"]
    reference = rows_of(due, results, PRESET.alpha).find(SETUP, "worse")
    row = rows_of(due, results, PRESET.alpha).find(SETUP, "alike")
    assert one.findings[0].rows == (row.key, ("setup", "plain", 0.0, "")) and len(row.wanted) > len(reference.wanted)
    assert accuracy_finding("alike − worse", row, reference, above(0)).verdict == HOLDS


def test_a_claim_that_fails_somewhere_needs_no_more():
    rows = ("setup", "a", 0.0, ""), ("setup", "b", 0.0, "")
    findings = [Finding("80 %", "", FAILS, {}), Finding("90 %", "", OPEN, {}, bound=above(0), rows=rows)]
    claim = Claim("key", Quote("", ""), "", "setup", tuple(findings))
    assert more(PRESET, [claim], {}) == {}
    assert more(PRESET, [Claim("key", Quote("", ""), "", "setup", tuple(findings[1:]))], {}) == dict.fromkeys(rows, 4)


def test_needs_say_what_is_assumed_and_what_was_found():
    trials, results = made_up({"alike": 0.0}, 2)
    (before,), (after,) = needs(PRESET, claims_at(trials, {})), needs(PRESET, claims_at(trials, results))
    assert before["assumed"] and before["noise"] == {"seeds": 0.015, "episodes": 0.05}
    assert not after["assumed"] and after["noise"]["seeds"] == pytest.approx(0.02 / math.sqrt(2))
    assert after["bound"] == "≥ 0" and len(after["half"]) == 3 and PRESET.alpha == pytest.approx(0.05 / 3)


# --- Trained to the end ---


def test_flatness():
    def training(*accuracies):
        count = len(accuracies)
        return {
            "training": {
                "iterations": 100,
                "validation": [[100 * (n + 1) / count, a] for n, a in enumerate(accuracies)],
            }
        }

    rises, flat, short = training(0.1, 0.2, 0.3, 0.4, 0.5), training(0.5, 0.6, 0.6, 0.62, 0.62), training(0.5)
    assert flatness({"a": rises}) == pytest.approx({"mean": 0.1, "most": 0.1, "flat": 0, "trainings": 1})
    assert flatness({"a": rises, "b": flat, "c": short}) == pytest.approx(
        {"mean": 0.05, "most": 0.1, "flat": 1, "trainings": 2}
    )
    assert flatness({"c": short, "d": {"training": {}}}) is None
