"""A bundle with a trunk through the command line: export, adapt, predict, evaluate, bench, report; and tampered."""

import json
import shutil

import numpy as np
import pytest
from small_settings import SMALL

from gems_edge.files import sha256_bytes

BODY = ("--method", "anil", "--normalization", "group")
WHOLE = ("--ratio", "0", "--episodes", "2")


@pytest.fixture(scope="module")
def split(cli_here, made_once):
    """run and split.gems: ANIL on glyphs, whose trunk is the whole body."""

    def make(directory):
        cli_here("train", *SMALL, *BODY, "--iterations", "20", "-o", directory / "run")
        cli_here("export", directory / "run", *WHOLE, "-o", directory / "split.gems")

    return made_once("trunk", make)


def test_export_says_where_it_cuts(split, cli_here, tmp_path):
    result = cli_here("export", split / "run", *WHOLE, "-o", tmp_path / "a.gems", "--json")
    assert "learns from head" in result.stderr
    document = json.loads(result.stdout)
    assert document["trunk"] == {"cut": "head", "features": [32]}
    manifest = json.loads((tmp_path / "a.gems" / "manifest.json").read_text())
    assert manifest["format_version"] == 3 and manifest["trunk"] == document["trunk"]
    cost = manifest["cost"]
    assert cost["trunk"]["macs"] + 5 * 32 == cost["predict"]["macs"]  # the head has a row for each of five classes
    assert cost["adapt_step"]["macs"] < 0.01 * cost["trunk"]["macs"]
    assert manifest["files"].keys() == {
        "adapt.onnx", "predict.onnx", "selftest.safetensors", "trunk.onnx", "weights.safetensors"
    }  # fmt: skip


def test_it_learns_and_answers_on_the_board(split, cli_here, photos):
    bundle, state = split / "split.gems", photos / "s.state"
    taught = json.loads(cli_here("adapt", bundle, "--support", photos / "support", "-o", state, "--json").stdout)
    assert taught["trunk_ms"] > 0 and taught["loss"][-1] < taught["loss"][0]
    text = cli_here("adapt", bundle, "--support", photos / "support", "-o", state).stdout
    assert "ms for the layers that do not learn" in text
    answers = json.loads(cli_here("predict", bundle, "--state", state, photos / "new" / "query", "--json").stdout)
    assert len(answers) == 3 and {*answers[0]["probabilities"]} == {"kind 0", "kind 1", "kind 2"}


def test_the_board_is_as_accurate_as_the_run(split, cli_here):
    on_board, in_torch = (
        json.loads(cli_here("evaluate", split / what, "--episodes", "20", "--json").stdout)
        for what in ("split.gems", "run")
    )
    assert on_board["accuracy"] == pytest.approx(in_torch["accuracy"], abs=0.005)


@pytest.mark.slow(15)
def test_bench_and_report_know_the_trunk(split, cli_here, tmp_path):
    bundle = split / "split.gems"
    document = json.loads(cli_here("bench", bundle, "--device", "rpi-4b,rpi-zero-2w", "--json").stdout)
    assert document["trunk"]["images"] == 1 and 0 < document["trunk"]["p50"]
    assert document["macs"]["trunk"] > document["macs"]["adapt_step"]
    for board in document["devices"].values():
        low, high = board["trunk"]["interval"]["p50"]
        assert low < board["trunk"]["p50"] < high and board["trunk"]["tag"] == "predicted"
    cli_here("report", bundle, "-o", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "learns from" in page and "trunk, 1 image" in page and "trunk.onnx" in page


@pytest.mark.parametrize("command", ["adapt", "predict", "bench", "evaluate", "report"])
def test_a_tampered_or_missing_trunk_is_refused(split, cli_here, photos, command):
    options = {
        "adapt": ["--support", photos / "support", "-o", photos / "s.state"],
        "predict": [photos / "new" / "query"],
        "report": ["-o", photos / "r.html"],
    }
    for number, change in enumerate((lambda trunk: trunk.write_bytes(trunk.read_bytes() + b"x"), lambda t: t.unlink())):
        bundle = photos / f"{number}.gems"
        shutil.copytree(split / "split.gems", bundle)
        change(bundle / "trunk.onnx")
        result = cli_here(command, bundle, *options.get(command, []), code=2)
        assert "trunk.onnx" in result.stderr and len(result.stderr.splitlines()) == 1
        assert not (photos / "s.state").exists() and not (photos / "r.html").exists()


def test_an_export_replaces_a_bundle_with_a_trunk_and_one_without(split, cli_here, tmp_path):
    bundle, of_set = shutil.copytree(split / "split.gems", tmp_path / "a.gems"), tmp_path / "run"
    cli_here("train", *SMALL, "--method", "anil", "--normalization", "support", "--iterations", "3", "-o", of_set)
    cli_here("export", of_set, *WHOLE, "-o", bundle)
    assert json.loads((bundle / "manifest.json").read_text())["trunk"] is None and not (bundle / "trunk.onnx").exists()
    cli_here("export", split / "run", *WHOLE, "-o", bundle)
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    assert sha256_bytes((bundle / "trunk.onnx").read_bytes()) == files["trunk.onnx"]["sha256"]


def test_ways_of_export_go_with_a_trunk(split, cli_here, photos):
    """Pruned, with less memory, and within a budget that counts the trunk over all photos."""
    few = ["--episodes", "2", "--recover-iterations", "2"]
    run = shutil.copytree(split / "run", photos / "run")
    cli_here("export", run, "--ratio", "0.5", "--memory", "low", *few, "-o", photos / "half.gems")
    manifest = json.loads((photos / "half.gems" / "manifest.json").read_text())
    assert 0.4 < manifest["ratio"]["reached"] and manifest["trunk"]["features"] == manifest["backbone"]["widths"][-1:]
    budget = ["--device", "rpi-zero-2w", "--max-adapt-ms", "300", "--max-memory-mb", "150"]
    cli_here("export", run, *budget, *few, "-o", photos / "within.gems")
    within = json.loads((photos / "within.gems" / "manifest.json").read_text())
    predicted = within["budget"]["predicted"]["rpi-zero-2w"]["adapt"]
    assert within["trunk"] and 0 < predicted["value"] <= 300 and np.isfinite(predicted["interval"]).all()
    cli_here("adapt", photos / "half.gems", "--support", photos / "support", "-o", photos / "s.state")
