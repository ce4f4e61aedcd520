"""A run's files are what was written, to the last bit, or they are refused in one line; odd files are no files."""

import json
import os
import random
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gems_edge.errors import UserError
from gems_edge.meta.metrics import append_metrics, read_metrics
from gems_edge.meta.run import Checkpoint, Run
from gems_edge.meta.settings.run import TrainConfig, write_config
from gems_edge.models.spec import ModelSpec
from gems_edge.models.ticket import Ticket, load_ticket, model_of, save_ticket
from gems_edge.report.sections import run_sections
from gems_edge.tickets.primary import read_primary_masks, write_primary_masks

BEST = {"iteration": 5, "accuracy": 0.75, "ci95": 0.02}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of a few numbers, with every kind of file that a training leaves."""
    run = Run(tmp_path_factory.mktemp("run") / "run")
    run.directory.mkdir()
    write_config(run.config_path, TrainConfig(image_size=28, channels=1, widths=(8, 6, 4, 8), seed=3))
    weights = {"a.weight": torch.tensor([[1.0, -2.0], [0.0, 3.5]]), "b": torch.arange(3)}
    run.save_weights(weights)
    run.save_initial(weights)
    run.save_kept(5, weights)
    moments = {f"{kind}.a.weight": torch.ones(2, 2) for kind in ("weights", "exp_avg", "exp_avg_sq")}
    run.save_checkpoint(Checkpoint(5, BEST, 40, moments))
    spec = ModelSpec("conv4", (8, 6, 4, 8), 28, 1, "support", "shared", 5)
    masks = {"head.weight": np.array([[True, False, True]])}
    save_ticket(run.ticket_path, Ticket("mwt", "weight", 0.5, masks, model_of(spec), {"iterations": 7}))
    write_primary_masks(run.directory / "primary.safetensors", [(2, masks["head.weight"])])
    for iteration in (4, 5):
        run.log({"kind": "train", "iteration": iteration, "loss": 1.25, "accuracy": 0.5, "seconds": 2.5})
    run.log({"kind": "validation", **BEST, "seconds": 3.0})
    return run


def plain(tensors):
    return {name: tensor.tolist() for name, tensor in tensors.items()}


def checkpoint_of(run):
    found = run.checkpoint()
    return found.iteration, found.best, found.metrics_bytes, plain(found.tensors)


def ticket_in(run):
    ticket = load_ticket(run.ticket_path)
    return ticket.method, ticket.ratio, ticket.model, ticket.found, plain(ticket.masks)


KNOWN = ("kind", "iteration", "loss", "accuracy", "ci95", "seconds")
READERS = {
    "config.toml": lambda run: run.config(),
    "config.sha256": lambda run: run.config(),
    "weights.safetensors": lambda run: plain(run.weights()),
    "initial.safetensors": lambda run: plain(run.initial()),
    "kept/5.safetensors": lambda run: plain(run.kept(5)),
    "last/checkpoint.safetensors": checkpoint_of,
    "ticket.safetensors": ticket_in,
    "primary.safetensors": lambda run: [
        (i, m.tolist()) for i, m in read_primary_masks(run.directory / "primary.safetensors")
    ],
    # Without names that no line has: a checksum whose name is damaged checks nothing, and changes nothing.
    "metrics.jsonl": lambda run: [{name: line[name] for name in KNOWN if name in line} for line in run.metrics()],
}


def test_every_file_is_looked_at(made):
    files = {str(path.relative_to(made.directory)) for path in made.directory.rglob("*") if path.is_file()}
    assert files == READERS.keys()


@pytest.fixture
def copy(made, tmp_path):
    return Run(shutil.copytree(made.directory, tmp_path / "run"))


@pytest.mark.parametrize("file", READERS)
def test_a_flipped_bit_is_refused_or_changes_nothing(made, copy, file):
    path, read = copy.directory / file, READERS[file]
    whole, expected = path.read_bytes(), read(made)
    bits = [(place, bit) for place in range(len(whole)) for bit in range(8)]
    refused, sample = 0, random.Random(5).sample(bits, 300)
    for place, bit in sample:
        changed = bytearray(whole)
        changed[place] ^= 1 << bit
        path.write_bytes(changed)
        try:
            found = read(copy)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and str(copy.directory) in str(error)
        else:
            assert found == expected, (file, place, bit)
    assert refused > 0.9 * len(sample)


@pytest.mark.parametrize("file", READERS)
def test_a_file_cut_short_or_grown_is_refused(copy, file):
    path, read = copy.directory / file, READERS[file]
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:3], whole + b"a = 1\n"):
        path.write_bytes(content)
        if file == "metrics.jsonl" and len(content) < len(whole):  # a kill cuts the last line off
            assert len(read(copy)) < 3
            continue
        with pytest.raises(UserError):
            read(copy)


@pytest.mark.parametrize("file", READERS)
def test_something_else_in_the_place_of_a_file_is_one_line(copy, file, tmp_path):
    path, read = copy.directory / file, READERS[file]
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="is not a plain file, but a FIFO"):
        read(copy)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="is not a plain file, but a device"):
        read(copy)


def test_a_fifo_is_not_logged_to(copy):
    copy.metrics_path.unlink()
    os.mkfifo(copy.metrics_path)
    with pytest.raises(UserError, match="but a FIFO"):
        copy.log({"kind": "train"})


def test_links_to_files_are_files(copy, made):
    copy.weights_path.unlink()
    copy.weights_path.symlink_to(made.weights_path)
    assert plain(copy.weights()) == plain(made.weights())


def test_files_without_a_checksum_are_read(copy, made):
    """Of an older version, or put there by other programs."""
    save_file(load_file(made.weights_path), copy.weights_path)
    (copy.directory / "config.sha256").unlink()
    copy.metrics_path.write_text(json.dumps({"kind": "train", "iteration": 1, "loss": 1, "accuracy": 0.5}) + "\n")
    assert plain(copy.weights()) == plain(made.weights()) and copy.config() == made.config()
    assert copy.metrics()[0]["loss"] == 1


@pytest.mark.parametrize(
    "changes",
    [
        *({"iteration": text} for text in ("", "-1", "1e3", "x", "9" * 30, "²")),
        *({"metrics_bytes": text} for text in ("-5", "nan")),
        *({"best": text} for text in ("", "[]", '{"accuracy": NaN}', '{"iteration": "1"}', '{"a": 1}', "[" * 9999)),
    ],
)
def test_a_checkpoint_of_other_numbers_is_none(copy, changes):
    about = {"iteration": "5", "best": json.dumps(BEST), "metrics_bytes": "40"} | changes
    save_file(load_file(copy.checkpoint_path), copy.checkpoint_path, about)
    with pytest.raises(UserError, match="is no checkpoint of a training; train the run anew"):
        copy.checkpoint()


LINES = [
    *("[]", "1", "{", "NaN", '{"kind": "train"}', '{"kind": "validation", "iteration": 1, "accuracy": 0.5}'),
    *('{"kind": "validation", "iteration": 1, "accuracy": "0.5", "ci95": 0}', '{"seconds": -1}', '{"time": 1e999}'),
    *('{"iteration": true}', '{"kind": "general", "share": 0.5, "kept": 1, "validation": [3]}', '{"distributions": 3}'),
    *('{"kind": "train", "iteration": 1, "loss": NaN, "accuracy": 0.5}', '{"distributions": {"a": {"accuracy": 1}}}'),
]


@pytest.mark.parametrize("line", LINES)
def test_a_log_that_no_training_writes_is_named_by_its_line(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    append_metrics(path, {"kind": "watch", "iteration": 1})
    path.write_text(path.read_text() + line + "\n")
    append_metrics(path, {"kind": "watch", "iteration": 2})
    with pytest.raises(UserError, match=r"metrics.jsonl line 2 is not what was logged there"):
        read_metrics(path)


def test_lines_come_back_as_they_were(tmp_path):
    records = [{"kind": "train", "iteration": 3, "loss": 0.5, "accuracy": 1}, {"é": "\x0b\u2028}"}, {}]
    for record in records[:2]:
        append_metrics(tmp_path / "log", record)
    assert read_metrics(tmp_path / "log") == records[:2] and read_metrics(tmp_path / "none") == []


def test_a_report_says_what_is_wrong_with_a_run(copy):
    copy.ticket_path.unlink()
    run_sections(copy.directory)
    copy.config_path.write_text(copy.config_path.read_text().replace("seed = 3", "seed = 4"))
    with pytest.raises(UserError, match="its SHA-256 is not that of config.sha256; put it back"):
        run_sections(copy.directory)
