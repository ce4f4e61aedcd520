"""Export through the real command line, to a bundle that the board's commands use."""

import json
import os
import shutil

import numpy as np
import onnx
import pytest
from PIL import Image
from small_settings import EXPORT

from gems_edge.device.bundle import read_bundle
from gems_edge.device.selftest import run_selftest


@pytest.fixture(scope="module")
def photos(environment, tmp_path_factory):
    """Dark characters on white paper: seven classes to teach, as a user's photos."""
    from gems_edge.data.episodes import make_sampler
    from gems_edge.data.sources import load_images

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])
        glyphs = load_images("glyphs")
    indices = make_sampler(glyphs, "test", 7, 1, 4, seed=3).draw(0, 0)
    place = tmp_path_factory.mktemp("photos")
    for row in range(7):
        (place / "support" / f"sign {row}").mkdir(parents=True)
        (place / "new").mkdir(exist_ok=True)
        for part, chosen in (("support", indices.support[[row]]), ("new", indices.query[row])):
            for number, index in enumerate(chosen):
                name = f"sign {row}/{number}.png" if part == "support" else f"{row}-{number}.png"
                Image.fromarray(255 - glyphs.images[index, :, :, 0]).save(place / part / name)
    return place


def test_manifest_and_json(cli_here, own_small_run, tmp_path):
    bundle = tmp_path / "dense.gems"
    document = json.loads(
        cli_here("export", own_small_run, "--ratio", "0", "--episodes", "10", "-o", bundle, "--json").stdout
    )
    keys = "bundle ratio params_before params_after macs_before macs_after accuracy_before accuracy_after"
    assert {*keys.split(), "normalization", "bytes"} <= document.keys()
    assert document["ratio"] == 0 and document["params_before"] == document["params_after"]
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert sorted(os.listdir(bundle)) == [
        "adapt.onnx",
        "manifest.json",
        "manifest.sha256",
        "predict.onnx",
        "selftest.safetensors",
        "weights.safetensors",
    ]
    assert run_selftest(read_bundle(bundle)).difference["fp32"] < 1e-6
    check = manifest["verification"]
    assert check["episodes"] == 5 and check["steps"] == 3 and check["decision"] is None
    for kind in ("update", "forward", "answer"):
        assert 0 < check[kind]["error"] <= check[kind]["allowed"]
    assert manifest["cost"]["predict"]["macs"] == manifest["macs"]["after"]
    assert str(own_small_run.parent) not in (bundle / "manifest.json").read_text()
    onnx.checker.check_model(str(bundle / "predict.onnx"), full_check=True)


def test_the_bundle_learns_on_the_board(cli_here, small_bundle, photos, tmp_path):
    state = tmp_path / "signs.state"
    taught = json.loads(
        cli_here("adapt", small_bundle, "--support", photos / "support", "--steps", "4", "-o", state, "--json").stdout
    )
    assert taught["loss"][0] > taught["loss"][-1] and taught["steps"] == 4 and len(taught["classes"]) == 7
    answers = json.loads(cli_here("predict", small_bundle, "--state", state, photos / "new", "--json").stdout)
    assert len(answers) == 28
    right = np.mean([answer["label"] == f"sign {os.path.basename(answer['image'])[0]}" for answer in answers])
    assert right > 2 / 7  # seven classes, one photo each, a network trained for half a minute; chance is one seventh
    single = json.loads(
        cli_here("predict", small_bundle, "--state", state, photos / "new" / "3-1.png", "--json").stdout
    )
    same = next(answer for answer in answers if answer["image"].endswith("3-1.png"))
    assert single[0]["label"] == same["label"] and single[0]["probability"] == pytest.approx(
        same["probability"], abs=1e-5
    )


@pytest.mark.slow(10)
@pytest.mark.parametrize(
    "backbone,method,head,normalization",
    [
        ("conv4", "maml", "per-class", "group"),
        ("conv4", "boil", "per-class", "transductive"),
        ("resnet12", "anil", "shared", "support"),
        ("resnet12", "maml", "shared", "group"),
    ],
)
def test_every_supported_model_goes_the_whole_way(cli_here, photos, tmp_path, backbone, method, head, normalization):
    model = ["--backbone", backbone, "--method", method, "--head", head, "--normalization", normalization]
    model += ["--widths", "16"]
    short = ["--iterations", "3", "--steps", "2", "--queries", "4", "--meta-batch", "1", "--validation-episodes", "2"]
    cli_here("train", *model, *short, "-o", tmp_path / "run")
    pruned = ["--ratio", "0.5", "--round-to", "4", "--recover-iterations", "2", "--episodes", "3"]
    given = () if method == "anil" else ("--steps", "2")
    cli_here("export", tmp_path / "run", *pruned, *given, "-o", tmp_path / "a.gems")
    manifest = json.loads((tmp_path / "a.gems" / "manifest.json").read_text())
    # What is left out is chosen by the number of photos: one of each class here.
    steps = 2 if given else manifest["rule"]["steps_by_shots"][0][1]
    assert steps in (1, 2) and ("steps_tried" in manifest["rule"]) == (not given)
    assert manifest["normalization"] == ("group" if normalization == "group" else "support")
    assert manifest["provenance"]["trained_as"] == normalization
    support = tmp_path / "support"
    shutil.copytree(photos / "support", support)
    if head == "per-class":  # of five ways; seven classes are too many for it, four are fine
        result = cli_here("adapt", tmp_path / "a.gems", "--support", support, "-o", tmp_path / "s.state", code=2)
        assert "5" in result.stderr and "7" in result.stderr and not (tmp_path / "s.state").exists()
        for number in (4, 5, 6):
            shutil.rmtree(support / f"sign {number}")
    taught = json.loads(
        cli_here("adapt", tmp_path / "a.gems", "--support", support, "-o", tmp_path / "s.state", "--json").stdout
    )
    assert taught["steps"] == steps and np.isfinite(taught["loss"]).all()
    answers = json.loads(
        cli_here("predict", tmp_path / "a.gems", "--state", tmp_path / "s.state", photos / "new", "--json").stdout
    )
    assert {len(answer["probabilities"]) for answer in answers} == {len(taught["classes"])}


def test_bundle_and_compact_run_have_the_same_accuracy(cli_here, exported):
    """Whole episodes: onnxruntime's answers against torch's on the recovered network, the same episodes."""
    on_board = json.loads(cli_here("evaluate", exported / "small.gems", "--episodes", "20", "--json").stdout)
    compact = next((exported / "small" / "compact").iterdir())
    in_torch = json.loads(cli_here("evaluate", compact, "--episodes", "20", "--json").stdout)
    assert on_board["accuracy"] == pytest.approx(in_torch["accuracy"], abs=0.005)
    assert on_board["normalization"] == in_torch["normalization"] == "support"


@pytest.mark.parametrize(
    "ratio, message", [("1", "below 1"), ("-1", "0 (none)"), ("0.999", "allows up to"), ("x", "give a number")]
)
def test_bad_ratios(cli_here, small_run, small_bundle, tmp_path, ratio, message):
    target = tmp_path / "kept.gems"
    shutil.copytree(small_bundle, target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    assert message in cli_here("export", small_run, f"--ratio={ratio}", "-o", target, code=2).stderr
    assert before == {path.name: path.read_bytes() for path in target.iterdir()}


def test_targets_that_must_not_be_replaced(cli_here, small_run, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    assert "not a bundle" in cli_here("export", small_run, "-o", tmp_path / "notes", code=2).stderr
    assert "does not exist" in cli_here("export", small_run, "-o", tmp_path / "no" / "such.gems", code=2).stderr
    assert "not a run" in cli_here("export", tmp_path / "nothing", code=2).stderr
    assert (tmp_path / "notes" / "mine.txt").read_text() == "keep"


def test_a_bundle_that_does_not_reproduce_torch_is_not_written(small_run, environment, tmp_path, monkeypatch):
    """With a tolerance that float32 cannot meet, the check must refuse and leave nothing behind."""
    monkeypatch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])
    from gems_edge.errors import MachineError
    from gems_edge.export import twin
    from gems_edge.export.pipeline import ExportOptions, Reports, export_run

    monkeypatch.setitem(twin.TOLERANCES, "forward", 1e-12)
    monkeypatch.setattr(twin, "DRAWS", 0)
    with pytest.raises(MachineError, match="does not reproduce torch"):
        export_run(small_run, tmp_path / "never.gems", ExportOptions(0.0, None, 8, 2, 1), Reports(lambda message: None))
    assert list(tmp_path.iterdir()) == []


def test_exporting_again_reuses_the_recovery_and_replaces_the_bundle(cli_here, exported, tmp_path):
    run, bundle = (shutil.copytree(exported / name, tmp_path / name) for name in ("small", "small.gems"))
    compact = next((run / "compact").iterdir()) / "weights.safetensors"
    before = compact.stat().st_mtime_ns
    cli_here("export", run, *EXPORT, "-o", bundle)
    assert compact.stat().st_mtime_ns == before
    weights = [(place / "small.gems" / "weights.safetensors").read_bytes() for place in (exported, tmp_path)]
    assert weights[0] == weights[1]
    assert {path.name for path in tmp_path.iterdir()} == {"small", "small.gems"}
