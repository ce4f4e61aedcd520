"""Training through the real command line: it learns, it survives a kill, and processes share the work."""

import json
import random
import signal
import subprocess
import sys
import time
import tomllib

import pytest
import torch
from safetensors.torch import load_file
from small_settings import SMALL, TORCHRUN

# What a log line says about the clock, and its checksum, which is of that too.
CLOCK = ("time", "rate", "seconds", "cpu_seconds", "crc32")


def records(run):
    """metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


def test_it_learns(small_run):
    validations = [r["accuracy"] for r in records(small_run) if r["kind"] == "validation"]
    assert max(validations) > 0.5  # chance is 0.2


NARROW = (*SMALL, "--widths", "8", "--iterations", "40")


@pytest.fixture(scope="module")
def narrow_run(cli_here, made_once):
    return made_once("narrow", lambda run: cli_here("train", *NARROW, "-o", run))


@pytest.mark.slow(40)
def test_killed_and_resumed_run_ends_with_the_same_bits(narrow_run, cli_here, environment, tmp_path):
    run = tmp_path / "killed"
    command = [sys.executable, "-m", "gems_edge", "train", *NARROW, "-o", str(run)]
    moments, kills = random.Random(3), 0
    for _ in range(3):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        lines = logged(run)
        while process.poll() is None and logged(run) == lines:
            time.sleep(0.005)
        time.sleep(moments.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        if "--resume" not in command and (run / "config.toml").exists():
            command.append("--resume")
    assert kills, "the run ended before it was killed"
    cli_here("train", "--resume", "-o", run)
    assert (run / "weights.safetensors").read_bytes() == (narrow_run / "weights.safetensors").read_bytes()
    expected, found = (load_file(r / "last" / "checkpoint.safetensors") for r in (narrow_run, run))
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    assert records(run) == records(narrow_run)
    assert not [path for path in run.rglob("*.tmp")]


def logged(run):
    """Bytes of the log so far."""
    log = run / "metrics.jsonl"
    return log.stat().st_size if log.exists() else 0


def test_config_alone_repeats_the_run(narrow_run, cli_here, tmp_path):
    cli_here("train", "--config", narrow_run / "config.toml", "-o", tmp_path / "again")
    again = (tmp_path / "again" / "weights.safetensors").read_bytes()
    assert again == (narrow_run / "weights.safetensors").read_bytes()


@pytest.mark.slow(30)
def test_two_processes_compute_what_one_does(environment, cli_here, tmp_path):
    """Adam magnifies rounding, so they agree in accuracy, not in bits; test_gems_training.py compares the gradients."""
    options = ["train", *SMALL, "--widths", "8", "--iterations", "12", "--validate-every", "6", "-o"]
    cli_here(*options, tmp_path / "one")
    command = [*TORCHRUN, *options, str(tmp_path / "two")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    one, two = (
        [line["accuracy"] for line in records(tmp_path / name) if line["kind"] == "validation"]
        for name in ("one", "two")
    )
    assert len(one) == 2 and one == pytest.approx(two, abs=0.03)


@pytest.mark.parametrize(
    "options, message",
    [
        (("--data", "nowhere"), "nowhere"),
        (("--method", "maml++"), "maml++"),
        (("--method", "boil"), "--head per-class"),
        (("--ways", "1"), "--ways"),
        (("--ways", "5000"), "classes"),
        (("--queries", "500"), "queries"),
        (("--widths", "3,4"), "widths"),
        (("--inner-lr", "-1"), "--inner-lr"),
        (("--image-size", "8"), "16"),
        (("--data", "glyphs,nowhere"), "nowhere"),
        (("--data", "glyphs,glyphs"), "twice"),
        (("--method", "multi-maml"), "--method maml"),
        (("--method", "bmp", "--sparsity", "2"), "--sparsity"),
        (("--method", "mmsup", "--sparsity", "0.1,0.2"), "blocks.0"),
        (("--keep-share", "0.5"), "mmsup"),
        (("--data-weights", "1,2"), "--data-weights"),
        (("--compute", "cuda"), "cuda"),
    ],
)
def test_bad_input_is_one_line(cli_here, tmp_path, options, message):
    if options == ("--compute", "cuda") and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    result = cli_here("train", *options, "-o", tmp_path / "run", code=2)
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_not_overwritten(small_run, cli_here):
    before = (small_run / "weights.safetensors").read_bytes()
    assert "--resume" in cli_here("train", *SMALL, "-o", small_run, code=2).stderr
    assert "lr" in cli_here("train", "--resume", "--lr", "0.5", "-o", small_run, code=2).stderr
    assert (small_run / "weights.safetensors").read_bytes() == before


@pytest.mark.parametrize("options", [(), ("--ticket", "mwt"), ("--method", "multi-maml", "--data", "ink,tint")])
def test_there_must_be_a_run_to_go_on_with(cli_here, tmp_path, options):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").write_bytes(b"")
    for place in ("nothing", "empty", "other", "other/photo.jpg"):
        error = cli_here("train", "--resume", *options, "-o", tmp_path / place, code=2).stderr
        assert f"{tmp_path / place} holds no run" in error and "without --resume" in error
    assert {path.name for path in tmp_path.rglob("*")} == {"empty", "other", "photo.jpg"}


def test_resuming_a_finished_run_changes_nothing(own_small_run, cli_here):
    before = {p: p.read_bytes() for p in own_small_run.rglob("*.safetensors")}
    cli_here("train", "--resume", "-o", own_small_run)
    assert before == {p: p.read_bytes() for p in before}


def test_evaluate_reports_every_mode_and_step(small_run, cli_here):
    document = json.loads(cli_here("evaluate", small_run, "--episodes", "10", "--per-step", "--json").stdout)
    assert {"accuracy", "ci95", "episodes", "ways", "shots", "steps", "normalization", "data"} <= document.keys()
    assert {(row["normalization"], row["steps"]) for row in document["table"]} == {
        (m, s) for m in ("support", "transductive") for s in range(3)
    }
    assert document["normalization"] == "support" and document["steps"] == 2 and document["accuracy"] > 0.4
    untaught = next(row for row in document["table"] if row["steps"] == 0)
    # A shared head scores every class alike before the first step; rounding, by where tensors lie, breaks the ties.
    assert untaught["accuracy"] == pytest.approx(0.2, abs=0.1)
    seven = json.loads(
        cli_here(
            "evaluate", small_run, "--episodes", "5", "--ways", "7", "--normalization", "transductive", "--json"
        ).stdout
    )
    assert seven["ways"] == 7 and seven["normalization"] == "transductive"


def test_evaluate_refuses_what_it_cannot(small_run, cli_here, tmp_path):
    assert "group" in cli_here("evaluate", small_run, "--normalization", "group", code=2).stderr
    assert "does not exist" in cli_here("evaluate", tmp_path / "nothing", code=2).stderr
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.toml").write_text((small_run / "config.toml").read_text())
    (broken / "weights.safetensors").write_bytes((small_run / "weights.safetensors").read_bytes()[:1000])
    assert "damaged" in cli_here("evaluate", broken, code=2).stderr


def test_training_episodes_may_have_more_classes_than_those_it_is_tested_on(cli_here, tmp_path):
    options = ("train", *SMALL, "--widths", "8", "--iterations", "4", "-o")
    cli_here(*options, tmp_path / "ten", "--train-ways", "10")
    cli_here(*options, tmp_path / "five")
    losses = [records(tmp_path / name)[0]["loss"] for name in ("ten", "five")]
    assert losses[0] > losses[1] + 0.3  # log 10 against log 5 at the start
    evaluated = cli_here("evaluate", tmp_path / "ten", "--episodes", "2", "--json").stdout
    assert json.loads(evaluated)["ways"] == 5
    cli_here(*options, tmp_path / "all", "--train-ways", "100000")
    assert tomllib.loads((tmp_path / "all" / "config.toml").read_text())["train_ways"] < 1000
