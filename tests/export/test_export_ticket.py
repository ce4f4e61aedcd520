"""Export of runs that trained a ticket: the ticket says what goes, and the board keeps what it removes at zero."""

import json

import numpy as np
import pytest
from small_settings import SMALL

from gems_edge.device import Learner
from gems_edge.meta.run import Run

pytestmark = pytest.mark.slow(8)

FEW = ("--iterations", "12", "--validate-every", "12", "--interval", "4")


@pytest.fixture(scope="module")
def channel_run(cli_here, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "channel"
    cli_here("train", *SMALL, *FEW, "--ticket", "pmt", "--unit", "channel", "--ratio", "0.8", "-o", run)
    return run


@pytest.fixture(scope="module")
def weight_run(cli_here, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "weight"
    cli_here("train", *SMALL, *FEW, "--head", "per-class", "--ticket", "pmt", "--ratio", "0.7", "-o", run)
    return run


def test_a_channel_ticket_needs_no_recovery(channel_run, cli_here, tmp_path):
    bundle = tmp_path / "small.gems"
    document = json.loads(
        cli_here("export", channel_run, "--ratio", "0.8", "--episodes", "12", "-o", bundle, "--json").stdout
    )
    assert not (channel_run / "compact").exists()
    run = Run(channel_run)
    ticket = run.ticket(run.config())
    assert document["widths"] == list(ticket.widths) and document["ratio"] == pytest.approx(0.8, abs=0.02)
    assert document["ticket"] == {"method": "pmt", "unit": "channel", "ratio": 0.8, "kept": 1.0}
    evaluated = json.loads(cli_here("evaluate", channel_run, "--episodes", "12", "--json").stdout)
    assert document["accuracy_before"] == document["accuracy_after"]
    assert document["accuracy_after"]["accuracy"] == evaluated["accuracy"]
    # A board's answers are the run's, but for ties in float32.
    board = json.loads(cli_here("evaluate", bundle, "--episodes", "12", "--json").stdout)
    assert board["accuracy"] == pytest.approx(evaluated["accuracy"], abs=0.01)


def test_a_higher_ratio_prunes_on(channel_run, cli_here, tmp_path):
    options = ("--ratio", "0.9", "--round-to", "4", "--recover-iterations", "3", "--episodes", "3")
    document = json.loads(cli_here("export", channel_run, *options, "-o", tmp_path / "less.gems", "--json").stdout)
    assert document["ratio"] == pytest.approx(0.9, abs=0.02) and 0 < document["ticket"]["kept"] < 1


def test_masks_hold_on_the_board(weight_run, cli_here, tmp_path):
    bundle = tmp_path / "masked.gems"
    document = json.loads(
        cli_here("export", weight_run, "--ratio", "0", "--episodes", "3", "-o", bundle, "--json").stdout
    )
    assert document["ticket"]["kept"] == 1.0 and document["params_before"] == document["params_after"]
    run = Run(weight_run)
    masks = run.ticket(run.config()).masks
    learner = Learner.load(bundle)
    size = learner.bundle.image_size
    images = np.random.default_rng(0).random((6, size, size, learner.bundle.channels), dtype=np.float32)
    for classes in (5, 3):  # a head with one row a class may be taught fewer
        labels = [n % classes for n in range(6)]
        start = learner.bundle.start_weights(classes)
        learner.adapt(images, labels)
        learner.save(tmp_path / f"{classes}.state")
        taught = Learner.load(bundle)
        taught.load_state(tmp_path / f"{classes}.state")
        moved = 0
        for name, mask in masks.items():
            weight, kept = taught._now.weights[name], mask[:classes] if name.startswith("head") else mask
            assert weight.shape == kept.shape and (weight[~kept] == 0).all(), name
            moved += int((weight[kept] != start[name][kept]).sum())
        assert moved > 1000


def test_a_weight_ticket_says_how_much_of_it_is_kept(weight_run, cli_here, tmp_path):
    options = ("--ratio", "0.5", "--recover-iterations", "2", "--episodes", "3")
    document = json.loads(cli_here("export", weight_run, *options, "-o", tmp_path / "half.gems", "--json").stdout)
    assert document["ratio"] == pytest.approx(0.5, abs=0.02)
    # Important channels hold more of the ticket than their share of the weights, which is a half.
    assert 0.5 < document["ticket"]["kept"] < 1
