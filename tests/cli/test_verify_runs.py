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
