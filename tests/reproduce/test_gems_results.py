"""From results of cells to rows, verdicts and the page, on made-up results."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from gems_made_up import FOUR, LAYERS, PRESET, TWO, by_method, cells_of, results_of

from gems_edge.report import choice_plots
from gems_edge.report.page import Table, render_page
from gems_edge.reproduce.gems import plan
from gems_edge.reproduce.gems.claims import claims_of
from gems_edge.reproduce.gems.page import reproduce
from gems_edge.reproduce.gems.plan import with_multi_maml
from gems_edge.reproduce.page import Study
from gems_edge.reproduce.results import accuracy_of, difference, factor
from gems_edge.reproduce.results import rows_of as rows_of_cells
from gems_edge.reproduce.verdicts import FAILS, HOLDS, MISSING, OPEN

MODE = "transductive"


def rows_of(trials, results):
    return rows_of_cells(trials, with_multi_maml(PRESET, trials, results))


def rows(*numbers: int, **options):
    parts = plan.parts(PRESET, numbers)
    return rows_of([trial for trials in parts.values() for trial in trials], results_of(parts, **options))


def claims(*numbers: int, **options) -> dict:
    found = claims_of(PRESET, rows(*numbers, **options))
    keys = [(claim.key, claim.setup) for claim in found]
    assert len(set(keys)) == len(keys)
    return {(claim.key, claim.setup.count("+") + 1): claim for claim in found}


def seeded(offsets: dict[tuple[str, int], float]):
    """`by_method`, and what (method, seed) adds."""

    def accuracy(task, name):
        return by_method(task, name) + offsets.get((task["config"]["method"], task["config"]["seed"]), 0)

    return accuracy


# --- Rows ---


def test_multi_maml_is_its_models_together():
    def accuracy(task, name):
        trained = ",".join(task["config"]["data"])
        return 0.9 if trained.endswith(f"/{name}.npz") else 0.3 if "grocery" in trained else 0.5

    found = rows(1, accuracy=accuracy)
    multi = found.find(TWO, "multi-maml")
    assert multi.accuracy().accuracy == pytest.approx(0.9)  # each by its own model
    assert multi.accuracy(("tinyimagenet32",)).accuracy == pytest.approx(0.4)  # the mean of both
    assert multi.accuracy(("tinyimagenet32",), "support").accuracy == pytest.approx(0.37)
    assert (
        multi.cost("train.cpu_seconds").mean == 100 and found.find(FOUR, "multi-maml").cost("train.seconds").mean == 204
    )
    assert factor(multi, found.find(TWO, "bmp"), "train.cpu_seconds").mean == 2


def test_multi_maml_waits_for_all_of_its_models():
    parts = plan.parts(PRESET, (1,))
    results = results_of(parts)
    del results["gtsrb/maml-s2"]
    found = rows_of(parts["table 1"], results)
    assert list(found.find(FOUR, "multi-maml").done) == [1, 3] and list(found.find(TWO, "multi-maml").done) == [1, 2, 3]


def test_a_mean_over_distributions_counts_each_alike():
    random = np.random.default_rng(0)
    values = {name: random.random(300) for name in "ab"}
    document = {
        "accuracy": {
            name: {MODE: {"accuracy": v.mean(), "ci95": 1.96 * v.std(ddof=1) / math.sqrt(300), "episodes": 300}}
            for name, v in values.items()
        }
    }
    found = accuracy_of(document, "ab", MODE)
    means = [(random.choice(values["a"], 300).mean() + random.choice(values["b"], 300).mean()) / 2 for _ in range(4000)]
    assert found["accuracy"] == pytest.approx((values["a"].mean() + values["b"].mean()) / 2)
    assert found["ci95"] == pytest.approx(1.96 * np.std(means), rel=0.05) and found["episodes"] == 600


def test_differences_are_paired_over_seeds():
    shifts = {("maml", 1): 0.1, ("bmp", 1): 0.1, ("maml", 2): -0.1, ("bmp", 2): -0.1}
    found = rows(1, accuracy=seeded(shifts))
    gap = difference(found.find(TWO, "bmp"), found.find(TWO, "maml"))
    assert gap.mean == pytest.approx(0.06) and gap.low == pytest.approx(gap.high) and gap.half < 0.01


# --- Claims ---


def test_claims_that_hold():
    found = claims(1, 2)
    assert {key: claim.verdict for key, claim in found.items()} == {
        (key, many): HOLDS for many in (2, 4) for key in ("bmp-maml", "bmp-five", "mmsup-between", "cross")
    } | {("time", 4): HOLDS}
    assert [figure.label for figure in found["bmp-maml", 2].findings] == ["mean", *TWO.sets]
    assert found["time", 4].findings[0].text == "4.00×"
    assert (
        "+6.00" in found["bmp-five", 4].findings[0].text and "caltech101 +6.00" in found["bmp-five", 4].findings[0].text
    )
    json.dumps([claim.as_dict() for claim in found.values()], allow_nan=False)


def test_claims_that_fail_or_stay_open():
    bad = seeded({("bmp", seed): -0.08 for seed in (1, 2, 3)})
    found = claims(1, 2, accuracy=bad)
    assert found["bmp-maml", 2].verdict == found["bmp-five", 2].verdict == found["cross", 2].verdict == FAILS
    wild = claims(1, 2, accuracy=seeded({("bmp", 1): 0.1, ("bmp", 2): -0.3}))
    assert wild["bmp-maml", 4].explained == "not decided: the interval has the bound in it"

    # One distribution is enough for "up to 5 points".
    def but_one(task, name):
        return by_method(task, name) - 0.05 * (name != "omniglot" and task["config"]["method"] == "bmp")

    one = claims(1, accuracy=but_one)
    assert one["bmp-five", 2].verdict == HOLDS and one["bmp-five", 2].findings[0].label == "omniglot"
    same = claims(1, accuracy=lambda task, name: 0.5)
    assert same["bmp-maml", 2].verdict == same["mmsup-between", 2].verdict == OPEN


def test_time_is_decided_by_every_seed():
    def spent(method: str, seconds: dict[int, float]):
        parts = plan.parts(PRESET, (1,))
        results = results_of(parts)
        for seed, value in seconds.items():
            results[f"{FOUR.name}/{method}-s{seed}"]["training"]["cpu_seconds"] = value
        return next(c for c in claims_of(PRESET, rows_of(parts["table 1"], results)) if c.key == "time")

    assert spent("bmp", {1: 99.0, 2: 99.0, 3: 99.0}).verdict == HOLDS
    assert spent("bmp", {1: 101.0, 2: 101.0, 3: 101.0}).verdict == FAILS
    assert spent("mmsup", {1: 101.0}).explained == "not decided: the seeds lie on both sides of the bound"


def test_a_missing_seed_is_not_done():
    parts = plan.parts(PRESET, (1,))
    results = results_of(parts)
    del results["grocery+omniglot/bmp-s3"]
    found = {(c.key, c.setup): c for c in claims_of(PRESET, rows_of(parts["table 1"], results))}
    claim = found["bmp-maml", "grocery + omniglot"]
    assert claim.verdict == MISSING and claim.findings[0].text.endswith("[2 of 3 seeds]")
    assert claims_of(PRESET, rows_of(parts["table 1"], {}))[0].verdict == MISSING


def test_claims_of_the_ablations():
    def steps(task, name):
        config = task["config"]
        gain = {"bmp": 0.01, "mmsup": 0.0}.get(config["method"], 0) * (5 - config["steps"])
        fixed = config.get("adapter", {}).get("sparsity", [])
        return by_method(task, name) + gain - (0.1 * fixed[0] if len(fixed) == 1 else 0)

    found = claims(3, 4, 5, accuracy=steps)
    own = {key: claim.verdict for (key, _), claim in found.items() if key.startswith("s")}
    assert own == dict.fromkeys(("sparsity-learned", "sparsity-falls", "steps", "steps-maml"), HOLDS)
    assert [figure.label for figure in found["steps", 2].findings] == ["1 step", "2 steps", "3 steps", "4 steps"]
    assert len(found["sparsity-learned", 2].findings) == len(PRESET.sparsities)
    worse = claims(5, accuracy=lambda task, name: by_method(task, name) + 0.02 * task["config"]["steps"])
    assert worse["steps", 2].verdict == FAILS


# --- The page ---


def study(numbers=(), results=None) -> Study:
    parts = plan.parts(PRESET, numbers)
    return Study(PRESET, Path("nowhere"), parts, cells_of(parts), results_of(parts) if results is None else results)


def lines(sections, title: str) -> list[tuple[str, ...]]:
    """The rows of a section's first table."""
    section = next(section for section in sections if section.title.startswith(title))
    return list(next(block for block in section.blocks if isinstance(block, Table)).rows)


def test_page_of_tables_1_and_2():
    made = reproduce(study())
    body = lines(made.printed, "Table 1, same distribution: trained on grocery + omniglot")
    mean = dict(zip([row[0] for row in body if row[0]], [row for row in body if row[0]]))
    assert list(mean) == ["MAML", "Multi-MAML", "BMP", "MMSUP", "ANIL", "BOIL", "BMP, rate per layer"]
    assert mean["BMP"][2].startswith("56.0 ±") and mean["BMP"][4].startswith("+6.0 ±") and mean["BMP"][6] == "50"
    # The paper's sets are others: only the mean of CUB200 and VGG102 can stand beside ours.
    assert mean["BMP"][-1] == "65.7" and body[1][1] == "grocery" and body[1][-1] == "–"
    assert mean["ANIL"][-1] == "–"
    page = render_page("made up", made.sections)
    for word in ("transductive, %", "support, %", "28.49", "mask on", "intersection over union", "only tested"):
        assert word in page
    row = next(row for row in made.document["rows"] if (row["method"], len(row["mixture"])) == ("multi-maml", 4))
    assert row["mean"]["seen"][MODE]["accuracy"] == pytest.approx(0.54) and row["time"]["cpu_seconds"]["mean"] == 200
    assert row["paper"]["time"] == 28.49 and row["mode"] == MODE and "choices" not in row
    json.dumps(made.document, allow_nan=False)


def test_page_of_tables_3_to_5():
    made = reproduce(study((3, 4, 5)))
    sparse = {row[0]: row for row in lines(made.printed, "Table 3")}
    assert sparse["learned"][-2:] == ("72.3", "52.4") and sparse["0.9"][-2:] == ("65.3", "47.5")
    depth = {row[0]: row for row in lines(made.printed, "Table 4")}
    assert depth["S5"][-2] == "70.6" and depth["S5"][1].startswith("52.0") and depth["S8"][1] == "–"
    steps = {row[0]: row for row in lines(made.printed, "Table 5")}
    assert steps["BMP, 1"][-1] == "77.4" and steps["MAML, 5"][-1] == "70.3"
    assert render_page("made up", made.sections).count("<svg ") == 4  # two curves, BMP's masks, MMSUP's shares


def test_page_of_what_is_not_done():
    made = reproduce(study((1, 2, 3, 4, 5), {}))
    assert made.document["cells"]["done"] == 0 and len(made.document["cells"]["missing"]) == len(
        study((1, 2, 3, 4, 5)).cells
    )
    assert {claim["verdict"] for claim in made.document["claims"]} == {MISSING}
    assert "Not everything is done" in render_page("nothing", made.sections)


def test_maps_show_every_number():
    values = np.array([[0.0, 1.0], [0.37, 0.5]])
    lines = dict.fromkeys(("seed 1", "seed 2"), {"a": values, "b": values})
    markup = choice_plots.share_maps(lines, LAYERS[:2], ["1", "2"], "on")
    assert all(markup.count(f">{text}<") >= 4 for text in ("0.00", "1.00", "0.37"))
    assert markup.count(">blocks.1<") == 2  # once a line
