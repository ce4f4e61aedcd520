"""SIGTERM, with which systems and containers stop programs: training saves where it stands and goes on bit for bit."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from safetensors.numpy import load_file
from small_settings import SMALL, TORCHRUN

from gems_edge.errors import Terminated
from gems_edge.meta.run import Run
from gems_edge.sigterm import Sigterm


def started(environment, *arguments):
    command = [sys.executable, "-m", "gems_edge", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def terminated(process, when) -> str:
    """Sends SIGTERM as soon as `when()`; the last line that the process then says. Its code must be 143."""
    deadline = time.monotonic() + 120
    while not when() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 143 and "Traceback" not in error, error
    return error.strip().splitlines()[-1]


def same_run(one, other) -> bool:
    files = ("weights.safetensors", "last/checkpoint.safetensors")
    pairs = [(load_file(one / file), load_file(other / file)) for file in files]
    return all(a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a) for a, b in pairs)


@pytest.mark.slow(25)
def test_a_training_on_two_processes_is_saved_and_goes_on(environment, tmp_path):
    """torchrun hands SIGTERM on; both processes end after the same step. Nothing is left in the temporary directory."""
    (tmp_path / "temporary").mkdir()
    environment = environment | {"TMPDIR": str(tmp_path / "temporary")}
    narrow = (*SMALL, "--widths", "8", "--iterations", "100", "--checkpoint-every", "1000")
    run, whole = tmp_path / "run", tmp_path / "whole"
    process = subprocess.Popen(
        [*TORCHRUN, "train", *narrow, "-o", str(run)], env=environment, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not ((run / "metrics.jsonl").exists() and Run(run).metrics()):
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=120)[1]
    assert process.returncode and "gems-edge: stopped by SIGTERM after iteration " in error, error
    iteration = Run(run).checkpoint().iteration
    assert 0 < iteration < 100 and not Run(run).finished()
    for directory, options in ((run, ("--resume",)), (whole, narrow)):
        command = [*TORCHRUN, "train", *options, "-o", str(directory)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    assert same_run(run, whole) and Run(run).finished()
    assert not list((tmp_path / "temporary").glob("torchelastic_*"))


@pytest.mark.parametrize("checkpoint_every", [1000, 1])
def test_a_training_is_saved_and_goes_on(small_run, cli_here, environment, tmp_path, checkpoint_every):
    """With --checkpoint-every 1000 nothing but SIGTERM writes a checkpoint before the end."""
    run = tmp_path / "run"
    options = (*SMALL, "--iterations", "60", "--checkpoint-every", checkpoint_every, "-o", run)
    process = started(environment, "train", *options)
    line = terminated(process, lambda: (run / "metrics.jsonl").exists() and Run(run).metrics())
    assert line.startswith("gems-edge: stopped by SIGTERM after iteration ") and "--resume" in line
    checkpoint = Run(run).checkpoint()
    assert 0 < checkpoint.iteration <= 60 and f"iteration {checkpoint.iteration} of 60" in line
    cli_here("train", "--resume", "-o", run)
    assert same_run(run, small_run) and Run(run).finished()


def test_a_validation_that_was_cut_short_is_done_anew(small_run, cli_here, tmp_path, monkeypatch):
    from gems_edge.meta.train import Trainer

    run, whole, calls = tmp_path / "run", Trainer._validation, []

    def cut_short(trainer, *arguments):
        calls.append(trainer.iteration)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(trainer, *arguments)

    options = (*SMALL, "--iterations", "60", "-o", run)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_validation", cut_short)
        cli_here("train", *options, code=143)
    assert Run(run).checkpoint().validates and Run(run).checkpoint().iteration == calls[1] and not Run(run).finished()
    cli_here("train", "--resume", "-o", run)
    assert same_run(run, small_run) and Run(run).finished()
    validated = [line["iteration"] for line in Run(run).metrics() if line["kind"] == "validation"]
    assert validated == [line["iteration"] for line in Run(small_run).metrics() if line["kind"] == "validation"]


def test_a_terminated_export_leaves_what_was_there(own_small_run, environment, tmp_path):
    process = started(environment, "export", own_small_run, "--recover-iterations", 100_000, "-o", tmp_path / "x.gems")
    assert terminated(process, lambda: "waits" and time.sleep(4) is None).startswith("gems-edge: stopped by SIGTERM")
    assert os.listdir(tmp_path) == []


def test_a_terminated_process_says_so(environment, tmp_path):
    """Before anything began, too: while glyphs are rendered or libraries loaded."""
    process = started(environment, "train", *SMALL, "-o", tmp_path / "run")
    time.sleep(1.5)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=120)[1]
    assert process.returncode in (143, -signal.SIGTERM), error  # before the first line of ours, the system's way


def test_a_library_that_is_imported_does_not_swallow_the_signal(tmp_path, monkeypatch):
    """Torch's, in C++, take what is raised in them for a failure of theirs."""
    (tmp_path / "swallows.py").write_text(
        "import os, signal, time\ntry:\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(0)\n"
        "    whole = True\nexcept BaseException:\n    whole = False\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Terminated), Sigterm() as sigterm:
        module = importlib.import_module("swallows")
        assert sigterm.came and module.whole
        time.sleep(10)


def test_a_signal_where_nothing_can_be_raised_comes_again():
    class Dying:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Terminated), Sigterm() as sigterm:
        Dying()
        assert sigterm.came
        time.sleep(10)


def test_json_says_nothing_of_a_run_that_was_stopped(environment, tmp_path):
    command = [sys.executable, "-m", "gems_edge", "train", *SMALL, "--json", "-o", str(tmp_path / "run")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=120)
    assert out == "" and error.strip().splitlines()[-1].startswith("gems-edge: stopped by SIGTERM"), json.dumps(error)
