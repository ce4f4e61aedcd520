"""`export --int8`, which a board's name implies, and what the board's commands make of it, by the command line."""

import json
import shutil

import handmade as hm
import numpy as np
import pytest
from PIL import Image

from gems_edge.device import Learner
from gems_edge.errors import UserError
from gems_edge.export.pipeline import precision_for

pytestmark = pytest.mark.slow(4)


@pytest.fixture(scope="module")
def bundle(cli_here, small_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "small.gems"
    run = shutil.copytree(small_run, path.parent / "small")
    told = cli_here("export", run, "--ratio", "0", "--episodes", "8", "--device", "rpi-4b", "-o", path)
    assert "int8 (support):" in told.stderr and "% of labels agree" in told.stderr
    precision = json.loads((path / "manifest.json").read_text())["precision"]
    assert f"boards answer in {precision} unless" in told.stderr
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Discs, bars and crosses of many sizes, dark on white."""
    place, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    y, x = np.mgrid[-1:1:56j, -1:1:56j]
    for name, shape in {
        "disc": lambda r: x**2 + y**2 < r**2, "bar": lambda r: np.abs(x) < r / 3,
        "cross": lambda r: np.minimum(np.abs(x - y), np.abs(x + y)) < r / 4,
    }.items():  # fmt: skip
        for number in range(6):
            folder = place / ("support" if number < 2 else "new") / (name if number < 2 else "")
            folder.mkdir(parents=True, exist_ok=True)
            pixels = 255 - 235 * shape(random.uniform(0.5, 0.9)) + random.normal(0, 4, x.shape)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{name}-{number}.png")
    return place


def test_manifest_of_a_quantised_bundle(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    files, about = manifest["files"], manifest["int8"]
    assert manifest["format_version"] == 1  # a reader without int8 needs nothing of it
    assert files["predict.int8.onnx"]["bytes"] < files["predict.onnx"]["bytes"] / 2
    assert about["calibration"]["split"] == "val" and len(about["layers"]) == 4
    assert manifest["cost"]["predict_int8"]["macs"] == manifest["cost"]["predict"]["macs"]
    found = about["accuracy"]["support"]
    # The fp32 column is onnxruntime's on the very episodes of the manifest's own accuracy, which is torch's.
    assert found["fp32"]["accuracy"] == pytest.approx(manifest["accuracy"]["support"]["accuracy"], abs=0.006)
    change = found["int8"]["accuracy"] - found["fp32"]["accuracy"]
    assert found["difference"]["accuracy"] == pytest.approx(change) and abs(change) < 0.05
    assert found["agreement"] > 0.95 and found["probability_difference"] < 0.02
    assert manifest["precision"] == ("int8" if change >= -0.005 else "fp32")


@pytest.mark.parametrize("change, precision", [(0.01, "int8"), (-0.005, "int8"), (-0.0051, "fp32")])
def test_half_a_point_is_what_int8_may_cost(change, precision):
    assert precision_for({"difference": {"accuracy": change}}) == precision


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_bundle_answers_as_it_was_exported_to(bundle, tmp_path, precision):
    shutil.copytree(bundle, tmp_path / "b.gems")
    hm.edit_manifest(tmp_path / "b.gems", lambda manifest: manifest.update(precision=precision))
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28), np.uint8)
    learner = Learner.load(tmp_path / "b.gems", threads=1)
    learner.adapt(images, ["a", "a", "b", "b"])
    answers = {name: learner.in_precision(name).predict(images) for name in ("fp32", "int8")}
    assert not np.array_equal(*answers.values())
    np.testing.assert_array_equal(learner.predict(images), answers[precision])


def test_a_precision_without_its_graph_is_refused(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "b.gems")
    for change in (
        lambda manifest: manifest.update(precision="int4"),
        lambda manifest: (manifest["files"].pop("predict.int8.onnx"), manifest.update(precision="int8")),
    ):
        hm.edit_manifest(tmp_path / "b.gems", change)
        with pytest.raises(UserError, match="'precision' must be one of fp32"):
            Learner.load(tmp_path / "b.gems")


def test_evaluate_shows_both_precisions(cli_here, bundle):
    document = json.loads(cli_here("evaluate", bundle, "--episodes", "8", "--json").stdout)
    manifest = json.loads((bundle / "manifest.json").read_text())
    stored = manifest["int8"]["accuracy"]["support"]
    assert document["int8"]["accuracy"] == stored["int8"]["accuracy"]
    assert document["accuracy"] == stored["fp32"]["accuracy"]
    assert document["int8"]["difference"] == stored["difference"]
    told = cli_here("evaluate", bundle, "--episodes", "3").stdout
    assert "fp32       support" in told and "int8       support" in told and "of labels agree" in told


def test_predict_in_int8_from_a_state(cli_here, bundle, photos, tmp_path):
    state = tmp_path / "shapes.state"
    cli_here("adapt", bundle, "--support", photos / "support", "-o", state)
    rows = {
        precision: json.loads(
            cli_here("predict", bundle, "--state", state, "--precision", precision, photos / "new", "--json").stdout
        )
        for precision in ("fp32", "int8")
    }
    assert [row["image"] for row in rows["fp32"]] == [row["image"] for row in rows["int8"]] and len(rows["int8"]) == 12
    pairs = [(a["probabilities"][n], b["probabilities"][n]) for a, b in zip(*rows.values()) for n in a["probabilities"]]
    differences = [abs(a - b) for a, b in pairs]
    assert 0 < np.mean(differences) < 0.05
    assert np.mean([a["label"] == b["label"] for a, b in zip(*rows.values())]) >= 0.9


def test_bench_says_which_graph_is_faster(bundle):
    """Of `bench` only what it does for int8: the rest takes its time."""
    from gems_edge.cli.bench_text import _int8_line as told
    from gems_edge.device.bench import _int8 as measured
    from gems_edge.device.bundle import read_bundle

    found = measured(read_bundle(bundle), 1, "here")
    assert found["predict"]["p50"] > 0 and found["predict"]["tag"] == "measured"
    low, high = found["times_faster"]["interval"]["p50"]
    assert 0 < low <= found["times_faster"]["p50"] <= high
    for interval, word in (([1.2, 1.4], "is faster"), ([0.5, 0.9], "is slower"), ([0.9, 1.1], "neither")):
        assert word in told({"p50": sum(interval) / 2, "interval": {"p50": interval}}, "here")


def test_a_quantised_bundle_may_be_replaced(bundle, tmp_path):
    from gems_edge.export.bundle import check_target

    check_target(bundle)
    shutil.copytree(bundle, tmp_path / "mine.gems")
    (tmp_path / "mine.gems" / "notes.txt").write_text("keep")
    with pytest.raises(UserError, match="not a bundle"):
        check_target(tmp_path / "mine.gems")


def without_int8(manifest):
    for entry in ("int8", "precision"):
        manifest.pop(entry)
    manifest["files"].pop("predict.int8.onnx")


def test_what_is_refused(cli_here, bundle, tmp_path):
    plain = tmp_path / "plain.gems"
    shutil.copytree(bundle, plain)
    hm.edit_manifest(plain, without_int8)
    refused = cli_here("predict", plain, "--precision", "int8", tmp_path / "x.png", code=2)
    assert "has no quantised graph" in refused.stderr
    run = tmp_path / "group"
    short = ("--iterations", "1", "--steps", "1", "--queries", "2", "--meta-batch", "1", "--validation-episodes", "2")
    cli_here("train", "--data", "glyphs", "--widths", "8", "--normalization", "group", *short, "-o", run)
    refused = cli_here("export", run, "--ratio", "0", "--int8", "-o", tmp_path / "g.gems", code=2)
    assert "mode group" in refused.stderr and not (tmp_path / "g.gems").exists()
    cli_here("export", run, "--ratio", "0", "--episodes", "2", "--device", "rpi-4b", "-o", tmp_path / "g.gems")
    assert not {"precision", "int8"} & json.loads((tmp_path / "g.gems" / "manifest.json").read_text()).keys()
