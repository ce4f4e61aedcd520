"""What `train --ticket` refuses: in one line, and nothing is written or lost."""

import dataclasses

import pytest
from ticket_runs import DENSE, ITERATIONS, PMT, TINY, ticket_of

from gems_edge.meta.run import Run
from gems_edge.meta.settings.run import write_config
from gems_edge.models.ticket import save_ticket

REFUSED = [
    (("--ticket", "mwt", "--ratio", "1"), "--ratio 1"),
    (("--ticket", "mwt", "--ratio", "-0.1"), "--ratio"),
    (("--ticket", "mwt", "--ratio", "nan"), "--ratio"),
    (("--ticket", "sr", "--ratio", "0.999"), "without weights"),
    ((*PMT, "--ratio", "0.999"), "without weights"),
    ((*PMT, "--unit", "channel", "--ratio", "0.99"), "too few channels"),
    (("--ticket", "mwt", "--unit", "channel", "--ratio", "0.99"), "too few channels"),
    (("--ratio", "0.8"), "--ratio belongs to a ticket"),
    (("--rewind", "3"), "--rewind belongs to a ticket"),
    (("--ticket", "mwt", "--rewind", "13"), "beyond"),
    ((*PMT, "--rewind", "3"), "--rewind"),
    (("--ticket", "snip", "--unit", "channel"), "--unit channel"),
    (("--ticket", "mwt", "--unit", "channel", "--rounds", "2"), "--rounds"),
    ((*PMT, "--rounds", "2"), "--rounds"),
    ((*PMT, "--dense-run", DENSE), "--dense-run"),
    (("--ticket", "mwt", "--rounds", "2", "--dense-run", DENSE), "--dense-run"),
    (("--ticket", "mwt", "--dense-run", DENSE, "--lr", "0.5"), "lr = 0.001, not 0.5"),
    (("--ticket", "mwt", "--dense-run", DENSE, "--rewind", "3"), "--keep 3"),
    (("--ticket", "mwt", "--dense-run", "NOTHING"), "NOTHING"),
    ((*PMT, "--delta", "1"), "--delta"),
    ((*PMT, "--interval", "0"), "--interval"),
    ((*PMT, "--queue", "0"), "--queue"),
    (("--ticket", "sr", "--head-keep", "2"), "--head-keep"),
    (("--keep", "nonsense"), "--keep"),
    (("--keep", "every:0"), "--keep"),
    (("--keep", "-1"), "--keep"),
    (("--ticket", "lottery"), "lottery"),
]


@pytest.mark.parametrize("options, message", REFUSED, ids=[" ".join(options) for options, _ in REFUSED])
def test_bad_input_is_refused_in_one_line_and_writes_nothing(trained, gems, tmp_path, options, message):
    places = {DENSE: trained("dense").directory, "NOTHING": tmp_path / "NOTHING"}
    options = [places.get(option, option) for option in options]
    assert message in gems("train", *TINY, *options, "-o", tmp_path / "run", code=2)
    assert not list(tmp_path.iterdir())


def test_only_a_finished_dense_run_gives_trained_weights(trained, gems, tmp_path):
    run = ("-o", tmp_path / "run")
    sparse = trained("mwt").directory
    assert "trained a ticket" in gems("train", *TINY, "--ticket", "mwt", "--dense-run", sparse, *run, code=2)
    unfinished = Run(tmp_path / "unfinished")
    unfinished.directory.mkdir()
    write_config(unfinished.config_path, trained("dense").config())
    options = (*TINY, "--ticket", "rr", "--dense-run", unfinished.directory)
    assert "not finished" in gems("train", *options, *run, code=2)
    unfinished.save_checkpoint(dataclasses.replace(trained("dense").checkpoint(), iteration=ITERATIONS - 1))
    assert "not finished" in gems("train", *options, *run, code=2)
    assert not (tmp_path / "run").exists()


def test_a_ticket_file_that_does_not_fit_is_refused(trained, gems, tmp_path):
    path, run = tmp_path / "given.ticket", ("-o", tmp_path / "run")
    ticket = ticket_of(trained("mwt"))

    def refused(*options) -> str:
        return gems("train", *TINY, *options, "--ticket-file", path, *run, code=2)

    assert "given.ticket" in refused("--ticket", "mwt")  # not there
    save_ticket(path, ticket)
    assert "widths" in refused("--ticket", "mwt", "--widths", "8")
    assert "--ticket" in refused()  # and no method
    assert "pmt" in refused("--ticket", "pmt") and "0.5" in refused("--ticket", "mwt", "--ratio", "0.5")
    assert "channel" in refused("--ticket", "mwt", "--unit", "channel")
    path.write_bytes(path.read_bytes()[:-10])
    assert "damaged" in refused("--ticket", "mwt")
    assert [place.name for place in tmp_path.iterdir()] == ["given.ticket"]


def test_a_run_goes_on_only_with_its_own_ticket(trained, gems):
    run = trained("rm")
    before = {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()}
    assert "ratio = 0.8, not 0.5" in gems("train", "--resume", "--ratio", "0.5", "-o", run.directory, code=2)
    assert "method" in gems("train", "--resume", "--ticket", "sr", "-o", run.directory, code=2)
    assert "--resume" in gems("train", *TINY, "--ticket", "rm", "-o", run.directory, code=2)
    dense = trained("dense").directory
    assert "ticket" in gems("train", "--resume", "--ticket", "rm", "-o", dense, code=2)
    assert before == {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()}


def test_global_pruning_that_empties_a_layer_says_so(trained, gems, tmp_path):
    """Known only after training: then what was trained is there to go on with."""
    options = (*TINY, "--ticket", "mwt", "--ratio", "0.999", "-o", tmp_path / "run")
    message = gems("train", *options, code=2)
    assert "without weights" in message and f"--dense-run {tmp_path / 'run' / 'search'}" in message
    again = ("--ticket", "mwt", "--ratio", "0.9", "--dense-run", tmp_path / "run" / "search", "-o", tmp_path / "again")
    gems("train", *TINY, *again)
