"""How many trainings a claim takes: what looks and seeds are worth, by simulation, and which rows go on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gems_made_up import PRESET, TWO, by_method, document

from gems_edge.reproduce.gems import plan
from gems_edge.reproduce.gems.page import judge, reproduce
from gems_edge.reproduce.looks import ASSUMED, POWER, Looks, decidable, plan_text, power_section, seeds_for
from gems_edge.reproduce.page import Study
from gems_edge.reproduce.pooling import student
from gems_edge.reproduce.training import Paper, reached


def intervals(differences: np.ndarray, seeds: int, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Of the first `seeds` columns: means and half-widths."""
    own = differences[:, :seeds]
    return own.mean(1), student(seeds - 1, confidence) * own.std(1, ddof=1) / seeds**0.5


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_seeds_decide_as_often_as_a_plan_says(seeds):
    random, confidence = np.random.default_rng(seeds), Looks.between(3, 8).confidence
    mean, half = intervals(random.normal(decidable(0.02, seeds, confidence), 0.02, (20_000, seeds)), seeds, confidence)
    assert np.mean(mean - half > 0) == pytest.approx(POWER, abs=0.03)
    assert seeds_for(decidable(0.02, seeds, confidence), 0.02, confidence) == seeds


def test_no_number_of_seeds_decides_what_lies_on_its_bound():
    assert seeds_for(0.0, 0.01, 0.95) is None and decidable(0.01, 1, 0.95) == float("inf")


def test_several_looks_err_as_seldom_as_one():
    """Differences that lie on the bound: either verdict is wrong, at whichever look it comes."""
    looks, differences = Looks.between(3, 8), np.random.default_rng(0).normal(0, 1, (20_000, 8))
    assert looks.seeds == (3, 6, 8) and Looks.between(3, 3).confidence == 0.95
    decided = [abs(mean) > half for mean, half in (intervals(differences, s, looks.confidence) for s in looks.seeds)]
    assert np.mean(np.any(decided, 0)) < 0.05
    plain = [abs(mean) > half for mean, half in (intervals(differences, s, 0.95) for s in looks.seeds)]
    assert np.mean(np.any(plain, 0)) > 0.07


# --- Which rows go on ---


LOOKS = Looks.between(3, 8)
WHOLE = replace(PRESET, seeds=8)


def cells_of(trials):
    return plan.cells(WHOLE, trials)


def study_of(results) -> Study:
    parts = plan.parts(WHOLE, (1,))
    return Study(WHOLE, Path("nowhere"), parts, cells_of(parts["table 1"]), results, LOOKS)


PAPER = Paper("made up", cells_of, judge, reproduce)


def seeds_of(study, method) -> list[int]:
    return sorted(trial.seed for trial in study.trials if (trial.setup, trial.method) == (TWO, method))


def uneven(task, name):
    """MMSUP's seeds lie far apart, about what MAML reaches; all others agree."""
    config = task["config"]
    return by_method(task, name) + (config["method"] == "mmsup") * (0.1 * (-1) ** config["seed"] - 0.02)


def test_only_what_is_not_decided_goes_on():
    """Look by look, from results alone: a study that was stopped goes on where it was."""
    now, results, lengths = reached(study_of({}), PAPER), {}, []
    while now.missing:
        lengths.append([len(seeds_of(now, method)) for method in ("maml", "mmsup", "bmp", "anil")])
        results |= {cell.name: document(cell, uneven) for cell in now.cells}
        now = reached(study_of(results), PAPER)
    # ANIL is in no claim: it is trained to the end at once. BMP's claims are decided by the first look.
    assert lengths == [[3, 3, 3, 8], [6, 6, 3, 8], [8, 8, 3, 8]]
    claims = {claim.key: claim for claim in judge(now) if claim.setup.count("+") == 1}
    assert claims["bmp-maml"].verdict == "holds" and claims["mmsup-between"].verdict == "not decided"
    [_, table] = power_section(judge(now), LOOKS).blocks
    wide = [row for row in table.rows if row[1] == "MMSUP − MAML" and "caltech101" not in row[0]]
    assert [row[-3:] for row in wide] == [("8", "–", "not decided")]  # of a difference at its bound


def test_all_is_decided_by_the_first_look():
    first = reached(study_of({}), PAPER)
    results = {cell.name: document(cell, by_method) for cell in first.cells}
    assert reached(study_of(results), PAPER).cells == first.cells


def test_a_plan_in_words():
    text = plan_text(LOOKS)
    least = 100 * decidable(ASSUMED, 8, LOOKS.confidence)
    assert "after 3, 6, 8 trainings" in text and "98.3 %" in text and f"{least:.1f} points" in text
