"""gems-edge verify of runs, through the real command line."""

import shutil

from verifying import flip, verify


def test_a_whole_run(cli_here, small_run):
    parts, rescue = verify(cli_here, small_run)
    assert parts.keys() >= {"config.toml", "metrics.jsonl", "weights.safetensors", "last/checkpoint.safetensors"}
    assert rescue is None and "training can be resumed from iteration 60" in cli_here("verify", small_run).stdout


def test_one_bit_of_a_runs_file(cli_here, own_small_run, tmp_path):
    """For each file that file alone is named, with what can still be done."""
    for file, rescue in (
        ("weights.safetensors", "train --resume goes on from the checkpoint"),
        ("last/checkpoint.safetensors", "evaluate and export still work"),
    ):
        run = shutil.copytree(own_small_run, tmp_path / file.partition("/")[0])
        flip(run / file)
        parts, said = verify(cli_here, run, code=2)
        assert [name for name, whole in parts.items() if not whole] == [file] and rescue in said
    flip(run / "weights.safetensors")
    assert "train anew" in verify(cli_here, run, code=2)[1]


def test_a_damaged_log_and_config(cli_here, own_small_run):
    """Of a run with another byte in its log the weights are whole; without its config nothing is of use."""
    flip(own_small_run / "metrics.jsonl", 20)
    parts, rescue = verify(cli_here, own_small_run, code=2)
    assert [name for name, whole in parts.items() if not whole] == ["metrics.jsonl"]
    assert rescue == "delete metrics.jsonl: a run goes on without it"
    flip(own_small_run / "config.toml", 20)
    parts, rescue = verify(cli_here, own_small_run, code=2)
    assert [name for name, whole in parts.items() if not whole] == ["config.toml", "metrics.jsonl"]
    assert rescue == "without config.toml nothing of the run can be used: bring back a copy of it"


def test_whole_weights_of_another_network(cli_here, own_small_run):
    """Each file is what was written, and they do not belong together."""
    shutil.copy(own_small_run / "last/checkpoint.safetensors", own_small_run / "weights.safetensors")
    parts, rescue = verify(cli_here, own_small_run, code=2)
    assert [name for name, whole in parts.items() if not whole] == ["what they say"]
    assert rescue == "bring back a copy of the run"


def test_a_directory_that_is_no_part_of_the_run(cli_here, own_small_run):
    (own_small_run / "distributions" / "other").mkdir(parents=True)
    parts, _ = verify(cli_here, own_small_run)
    assert parts["distributions/other"]
