"""A bundle with a prototype head through the real command line: train, export, adapt, predict, evaluate."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from small_settings import SMALL

from gems_edge.device import Learner
from gems_edge.device.left_out import counted_in
from gems_edge.errors import UserError
from gems_edge.export.budget import Budget, Limit, adaptation, predictions, search
from gems_edge.export.families import front_points
from gems_edge.export.source import ExportOptions, Reports, open_source
from gems_edge.predict.profiles import load_profile
from gems_edge.report.bundles import _rule_text

BOARD = "rpi-zero-2w"
HEAD = ("--head", "prototype", "--normalization", "group", "--inner-lr", "0.02")


@pytest.fixture(scope="module")
def made(cli_here, made_once):
    """run, steps.gems and still.gems: 2 steps and none, of one run."""

    def make(directory):
        cli_here("train", *SMALL, *HEAD, "--iterations", "20", "-o", directory / "run")
        for name, steps in (("steps", 2), ("still", 0)):
            cli_here("export", directory / "run", "--ratio", "0", "--episodes", "4", "--steps", steps,
                     "-o", directory / f"{name}.gems")  # fmt: skip

    return made_once("prototype", make)


def test_manifests(made):
    steps, still = (json.loads((made / f"{name}.gems" / "manifest.json").read_text()) for name in ("steps", "still"))
    for manifest in (steps, still):
        assert (manifest["head"], manifest["metric"], manifest["format_version"]) == ("prototype", "cosine", 4)
        assert "head.temperature" in manifest["tensors"]["constant"]
    assert steps["rule"]["steps"] == 2 and {"head.weight", "head.bias"} <= {*steps["tensors"]["adapted"]}
    assert still["rule"]["steps"] == 0 and still["tensors"]["adapted"] == []
    assert still["verification"]["update"] is None and still["verification"]["steps"] == 0
    # Without steps the whole body is the trunk: it runs once for each photo.
    assert (
        still["trunk"]["cut"] == "head" and still["cost"]["adapt_step"]["macs"] < 0.01 * still["cost"]["trunk"]["macs"]
    )


@pytest.mark.parametrize("name", ["steps", "still"])
def test_what_tells_foreign_objects_is_measured_and_travels_with_the_bundle(made, cli_here, photos, name):
    bundle = made / f"{name}.gems"
    unknown = json.loads((bundle / "manifest.json").read_text())["unknown"]
    areas = [each["area"] for each in unknown["candidates"]]
    chosen = next(each for each in unknown["candidates"] if unknown["score"].items() <= each.items())
    assert len(areas) == {"steps": 5, "still": 4}[name] and chosen["area"] == max(areas)
    assert (bundle / "unknown.safetensors").exists() == (unknown["score"]["kind"] == "background")
    # Where the photos' features are kept, each taught photo is asked, too, when it is left out.
    assert (unknown["temperature"] is not None) == (name == "still")
    assert all(bool(each["left_best"]) == (name == "still" and each["photos"] > 1) for each in unknown["cells"])
    # On the photos that it was set on a threshold keeps the share that was asked, to within their number.
    for each in unknown["validation"]:
        assert 0.85 <= each["kept"] <= 0.95 and 0.85 <= each["coverage"]["reached"] <= 0.95
        assert [refused for _, refused in each["roc"]] == sorted(refused for _, refused in each["roc"])
    assert {(each["photos"], each["classes"]) for each in unknown["test"]} >= {(1, 2), (1, 5)}
    cli_here("report", bundle, "-o", photos / "page.html")
    assert f"Unknown objects: {name}" in (photos / "page.html").read_text()
    cli_here("adapt", bundle, "--support", photos / "support", "-o", photos / "s.state")
    predict = ("predict", bundle, "--state", photos / "s.state", photos / "new" / "query", "--json")
    answers, accepted, sets = (
        json.loads(cli_here(*predict, *more).stdout) for more in ((), ("--accept-all",), ("--coverage", "0.9"))
    )
    for answer, anyway, several in zip(answers, accepted, sets):
        assert answer["label"] == (answer["guess"] if answer["known"] else "unknown")
        assert anyway["known"] and anyway["label"] == answer["guess"] == several["guess"]
        assert set(several["set"]) <= {"kind 0", "kind 1", "kind 2"} and "set" not in answer


def test_photos_that_were_taught_move_the_scores(made, tmp_path):
    """Of a learner that taught them and of one that read them; those of `none` and of steps move nothing."""
    images, labels = noise()
    queries = np.random.default_rng(1).integers(0, 256, (20, 28, 28, 1), np.uint8)
    for place, (name, classes) in enumerate(
        (("still", labels), ("still", ["none", "b", "none"] * 2), ("steps", labels))
    ):
        state = tmp_path / f"{place}.state"
        learner, plain = (Learner.load(made / f"{name}.gems", threads=1) for _ in range(2))
        plain.bundle = replace(plain.bundle, familiar=replace(plain.bundle.familiar, temperature=None))
        for each in (learner, plain):
            each.adapt(images, classes)
        learner.save(state)
        again = Learner.load(made / f"{name}.gems", threads=1)
        again.load_state(state)
        scores, of_loaded, validation = ([a.score for a in each.answers(queries)] for each in (learner, again, plain))
        assert scores == of_loaded
        if name == "steps":
            assert scores == validation
            continue
        ranks = learner._now.ranks.best
        assert len(ranks) == 2 * len({*classes} - {"none"})
        np.testing.assert_allclose(scores, counted_in(np.array(validation), ranks))


def test_it_learns_any_number_of_classes_in_any_number_of_steps(made, cli_here, photos):
    probabilities = {}
    for bundle, steps in (("steps", 2), ("steps", 0), ("still", 0)):
        arguments = ("adapt", made / f"{bundle}.gems", "--support", photos / "support", "--steps", steps)
        taught = json.loads(cli_here(*arguments, "-o", photos / f"{bundle}{steps}", "--json").stdout)
        assert taught["steps"] == steps == len(taught["loss"]) and (taught["ms_per_step"] is None) == (steps == 0)
        predict = ("predict", made / f"{bundle}.gems", "--state", photos / f"{bundle}{steps}", photos / "new" / "query")
        answers = json.loads(cli_here(*predict, "--json").stdout)
        assert {*answers[0]["probabilities"]} == {"kind 0", "kind 1", "kind 2"}
        probabilities[bundle, steps] = [list(answer["probabilities"].values()) for answer in answers]
    assert np.allclose(
        probabilities["steps", 0], probabilities["still", 0], atol=5e-4
    )  # one keeps pixels, one features of a trunk in half precision
    assert not np.allclose(probabilities["steps", 0], probabilities["steps", 2], atol=1e-3)
    text = cli_here("adapt", made / "still.gems", "--support", photos / "support", "-o", photos / "text").stdout
    assert "class means, no step" in text


@pytest.mark.parametrize("bundle,steps", [("steps", "2"), ("steps", "0"), ("still", "0")])
def test_the_board_is_as_accurate_as_the_run(made, cli_here, bundle, steps):
    on_board, in_torch = (
        json.loads(
            cli_here("evaluate", made / what, "--episodes", "20", "--ways", "7", "--steps", steps, "--json").stdout
        )
        for what in (f"{bundle}.gems", "run")
    )
    assert on_board["accuracy"] == pytest.approx(in_torch["accuracy"], abs=0.01) and on_board["ways"] == 7


def noise():
    """Six images of a glyph's size and their classes."""
    return np.random.default_rng(0).integers(0, 256, (6, 28, 28, 1), np.uint8), ["a", "b", "c"] * 2


def test_untaught_it_prefers_no_class(made):
    learner = Learner.load(made / "steps.gems")
    assert np.allclose(learner.predict(noise()[0]), 1 / 5)


def test_a_state_holds_the_rows_that_were_made(made, tmp_path):
    images, labels = noise()
    for bundle, steps in (("steps", 0), ("steps", 2), ("still", None)):
        learner = Learner.load(made / f"{bundle}.gems")
        learner.adapt(images, labels, steps)
        learner.save(tmp_path / bundle)
        other = Learner.load(made / f"{bundle}.gems")
        other.load_state(tmp_path / bundle)
        assert np.array_equal(other.predict(images), learner.predict(images))


def test_steps_that_a_bundle_cannot_take(made, cli_here, photos):
    images, labels = noise()
    with pytest.raises(UserError, match="exported to take 0 steps, not 2; export it with --steps 2"):
        Learner.load(made / "still.gems").adapt(images, labels, 2)
    with pytest.raises(UserError, match=r"at least 0 \(head prototype\), not -1"):
        Learner.load(made / "steps.gems").adapt(images, labels, -1)


def test_steps_are_chosen_on_validation_episodes(made, cli_here, photos):
    bundle = photos / "chosen.gems"
    exported = cli_here("export", made / "run", "--ratio", "0", "--episodes", "20", "-o", bundle)
    rule = json.loads((bundle / "manifest.json").read_text())["rule"]
    factor = rule.get("rate_factor", 1)
    assert rule["inner_lr"] == pytest.approx(0.02 * factor)
    assert [tried["rate_factor"] for tried in rule["steps_tried"]] == [1, 0.7]
    of_rate = [tried for tried in rule["steps_tried"] if tried["rate_factor"] == factor]
    for tried, (shots, chosen) in zip(of_rate, rule["steps_by_shots"], strict=True):
        accuracies = {row["steps"]: row["accuracy"] for row in tried["accuracies"]}
        assert [*accuracies] == [0, 1, 2] and tried["shots"] == shots and tried["split"] == "val"
        best = max(accuracies.values())
        assert chosen == min(steps for steps, accuracy in accuracies.items() if accuracy >= best - 0.001)
        assert f"for {shots} photo a class: the fewest of 0 to 2" in exported.stderr
    assert rule["steps"] == max(steps for _, steps in rule["steps_by_shots"])


def test_steps_by_the_number_of_photos(made, tmp_path):
    bundle = replace(Learner.load(made / "steps.gems").bundle, steps_by_shots=((1, 0), (5, 2)))
    assert [bundle.steps_for(shots) for shots in (0.5, 1, 1.8, 2.2, 2.3, 5, 40)] == [0, 0, 0, 0, 2, 2, 2]
    learner, (images, labels) = Learner(bundle), noise()
    assert learner.adapt(images[:3], labels[:3]).steps == 0
    assert learner.adapt(np.concatenate([images] * 2), labels * 2).steps == 2
    assert learner.adapt(images[:3], labels[:3], 1).steps == 1


def silent(_):
    pass


@pytest.fixture
def within(made, environment, monkeypatch):
    """search(steps of --steps, limits) → candidates, of one network."""
    monkeypatch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])

    def found(steps, **most):
        source = open_source(made / "run", ExportOptions(0.0, 0, 16, 2, 1, "cpu", steps=steps), Reports(silent))
        limits = tuple(Limit(what, f"--max-{what}", value) for what, value in most.items())
        budget = Budget((load_profile(BOARD),), limits, ratios=(0.0,), roundings=(16,), memories=("balanced",))
        return search(source, budget, silent).candidates

    return found


def test_a_budget_prices_what_is_exported(made, within):
    """With --steps 0 no gradient, and the whole body once for each photo."""
    for bundle, steps in (("still", 0), ("steps", 2)):
        manifest = json.loads((made / f"{bundle}.gems" / "manifest.json").read_text())
        costs = predictions(manifest["cost"], load_profile(BOARD), None, manifest["ways"], manifest["shots"])
        most = within(steps, predict=1e6)[0]
        assert most.steps == steps
        assert most.predicted[BOARD] == costs | {"adapt": adaptation(costs, steps)}
    assert "trunk" in within(0, predict=1e6)[0].predicted[BOARD]


def test_a_budget_may_leave_no_step(within):
    none = within(0, predict=1e6)[0].predicted[BOARD]["adapt"]
    [left] = within(None, adapt=none.high)
    assert left.steps == 0 and left.predicted[BOARD]["adapt"] == none


def test_within_a_budget_steps_are_chosen(made, cli_here, tmp_path):
    run = shutil.copytree(made / "run", tmp_path / "run")
    limits = ("--device", BOARD, "--max-latency-ms", "1000", "--ratio", "0", "--memory", "balanced", "--no-int8")
    done = cli_here("export", run, *limits, "--episodes", "4", "-o", tmp_path / "b.gems", "--json")
    manifest = json.loads((tmp_path / "b.gems" / "manifest.json").read_text())
    assert manifest["rule"]["steps_by_shots"] and manifest["rule"]["steps"] <= 2
    assert json.loads(done.stdout)["budget"]["predicted"][BOARD]["adapt"]["most_steps"] == 2
    assert "at most 2 steps" in done.stderr


def test_a_front_counts_the_steps_of_its_shots(made):
    manifest = json.loads((made / "steps.gems" / "manifest.json").read_text())
    boards = (load_profile(BOARD),)
    values = {
        steps: front_points([manifest | {"rule": manifest["rule"] | by_shots}], boards, 1)[0]["boards"][BOARD]["adapt"]
        for steps, by_shots in ((2, {}), (1, {"steps_by_shots": [[manifest["shots"], 1], [50, 2]]}))
    }
    assert values[1]["value"] < values[2]["value"]


def test_a_page_says_by_which_steps_it_adapts():
    rule = {"name": "maml", "steps": 2, "inner_lr": 0.05}
    assert _rule_text(rule) == "maml, 2 steps, rate 0.05"
    by_shots = rule | {"steps_by_shots": [[1, 1], [5, 2]]}
    assert _rule_text(by_shots) == "maml, 1 step for 1 photo a class, 2 steps for 5 photos a class, rate 0.05"
    assert _rule_text(rule | {"steps": 0, "steps_by_shots": [[1, 0]]}) == "class means of the photos, without steps"
