import json

import pytest
from board import assert_refused, gems_edge, handmade  # noqa: F401

from gems_edge.device import bench, measure


@pytest.fixture
def here(tmp_path, monkeypatch):
    """h.gems, and few repeats so that the tests are quick; everything is still measured for real."""
    handmade.write_bundle(tmp_path / "h.gems")
    monkeypatch.setattr(bench, "fresh_memory", lambda *arguments: measure.fresh_memory(*arguments, repeats=1))
    monkeypatch.setattr(bench, "cold_starts", lambda *arguments: measure.cold_starts(*arguments, repeats=1))
    return tmp_path


def numbers(section):
    return {
        key
        for key, value in section.items()
        if isinstance(value, int | float) and key not in ("images", "classes", "runs")
    }


def assert_tagged(section, tag):
    assert section["tag"] == tag and section["source"] and section["unit"]
    assert numbers(section) == section["interval"].keys()
    for name, (low, high) in section["interval"].items():
        assert 0 <= low <= section[name] <= high


def test_every_number_is_tagged(gems_edge, here):  # noqa: F811
    result = gems_edge("bench", "h.gems", "--device", "rpi-4b,rpi-zero-2w", "--threads", 1, "--json")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    for section in (document["predict"], document["adapt"]):
        assert section.keys() >= {"p50", "p90", "p99"}
        assert_tagged(section, "measured")
    assert_tagged(document["memory"]["predict"], "measured")
    assert_tagged(document["memory"]["adapt"], "measured")
    assert_tagged(document["cold_start"], "measured")
    assert_tagged(document["macs"], "predicted")
    assert document["threads"] == 1 and document["host"]["onnxruntime"]
    assert document["bytes"]["total"] == sum(entry.stat().st_size for entry in (here / "h.gems").iterdir())
    assert document["devices"].keys() == {"rpi-4b", "rpi-zero-2w"}
    for board in document["devices"].values():
        for section in (board["predict"], board["adapt"], board["memory"]["predict"], board["memory"]["adapt"]):
            assert_tagged(section, "predicted")


def test_table(gems_edge, here):  # noqa: F811
    result = gems_edge("bench", "h.gems", "--device", "rpi-zero-2w")
    assert result.code == 0 and "rpi-zero-2w" in result.out and "predicted" in result.out and "cold start" in result.out
    assert "measuring memory" in result.err


def test_bad_input(gems_edge, here):  # noqa: F811
    assert_refused(gems_edge("bench", "absent.gems"), "not a bundle")
    assert_refused(gems_edge("bench", "h.gems", "--device", "toaster"), "toaster")
    assert_refused(gems_edge("bench", "h.gems", "--threads", "-1"), "--threads")
    handmade.replace_file(here / "h.gems", "adapt.onnx", b"foreign")
    assert_refused(gems_edge("bench", "h.gems"), "adapt.onnx")
