"""Exports within limits: what is searched, what is refused, and the front of several ratios."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gems_edge.errors import UserError
from gems_edge.export.budget import RATIOS, Budget, Candidate, Limit, predictions, search, spread
from gems_edge.export.passes.stream import MEMORY
from gems_edge.export.source import ExportOptions, Reports, open_source
from gems_edge.predict.prediction import Prediction
from gems_edge.predict.profiles import load_profile
from gems_edge.report.front import on_front

BOARD = "rpi-zero-2w"


def prediction(value):
    return Prediction(value, value / 2, 2 * value, "ms", "test")


def silent(_):
    pass


@pytest.fixture(scope="module")
def source(small_run, environment):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])
        return open_source(small_run, ExportOptions(0.0, 0, 16, 2, 1, "cpu"), Reports(silent))


def budget(surely=True, memories=("balanced",), ratios=(0.0, 0.2, 0.4, 0.6, 0.8, 0.9), **most):
    """Few networks, and one way to stream each, where they are not the subject: their costs take most of the time."""
    options = {"predict": "--max-latency-ms", "adapt": "--max-adapt-ms", "memory": "--max-memory-mb"}
    limits = tuple(Limit(what, options[what], value) for what, value in most.items())
    return Budget((load_profile(BOARD),), limits, surely=surely, roundings=(8, 4), memories=memories, ratios=ratios)


def whole(source):
    """What the network as it is takes."""
    return search(source, budget(predict=1e9), silent).candidates[0]


def test_roomy_limits_take_the_whole_network_and_say_that_nothing_binds(source):
    found = search(source, budget(memories=tuple(MEMORY), predict=1e6, adapt=1e6, memory=1e6), silent)
    assert [(c.ratio, c.steps) for c in found.candidates] == [(0.0, source.config.steps)] and not found.binds


@pytest.mark.slow(12)
def test_a_tight_limit_is_kept_and_the_next_larger_network_would_break_it(source):
    everything = whole(source).predicted[BOARD]
    most = 0.6 * everything["predict"].high
    found = search(source, budget(memories=tuple(MEMORY), ratios=RATIOS, predict=most), silent)
    (chosen,) = found.candidates
    assert chosen.ratio > 0 and chosen.predicted[BOARD]["predict"].high <= most
    assert len(found.binds) == 1 and "--max-latency-ms" in found.binds[0] and BOARD in found.binds[0]


@pytest.mark.slow(12)
def test_fewer_steps_leave_room_for_more_weights(source):
    assert source.config.steps > 1
    step = whole(source).predicted[BOARD]["step"].high
    found = search(source, budget(adapt=step * 1.01), silent)
    assert found.candidates[-1].steps == 1 and found.candidates[-1].ratio == 0
    ratios = [candidate.ratio for candidate in found.candidates]
    assert ratios == sorted(ratios, reverse=True) and len(set(ratios)) == len(ratios)
    for candidate in found.candidates:
        assert candidate.predicted[BOARD]["adapt"].high <= step * 1.01


@pytest.mark.slow(12)
def test_limits_that_hold_typically_allow_more(source):
    typical = 0.9 * whole(source).predicted[BOARD]["predict"].value
    (loose,) = search(source, budget(surely=False, predict=typical), silent).candidates
    with pytest.raises(UserError, match="nothing fits"):
        search(source, budget(predict=0.1 * typical), silent)
    assert loose.predicted[BOARD]["predict"].value <= typical < loose.predicted[BOARD]["predict"].high * 2


def test_nothing_fits_names_what_would(source):
    with pytest.raises(UserError) as refused:
        search(source, budget(predict=1e-4, memory=1), silent)
    message = str(refused.value)
    assert "--max-latency-ms 0.0001" in message and "--max-memory-mb 1 " in message and "\n" not in message
    enough = {
        word: float(message.split(f"{word} ")[-1].split(",")[0]) for word in ("--max-latency-ms", "--max-memory-mb")
    }
    found = search(source, budget(predict=enough["--max-latency-ms"], memory=enough["--max-memory-mb"]), silent)
    assert found.candidates


@given(st.integers(1, 12), st.integers(2, 5))
def test_spread_keeps_both_ends(length, count):
    ways = [Candidate(ratio, 8, "low", 1, {}) for ratio in range(length)]
    chosen = spread(ways, count)
    assert chosen[0] is ways[0] and chosen[-1] is ways[-1] and len(chosen) <= count
    assert [c.ratio for c in chosen] == sorted({c.ratio for c in chosen})


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=8))
def test_nothing_beats_what_is_on_the_front(pairs):
    points = [{"accuracy": {"accuracy": gain}, "boards": {"b": {"q": {"value": cost}}}} for cost, gain in pairs]
    front = on_front(points, "b", "q")
    for index, (cost, gain) in enumerate(pairs):
        beaten = any((c < cost and g >= gain) or (c <= cost and g > gain) for c, g in pairs)
        assert (index in front) <= (not beaten)
        assert beaten or (cost, gain) in {pairs[i] for i in front}


def test_predictions_of_a_bundle_are_those_that_its_manifest_gives(small_bundle):
    manifest = json.loads((small_bundle / "manifest.json").read_text())
    made = predictions(manifest["cost"], load_profile(BOARD), 1, manifest["ways"], manifest["shots"])
    assert set(made) == {"predict", "step", "memory"}
    assert all(0 < p.low <= p.value <= p.high and p.source for p in made.values())


@pytest.mark.slow(12)
def test_command_keeps_its_limits(cli_here, own_small_run, tmp_path):
    done = cli_here(
        "export", own_small_run, "-o", tmp_path / "b.gems", "--device", BOARD,
        "--max-latency-ms", "4", "--max-memory-mb", "130", "--recover-iterations", "0", "--episodes", "2", "--no-int8",
        "--json",
    )  # fmt: skip
    document = json.loads(done.stdout)
    predicted = document["budget"]["predicted"][BOARD]
    assert predicted["predict"]["interval"][1] <= 4 and predicted["memory"]["interval"][1] <= 130
    assert document["budget"]["limits"] == {"max_latency_ms": 4.0, "max_memory_mb": 130.0}
    assert predicted["predict"]["tag"] == "predicted" and predicted["predict"]["source"]


@pytest.mark.slow(12)
def test_family_and_its_front(cli_here, own_small_run, tmp_path):
    done = cli_here(
        "export", own_small_run, "--ratio", "0,0.5", "-o", tmp_path / "f.gems", "--device", f"{BOARD},rpi-4b",
        "--round-to", "4", "--recover-iterations", "0", "--episodes", "2", "--no-int8", "--json",
    )  # fmt: skip
    document = json.loads(done.stdout)
    assert [one["ratio"] for one in document["family"]] == pytest.approx([0, 0.5], abs=0.1)
    assert {p.name for p in tmp_path.iterdir()} == {"f-0.gems", "f-0.5.gems", "f-front.html"}
    page = (tmp_path / "f-front.html").read_text()
    assert "<svg" in page and "rpi-4b" in page and not re.search(r"https?://(?!www\.w3\.org)", page)
    slow, fast = (one["boards"]["rpi-4b"]["predict"]["value"] for one in document["family"])
    assert fast <= slow


@pytest.mark.parametrize(
    "options,message",
    [
        (("--max-latency-ms", "5"), "--max-latency-ms needs a board"),
        (("--device", "rpi-99", "--max-latency-ms", "5"), "unknown device 'rpi-99'"),
        (("--device", "stm32h743", "--max-latency-ms", "5"), "no onnxruntime"),
        (("--ratio", "0.5,many"), "--ratio 0.5,many: give a number"),
        (("--ratio", "0.5,0.5"), "the same ratio twice"),
    ],
)
def test_bad_limits(cli_here, small_run, tmp_path, options, message):
    done = cli_here("export", small_run, "-o", tmp_path / "b.gems", *options, code=2)
    assert message in done.stderr and done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())
