"""Published networks for ncnn, what its wheel runs of one, and times fitted to instructions that are made up."""

import csv
import json
from collections import Counter

import count_networks
import fit_cycles
import numpy as np
import pytest
from count_networks import count_ncnn
from debian import Unavailable
from ncnn_networks import MAGIC, Unknown, ncnn_text
from published_layers import Net
from published_networks import build

SIDE, CHANNELS = 14, 64


def blobs(text):
    """(read, written) names of a network's text."""
    magic, counts, *lines = text.splitlines()
    assert int(magic) == MAGIC and int(counts.split()[0]) == len(lines)
    read, written = [], []
    for line in lines:
        _, _, inputs, outputs, *rest = line.split()
        read += rest[: int(inputs)]
        written += rest[int(inputs) : int(inputs) + int(outputs)]
    assert int(counts.split()[1]) == len(written)
    return read, written


@pytest.mark.parametrize("network", count_networks.NETWORKS)
def test_each_tensor_of_a_network_is_written_once_and_read_once(network):
    name, pixels = network.split("@")
    read, written = blobs(text := ncnn_text(build(name, int(pixels))))
    assert max(Counter(read).values()) == max(Counter(written).values()) == 1
    assert {*written} - {*read} == {"result"} and {*read} <= {*written}
    weights = sum(np.prod(each.dims) for each in build(name, int(pixels)).graph.initializer if len(each.dims) in (2, 4))
    numbers = [dict(part.split("=") for part in line.split() if "=" in part) for line in text.splitlines()]
    kinds = [line.split()[0] for line in text.splitlines()]
    sizes = {"InnerProduct": "2", "Convolution": "6", "ConvolutionDepthWise": "6"}
    assert weights == sum(int(given[sizes[kind]]) for kind, given in zip(kinds, numbers) if kind in sizes)


def test_what_ncnn_is_not_given_is_named():
    net = Net(8)
    with pytest.raises(Unknown, match="Erf is not written for ncnn"):
        ncnn_text(net.model(net.op("Erf", ["images"], (1, 3, 8, 8))))


@pytest.mark.slow(15)
def test_ncnn_runs_on_the_emulated_board(root):
    net = Net(SIDE)
    model = net.model(net.conv("images", CHANNELS, act="Relu"))
    try:
        counts = count_ncnn(root, "cortex-a72", model, caches=False)["whole"]
    except Unavailable as reason:
        pytest.skip(str(reason))
    products = SIDE * SIDE * 3 * CHANNELS / 4
    assert products <= counts.multiply <= 1.1 * products


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A table of three boards, and counts of six networks, whose times are sums of cycles to the last digit."""
    rng = np.random.default_rng(0)
    networks = count_networks.NETWORKS[:6]
    kinds = ("multiply", "vector", "load", "store", "scalar", "branch")
    counts = {
        network: {kind: int(number) for kind, number in zip(kinds, 10**6 * rng.uniform(1, 100, 6))}
        for network in networks
    }
    record = tmp_path / "networks.json"
    record.write_text(json.dumps({"counts": {n: {"ncnn": {fit_cycles.CPU: {"whole": c}}} for n, c in counts.items()}}))
    monkeypatch.setattr(fit_cycles, "RECORD", record)
    table = tmp_path / "table.csv"
    with open(table, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("board", "soc", "model", "input", "precision", "runtime", "threads", "latency_ms"))
        for board, clock in (("Raspberry Pi 4B", 1.8), ("One", 1.5), ("Two", 1.0)):
            for network, amounts in fit_cycles.counted("ncnn").items():
                cycles = sum(amounts[term] * each for term, each in fit_cycles.CYCLES.items())
                name, side = network.split("@")
                row = (board, f"4xA72@{clock}GHz", name, f"{side}x{side}x3", "fp32", "ncnn", 1, cycles / clock / 1e6)
                writer.writerow(row)
    return table


def test_times_of_what_was_left_out_are_those_that_the_instructions_make(made_up):
    networks = fit_cycles.counted("ncnn")
    rows = fit_cycles.rows_of(made_up, list(networks))
    problem = fit_cycles.problem_of(rows, networks, fit_cycles.CYCLES)
    parameters = fit_cycles.fit(problem, np.ones(len(rows), bool))
    for label in ([row.network for row in rows], [row.board for row in rows]):
        predicted = fit_cycles.held_out(problem, np.array(label), parameters)
        assert predicted == pytest.approx([row.ms for row in rows], rel=0.02)


def test_bad_input_is_one_line(made_up, capsys, monkeypatch):
    with pytest.raises(SystemExit, match="2"):
        count_networks.main(["NoSuchNet@224"])
    assert "NoSuchNet@224 is none of" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["fit_cycles", str(made_up.parent / "none.csv")])
    with pytest.raises(SystemExit, match="2"):
        fit_cycles.main()
    assert "none.csv is no file" in capsys.readouterr().err
