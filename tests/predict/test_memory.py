"""Predicted memory: against fresh processes, honest intervals, and numbers of images not planned for."""

import pytest

from gems_edge.device.batching import images_per_call
from gems_edge.device.bundle import read_bundle
from gems_edge.device.measure import fresh_memory
from gems_edge.errors import UserError
from gems_edge.predict.memory import interpolated, predict_memory

COST = {
    "predict": {"peak_bytes": 2_000_000, "constant_bytes": 1_000_000},
    "adapt_step": {"constant_bytes": 0, "dims": {"images": 25}},
    "memory": {
        "image_bytes": 40_000,
        "predict": {"nodes": 40, "images": [1], "arena_bytes": [3_000_000]},
        "adapt": {"nodes": 400, "images": [5, 25, 50], "arena_bytes": [50_000_000, 210_000_000, 420_000_000]},
    },
}


@pytest.mark.slow(15)
def test_a_real_bundle_takes_what_was_predicted(small_bundle):
    opened = read_bundle(small_bundle)
    images = opened.ways * opened.shots
    for what, count in (("predict", 1), ("adapt", images), ("adapt", 4 * images)):
        measured = [run["peak_mb"] for run in fresh_memory(small_bundle, what, count, threads=1, repeats=2)]
        made = predict_memory(opened.manifest["cost"], count, what)
        assert made.value == pytest.approx(min(measured), rel=0.1), (what, count)
        assert made.low < min(measured) and max(measured) < made.high


def test_memory_grows_with_images():
    made = [predict_memory(COST, count, "adapt").value for count in (1, 5, 15, 25, 30, 50, 100)]
    assert made == sorted(made)
    # 20 images more: 160 MB of the arena, and the images as pixels and as the network's input.
    assert made[3] - made[1] == pytest.approx(160 + 20 * 1.25 * 0.04)
    for what, images in (("predict", 1), ("predict", 100), ("adapt", 7)):
        peak = predict_memory(COST, images, what)
        assert 0 < peak.low < peak.value < peak.high
        assert "x86-64" in peak.source and "not calibrated" in peak.source


def test_a_long_graph_takes_more():
    long = COST["memory"]["adapt"] | {"nodes": 5_000}
    more = predict_memory(COST | {"memory": COST["memory"] | {"adapt": long}}, 25, "adapt").value
    assert more - predict_memory(COST, 25, "adapt").value == pytest.approx(4_600 * 4_400 / 1e6)


def test_a_support_set_that_was_not_planned_for_is_less_certain():
    planned, other = (predict_memory(COST, images, "adapt") for images in (25, 26))
    assert other.high - other.value > 1.5 * (planned.high - planned.value)


def test_a_call_takes_no_more_than_a_batch():
    assert images_per_call(2_000_000) == 1 and images_per_call(300_000) == 3 and images_per_call(0) == 16
    one, hundred = predict_memory(COST, 1, "predict"), predict_memory(COST, 100, "predict")
    assert hundred.value - one.value == pytest.approx(99 * 0.25 * 0.04)  # pixels; the network's input is a batch's


def test_a_trunk_gives_way_to_the_steps():
    """Its peak counts where it is the larger one, its features count in both."""
    memory = COST["memory"] | {"feature_bytes": 100_000, "trunk": COST["memory"]["predict"]}
    split = COST | {"trunk": {"peak_bytes": 2_000_000, "constant_bytes": 600_000}, "memory": memory}
    whole, steps = predict_memory(COST, 25, "adapt").value, predict_memory(split, 25, "adapt").value
    saved = 1.2 * 0.6 + 25 * 0.04  # the trunk's weights are not moved, the images come one by one
    assert steps == pytest.approx(whole - saved + 25 * 0.1)
    trunk = split["trunk"] | {"constant_bytes": 900_000_000}
    assert predict_memory(split | {"trunk": trunk}, 25, "adapt").value > steps + 3 * 600


def test_a_large_networks_weights_count_while_they_load():
    large = COST | {"predict": COST["predict"] | {"constant_bytes": 32_000_000}}
    # Loading them takes more than a call with them would; with small weights the call takes more.
    more = predict_memory(large, 1, "predict").value - predict_memory(COST, 1, "predict").value
    assert more == pytest.approx(3.85 * 32 - (1 + 3 + 0.04))
    frozen = large | {"adapt_step": COST["adapt_step"] | {"constant_bytes": 32_000_000}}
    assert predict_memory(frozen, 1, "adapt").value > predict_memory(large, 1, "adapt").value


def test_interpolation():
    places, values = [5, 25, 50], [50, 210, 420]
    assert [interpolated(places, values, place) for place in (5, 15, 25, 50, 75)] == [50, 130, 210, 420, 630]
    assert interpolated(places, values, 1) == 18 and interpolated([10, 20], [0, 50], 5) == 0
    assert interpolated([5], [50], 10) == 100


@pytest.mark.parametrize("images, what", [(0, "adapt"), (1, "train")])
def test_bad_memory_questions(images, what):
    with pytest.raises(UserError):
        predict_memory(COST, images, what)


def test_an_export_tells_it(small_bundle, capsys):
    from gems_edge.cli.exported import document_of, show

    opened = read_bundle(small_bundle)
    told = document_of(small_bundle, opened.manifest)["predicted_memory_mb"]
    for what, images in (("predict", 1), ("adapt", opened.ways * opened.shots)):
        made = predict_memory(opened.manifest["cost"], images, what)
        assert told[what]["images"] == images and told[what]["peak"] == pytest.approx(made.value, abs=0.1)
        assert told[what]["interval"] == pytest.approx([made.low, made.high], abs=0.1)
        assert told[what]["tag"] == "predicted" and "x86-64" in told[what]["source"]
    show(small_bundle, opened.manifest)
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "memory of adapt" in line)
    assert "predicted" in row and f"{told['adapt']['peak']:.0f} MB (" in row
