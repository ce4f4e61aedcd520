"""tools/bench_training.py at its smallest, against plain torch alone: it compares, it measures, it resumes, and a wrong
gradient stops it."""

import json
import shutil
from pathlib import Path

import bench_training
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from training_roofline import demand
from training_tables import target

TOOLS = Path(__file__).parents[1] / "tools"

ROW = [
    "--size",
    "16",
    "--width-multiplier",
    "0.0625",
    "--method",
    "maml",
    "--ways",
    "2",
    "--queries",
    "2",
    "--steps",
    "1",
]
QUICK = ["--meta-batch", "2", "--threads", "1", "--rounds", "2", "--block-seconds", "0.01", "--without-peers"]


@pytest.fixture
def bench(environment, monkeypatch, tmp_path):
    """`bench(*options)` runs the command on a file of this test: its result, and that file."""
    for name in ("GEMS_EDGE_CACHE", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, environment[name])
    output = tmp_path / "found.json"
    return lambda *options: (
        CliRunner().invoke(bench_training.main, [*ROW, *QUICK, *options, "-o", str(output)]),
        output,
    )


@pytest.mark.slow(20)
def test_compares_measures_and_resumes(bench):
    done, output = bench()
    assert done.exit_code == 0, done.output
    document = json.loads(output.read_text())
    [(name, row)] = document["rows"].items()
    assert name == "conv4@0.0625 16×16×1 maml" and name in done.stdout
    assert 0 < row["check"]["differences"]["gems-edge"] < 1e-10
    assert set(row["seconds"]) == set(row["processor_seconds"]) == {"gems-edge", "plain"}
    assert min(row["seconds"].values()) > 0 and row["rounds"] == 2 and row["fastest_peer"] == "plain"
    for memory in row["memory"].values():
        assert 50 < memory["base_mb"] < memory["process_mb"]
    roof = row["roofline"]
    assert roof["flops_share"] == pytest.approx(roof["flops"] / roof["flops_per_second"] / row["seconds"]["gems-edge"])
    assert row["data"]["images_per_episode"] == 6 and row["data"]["seconds"] > 0
    again, _ = bench()
    assert again.exit_code == 0 and name not in again.stderr and json.loads(output.read_text()) == document
    other, _ = bench("--shots", "2")
    assert other.exit_code == 1 and "other settings" in other.output


@pytest.mark.slow(20)
def test_a_wrong_gradient_stops_it(bench, tmp_path, monkeypatch):
    for file in (*TOOLS.glob("training_*.py"), TOOLS / "process_peak.py"):
        shutil.copy(file, tmp_path)
    peers = tmp_path / "training_peers.py"
    right, wrong = "w - setting.inner_lr * g", "w - 1.001 * setting.inner_lr * g"
    assert right in peers.read_text()
    peers.write_text(peers.read_text().replace(right, wrong))
    monkeypatch.setattr(bench_training, "WORKER", tmp_path / "training_worker.py")
    done, output = bench()
    assert done.exit_code == 1 and "meta-gradient of gems-edge differs" in done.output
    assert not output.exists()


def test_demand_counts_backward_too_and_no_views():
    images, weights = torch.rand(3, 5), torch.rand(7, 5, requires_grad=True)

    def iterate():
        product = images.view(3, 5) @ weights.t()
        torch.autograd.grad(product.sum(), weights)

    found = demand(iterate)
    assert found["flops"] == 2 * (2 * 3 * 5 * 7)  # the product, and the weights' gradient
    product, operands = 3 * 7, 3 * 5 + 7 * 5
    # Both products read and write once; the sum reads one and writes a number; its gradient is an expanded number.
    least, most = 4 * (2 * operands + product), 4 * (2 * (operands + product) + 3 * product)
    assert least <= found["bytes"] <= most
    weight, maps = torch.rand(4, 2, 3, 3), torch.rand(1, 2, 8, 8)
    assert demand(lambda: F.conv2d(maps, weight, padding=1))["flops"] == 2 * 4 * 2 * 9 * 64


def test_targets():
    def row(method, size, backbone="conv4"):
        return {"method": method, "fastest_peer": "higher", "setting": {"image_size": size, "backbone": backbone}}

    assert target(row("maml", 84), False) == ("higher", 1.5) and target(row("maml", 28), False) == ("higher", 1.25)
    assert target(row("anil", 28), False) == ("higher", 5.0) and target(row("boil", 28), False) is None
    assert target(row("maml", 84), True) == ("learn2learn", 5.0) and target(row("anil", 84), True) is None
