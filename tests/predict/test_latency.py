"""Predicted times: sums of work by rates, intervals that hold their value, sane order, and errors in one line."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gems_edge.errors import UserError
from gems_edge.predict.latency import DERIVED, PRECISIONS, RUNTIMES, latency
from gems_edge.predict.profiles import list_profiles, load_profile
from gems_edge.predict.rates import Measured, constants, published_rates
from gems_edge.predict.work import DERIVED_TERMS, MEASURED_TERMS, TERMS

BOARDS = [device for device in list_profiles() if not load_profile(device).memory_only]
CONV = {"work": {"conv1x1": 100_000_000, "conv_maps": 500_000, "conv_weights": 100_000, "ops": 10}}
works = st.dictionaries(st.sampled_from(TERMS), st.integers(1, 10**9), min_size=1)


@pytest.mark.parametrize("device", BOARDS)
def test_sum_of_work_by_rates(device):
    profile = load_profile(device)
    rates = published_rates(device, profile["core"], profile["clock"], "fp32", 2)
    by_hand = sum(amount * rates.ns[term] for term, amount in CONV["work"].items()) / 1e6
    assert latency(CONV, profile, 2, runtime="ncnn").value == pytest.approx(by_hand)


def test_constants_by_hand():
    """cycles · clock, precision, threads and board of one number, from the file's parts."""
    known, profile = constants(), load_profile("rpi-4b")
    own = known["boards"]["rpi-4b"]
    cycles = known["cores"]["A72"]["conv1x1"] * known["precision"]["int8"]["conv1x1"] * own["factor"]["conv1x1"]
    cycles *= 4 ** (known["threads"]["conv1x1"] + own["threads"]) * own["settings"]["int8-4"]
    found = published_rates("rpi-4b", "Cortex-A72", profile["clock"], "int8", 4).ns["conv1x1"]
    assert found == pytest.approx(cycles / profile["clock"])


@settings(max_examples=60)
@given(works, st.sampled_from(BOARDS), st.sampled_from(RUNTIMES), st.sampled_from(["fp32", "int8"]))
def test_the_interval_holds_the_value(work, device, runtime, precision):
    made = latency({"work": {"ops": 1} | work}, load_profile(device), runtime=runtime, precision=precision)
    assert 0 < made.low < made.value < made.high < math.inf and made.source


@settings(max_examples=60)
@given(works, st.sampled_from(TERMS), st.integers(1, 10**8), st.sampled_from(BOARDS), st.sampled_from(RUNTIMES))
def test_more_work_is_never_faster(work, term, more, device, runtime):
    profile = load_profile(device)
    less, greater = ({"work": w} for w in (work, work | {term: work.get(term, 0) + more}))
    less, greater = (latency(cost, profile, runtime=runtime) for cost in (less, greater))
    assert less.value <= greater.value and less.low <= greater.low and less.high <= greater.high


@pytest.mark.parametrize("device", BOARDS)
def test_more_threads_are_faster_and_the_default_is_all(device):
    profile = load_profile(device)
    times = [latency(CONV, profile, threads).value for threads in range(1, profile["cores"] + 1)]
    assert times == sorted(times, reverse=True) and latency(CONV, profile).value == times[-1]


def test_int8_is_faster_where_a_board_has_dot_products():
    for device in ("rpi-5", "orangepi-5"):
        assert latency(CONV, load_profile(device), precision="int8").value < latency(CONV, load_profile(device)).value


def test_3x3_has_no_winograd_in_onnxruntime():
    cost = {"work": {"conv3x3": 10**9}}
    profile = load_profile("rpi-4b")
    assert latency(cost, profile).value > 1.5 * latency(cost, profile, runtime="ncnn").value


def width(made):
    return made.high / made.low


@pytest.mark.parametrize("term", DERIVED_TERMS)
def test_ops_without_published_rows_are_less_certain_and_say_so(term):
    made = latency({"work": CONV["work"] | {term: 50_000_000}}, load_profile("rpi-4b"))
    assert width(made) > width(latency(CONV, load_profile("rpi-4b"))) and "no published row" in made.source


def test_a_board_without_rows_is_less_certain():
    known, other = load_profile("rpi-4b"), load_profile("beaglebone-ai-64")
    assert width(latency(CONV, other)) > width(latency(CONV, known))
    assert "not calibrated" in latency(CONV, other).source and "not calibrated" not in latency(CONV, known).source
    strange = replace(known, id="x", facts=known.facts | {"core": replace(known.facts["core"], value="Cortex-Z1")})
    assert width(latency(CONV, strange)) > width(latency(CONV, other))
    assert "no published row of a Cortex-Z1" in latency(CONV, strange).source


def test_unknown_ops_widen_upwards_and_are_named():
    plain, odd = (latency(CONV | extra, load_profile("rpi-4b")) for extra in ({}, {"unknown": {"Einsum": 2}}))
    assert odd.value == plain.value and odd.low == plain.low and odd.high > plain.high
    assert "2 ops unknown" in odd.source and "Einsum" in odd.source


def test_a_measured_profile_is_taken_at_its_word():
    ns = {threads: dict.fromkeys(TERMS, 8.0 / threads) for threads in (1, 4)}
    profile = replace(load_profile("rpi-4b"), measured=Measured(ns, {1: 0.1, 4: 0.1}, "measured here"))
    made = latency({"work": {"conv": 10**6, "fed": 10**6}}, profile, 2)
    assert made.value == pytest.approx(2 * 4.0 + profile["call_overhead"] / 1e3)
    assert made.source == "measured here" and width(made) == pytest.approx(math.exp(0.2), rel=0.05)


@settings(max_examples=40)
@given(works, st.sampled_from(BOARDS), st.sampled_from(RUNTIMES), st.sampled_from(["fp32", "int8"]))
def test_more_threads_are_never_slower(work, device, runtime, precision):
    profile = load_profile(device)
    options = {"runtime": runtime, "precision": precision}
    times = [latency({"work": work}, profile, n, **options).value for n in range(1, profile["cores"] + 1)]
    assert times == sorted(times, reverse=True)


def test_more_threads_are_never_slower_where_they_were_measured_so():
    ns = {1: dict.fromkeys(TERMS, 1.0), 4: dict.fromkeys(TERMS, 3.0)}
    profile = replace(load_profile("rpi-4b"), measured=Measured(ns, {1: 0.1, 4: 0.4}, "measured here"))
    alone, all_four = (latency({"work": {"conv": 10**7}}, profile, threads) for threads in (1, 4))
    assert all_four.value == alone.value and width(all_four) >= width(alone)


def test_the_uncertainties_of_a_gradient_step_add_up_as_independent_ones():
    """Two uncertain terms are, together, less uncertain than either; and never less than the board's rates."""
    profile = load_profile("rpi-4b")
    one, other = ({"work": {term: amount}} for term, amount in (("fed", 10**9), ("rows", 10**8)))
    made = [latency(cost, profile, 1) for cost in (one, other, {"work": one["work"] | other["work"]})]
    assert made[2].value == pytest.approx(made[0].value + made[1].value, rel=0.01)
    assert made[2].high < made[0].high + made[1].high
    sure = latency({"work": {"conv1x1": 10**9}}, profile, 1)
    assert width(made[2]) > width(sure)


@pytest.mark.parametrize("runtime", ["ncnn", "tengine", "xnnpack"])
def test_what_only_onnxruntime_spends_is_not_added_to_other_runtimes(runtime):
    plain, more = (latency({"work": CONV["work"] | extra}, load_profile("rpi-4b"), runtime=runtime)
                   for extra in ({}, {"rows": 10**7, "views": 1000}))  # fmt: skip
    assert plain == more


@pytest.mark.parametrize(
    "device, options, words",
    [
        ("rpi-4b", {"threads": 5}, "4 cores"),
        ("rpi-4b", {"threads": 0}, "4 cores"),
        ("rpi-4b", {"runtime": "tvm"}, "unknown runtime 'tvm'"),
        ("rpi-4b", {"precision": "int4"}, "unknown precision 'int4'"),
        ("rpi-5", {"precision": "fp16"}, "no fp16 kernels"),
        ("stm32h743", {}, "no onnxruntime here"),
    ],
)
def test_what_cannot_be_predicted(device, options, words):
    with pytest.raises(UserError, match=words):
        latency(CONV, load_profile(device), **options)


def test_unknown_terms_ask_for_an_update():
    with pytest.raises(UserError, match="update gems-edge"):
        latency({"work": {"quantum": 1}}, load_profile("rpi-4b"))


def test_every_derived_term_is_tied_to_something():
    assert set(DERIVED) == set(DERIVED_TERMS)
    for base, low, typical, high in DERIVED.values():
        assert base in (*MEASURED_TERMS, "cycles") and 0 < low < typical < high


def test_the_stored_constants_are_whole():
    known = constants()
    assert set(known["cores"]) >= {"A53", "A55", "A57", "A72", "A76"}
    for table in (*known["cores"].values(), *known["precision"].values(), known["threads"]):
        assert set(table) == set(MEASURED_TERMS)
    assert known["provenance"]["rows"] > 500 and len(known["provenance"]["networks"]) >= 15
    assert set(PRECISIONS) - {"fp32"} == set(known["precision"])


def test_published_rows():
    """The stored constants against the table they were fitted to, where it lies beside the repository."""
    root = Path(__file__).parents[2]
    table = root.parent / "shared" / "devices" / "published_latencies.csv"
    if not table.exists():
        pytest.skip("../shared/devices/published_latencies.csv is not here")
    command = [sys.executable, str(root / "tools" / "fit_latency.py"), "--check", str(table)]
    said = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True).stdout
    inside = next(line for line in said.splitlines() if line.startswith("  ncnn: "))
    assert float(inside.split()[1].rstrip("%")) >= 90


def test_nothing_of_the_workstation_is_imported():
    code = (
        "import sys, gems_edge.predict.latency, gems_edge.predict.profiles, gems_edge.predict.rates\n"
        "assert not {'torch', 'onnx', 'numpy', 'onnxruntime', 'matplotlib'} & set(sys.modules), 'heavy'"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""
