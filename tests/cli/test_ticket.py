"""gems-edge ticket through the real command line, on two dense runs from one initialisation."""

import json

import pytest
from small_settings import SMALL

from gems_edge.models.ticket import load_ticket


@pytest.fixture(scope="module")
def dense_runs(cli_here, tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    for seed in ("1", "2"):
        options = ("--widths", "16", "--iterations", "12", "--validate-every", "12", "--keep", "every:4")
        cli_here("train", *SMALL, *options, "--init-seed", "7", "--seed", seed, "-o", place / seed)
    return place / "1", place / "2"


def test_find_show_and_train(dense_runs, cli_here, tmp_path):
    file = tmp_path / "mwt.ticket"
    found = json.loads(cli_here("ticket", "find", dense_runs[0], "--ratio", "0.75", "-o", file, "--json").stdout)
    assert found["kept"] == pytest.approx(0.25, abs=1e-4) and found["found"]["iterations"] == 12
    shown = json.loads(cli_here("ticket", "show", file, "-o", tmp_path / "show.html", "--json").stdout)
    assert shown["layer_ratios"] == found["layer_ratios"] and (tmp_path / "show.html").stat().st_size > 10_000
    options = ("--config", dense_runs[0] / "config.toml", "--ticket", "mwt", "--ratio", "0.75")
    cli_here("train", *options, "--ticket-file", file, "-o", tmp_path / "given")
    cli_here("train", *options, "--dense-run", dense_runs[0], "-o", tmp_path / "own")
    given, own = (load_ticket(tmp_path / name / "ticket.safetensors") for name in ("given", "own"))
    assert all((given.masks[name] == own.masks[name]).all() for name in own.masks)
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("given", "own")]
    assert weights[0] == weights[1]
    paper, full = (
        json.loads(cli_here("ticket", "cost", tmp_path / "own", "--book", b, "--json").stdout)
        for b in ("paper", "full")
    )
    # A dense network finds it and a sparser one is trained, in as many iterations.
    assert 0 < paper["train"] < paper["find"] < full["find"] and paper["total"] == paper["train"] + paper["find"]
    page = tmp_path / "run.html"
    cli_here("report", tmp_path / "own", "-o", page)
    assert "Ticket: mwt" in page.read_text()


def test_analyses(dense_runs, cli_here, tmp_path):
    both = ("--ratio", "0.6", "--ratio", "0.9")
    overlap = json.loads(cli_here("ticket", "overlap", *dense_runs, *both, "-o", tmp_path / "o.html", "--json").stdout)[
        "overlap"
    ]
    first = "backbone.blocks.0.conv.weight"
    # From one θ0 and after few iterations the tickets are nearly one.
    assert overlap.keys() == {"0.6", "0.9"} and overlap["0.6"][first][0] == 1 and 0.8 < overlap["0.6"][first][1] <= 1
    ratios = json.loads(cli_here("ticket", "ratios", *dense_runs, "--ratio", "0.8", "--json").stdout)["layer_ratios"][
        "0.8"
    ]
    assert len(ratios) == 2 and all(0 <= share < 1 for ticket in ratios for share in ticket.values())
    document = json.loads(cli_here("ticket", "hamming", dense_runs[0], "-o", tmp_path / "h.html", "--json").stdout)
    assert document["hamming"]["0.8"]["iterations"] == [0, 4, 8, 12]
    distances = document["hamming"]["0.8"]["distances"]
    assert distances[0][0] == 0 and 0 < distances[0][1] < distances[0][3] < 0.4
    document = json.loads(
        cli_here(
            "ticket", "emergence", dense_runs[0], "--with", dense_runs[1], "-o", tmp_path / "e.html", "--json"
        ).stdout
    )
    assert [iteration for iteration, _ in document["emergence"]["0.8"]] == [0, 4, 8, 12]
    assert (
        document["emergence"]["0.8"][-1][1] == 1.0
    )  # the last mask is one of those that the primary mask is common to
    for name in "ohe":
        assert "<svg" in (tmp_path / f"{name}.html").read_text()


def test_bad_input_is_one_line(dense_runs, cli_here, tmp_path):
    assert "pmt" in cli_here("ticket", "find", dense_runs[0], "--ticket", "pmt", "-o", tmp_path / "t", code=2).stderr
    assert "dense run" in cli_here("ticket", "show", dense_runs[0], code=2).stderr
    assert "not there" in cli_here("ticket", "show", tmp_path / "nothing", code=2).stderr
    file = tmp_path / "cut.ticket"
    cli_here("ticket", "find", dense_runs[0], "-o", file)
    cli_here(
        "ticket",
        "find",
        dense_runs[0],
        "--ticket",
        "mwt",
        "--unit",
        "channel",
        "--ratio",
        "0.5",
        "-o",
        tmp_path / "c.ticket",
    )
    assert "one network" in cli_here("ticket", "overlap", file, tmp_path / "c.ticket", code=2).stderr
    file.write_bytes(file.read_bytes()[:-40])
    assert "damaged" in cli_here("ticket", "show", file, code=2).stderr
    assert "directory" in cli_here("ticket", "find", dense_runs[0], "-o", tmp_path, code=2).stderr
