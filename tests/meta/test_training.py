"""Training through the real command line: it learns, it survives a kill, and processes share the work."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from small_settings import SMALL, TORCHRUN

# What a log line says about the clock.
CLOCK = ("time", "rate", "seconds", "cpu_seconds")


def records(run):
    """metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


def test_it_learns(small_run):
    validations = [r["accuracy"] for r in records(small_run) if r["kind"] == "validation"]
    assert max(validations) > 0.5  # chance is 0.2


def test_killed_and_resumed_run_ends_with_the_same_bits(small_run, environment, tmp_path):
    run = tmp_path / "killed"
    command = [sys.executable, "-m", "gems_edge", "train", *SMALL, "--iterations", "60", "-o", str(run)]
    moments = random.Random(3)
    for attempt in range(30):
        resume = ["--resume"] if (run / "config.toml").exists() else []
        process = subprocess.Popen(
            [*command, *resume], env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        seen = run / "metrics.jsonl"
        while process.poll() is None and not (seen.exists() and seen.stat().st_size):
            time.sleep(0.02)
        if attempt < 5:
            time.sleep(moments.uniform(0.0, 1.2))
            process.send_signal(signal.SIGKILL)
        process.wait()
        if process.returncode == 0:
            break
    assert process.returncode == 0
    assert (run / "weights.safetensors").read_bytes() == (small_run / "weights.safetensors").read_bytes()
    expected, found = (load_file(r / "last" / "checkpoint.safetensors") for r in (small_run, run))
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    assert records(run) == records(small_run)
    assert not [path for path in run.rglob("*.tmp")]


def test_config_alone_repeats_the_run(small_run, cli, tmp_path):
    cli("train", "--config", small_run / "config.toml", "-o", tmp_path / "again")
    assert (tmp_path / "again" / "weights.safetensors").read_bytes() == (small_run / "weights.safetensors").read_bytes()


def test_two_processes_compute_what_one_does(environment, cli, tmp_path):
    def both(iterations, name):
        options = ["train", *SMALL, "--iterations", str(iterations), "--validate-every", "6", "-o"]
        cli(*options, tmp_path / f"{name}-one")
        command = [*TORCHRUN, *options, str(tmp_path / f"{name}-two")]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
        return tmp_path / f"{name}-one", tmp_path / f"{name}-two"

    # After one step Adam's first moment is a tenth of the meta-gradient.
    one, two = (load_file(run / "last" / "checkpoint.safetensors") for run in both(1, "gradient"))
    gradients = [torch.cat([t.flatten() for n, t in sorted(c.items()) if n.startswith("exp_avg.")]) for c in (one, two)]
    assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[0].norm()
    # Later Adam magnifies rounding, so the runs agree in accuracy, not in bits.
    accuracies = [[r["accuracy"] for r in records(run) if r["kind"] == "validation"] for run in both(12, "longer")]
    assert len(accuracies[0]) == 2 and accuracies[0] == pytest.approx(accuracies[1], abs=0.03)


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
def test_bad_input_is_one_line(cli, tmp_path, options, message):
    if options == ("--compute", "cuda") and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    result = cli("train", *options, "-o", tmp_path / "run", code=2)
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_not_overwritten(small_run, cli):
    before = (small_run / "weights.safetensors").read_bytes()
    assert "--resume" in cli("train", *SMALL, "-o", small_run, code=2).stderr
    assert "lr" in cli("train", "--resume", "--lr", "0.5", "-o", small_run, code=2).stderr
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


def test_resuming_a_finished_run_changes_nothing(small_run, cli):
    before = {p: p.read_bytes() for p in small_run.rglob("*.safetensors")}
    cli("train", "--resume", "-o", small_run)
    assert before == {p: p.read_bytes() for p in before}


def test_evaluate_reports_every_mode_and_step(small_run, cli):
    document = json.loads(cli("evaluate", small_run, "--episodes", "10", "--per-step", "--json").stdout)
    assert {"accuracy", "ci95", "episodes", "ways", "shots", "steps", "normalization", "data"} <= document.keys()
    assert {(row["normalization"], row["steps"]) for row in document["table"]} == {
        (m, s) for m in ("support", "transductive") for s in range(3)
    }
    assert document["normalization"] == "support" and document["steps"] == 2 and document["accuracy"] > 0.4
    untaught = next(row for row in document["table"] if row["steps"] == 0)
    assert untaught["accuracy"] == pytest.approx(0.2)  # a shared head scores every class alike before the first step
    seven = json.loads(
        cli("evaluate", small_run, "--episodes", "5", "--ways", "7", "--normalization", "transductive", "--json").stdout
    )
    assert seven["ways"] == 7 and seven["normalization"] == "transductive"


def test_evaluate_refuses_what_it_cannot(small_run, cli, tmp_path):
    assert "group" in cli("evaluate", small_run, "--normalization", "group", code=2).stderr
    assert "does not exist" in cli("evaluate", tmp_path / "nothing", code=2).stderr
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.toml").write_text((small_run / "config.toml").read_text())
    (broken / "weights.safetensors").write_bytes((small_run / "weights.safetensors").read_bytes()[:1000])
    assert "damaged" in cli("evaluate", broken, code=2).stderr
