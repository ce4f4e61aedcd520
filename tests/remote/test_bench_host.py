"""`gems-edge bench --host` against a real sshd: the figures arrive, the board is clean again, whatever happens."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from on_board import bench_directory, left_on, runs_in, sessions, write_wheel
from small_settings import hear_ctrl_c

pytestmark = pytest.mark.slow(8)

# A second or two of lost connection, so that what happens after it can be waited for.
IMPATIENT = ("--reconnect", 2)
LEASE = 6


@pytest.fixture(scope="module")
def first(start_bench, server):
    """The document of a first bench, which keeps the environment that it installs; its connection is lost twice."""
    process = start_bench(server.config, "--keep", "--device", "rpi-4b", "--reconnect", 20)
    for moment in ("copying", "installing"):
        until(process, moment)
        time.sleep(0.2)
        connections = sessions(server)
        assert connections
        for session in connections:
            os.kill(session, signal.SIGKILL)
    document = process.stdout.read()
    assert process.wait(60) == 0
    return json.loads(document)


def test_a_lost_connection_is_made_anew_and_the_result_arrives(first, server):
    assert first["remote"]["reconnections"] >= 2 and first["adapt"]["p50"] > 0
    assert left_on(server) == []


def test_the_boards_figures_arrive_and_its_answers_are_ours(first):
    document = first
    assert document["bundle"].endswith("h.gems")
    for section in (document["predict"], document["adapt"], document["memory"]["adapt"], document["cold_start"]):
        assert section["tag"] == "measured" and section["source"] and section["interval"]
    assert document["memory"]["predict"]["predicted"]["tag"] == "predicted"
    remote = document["remote"]
    assert remote["host"] == "board" and remote["onnxruntime"] == document["host"]["onnxruntime"]
    assert remote["adapt"]["steps"] == 5 and remote["adapt"]["ms_per_step"]["p50"] > 0
    assert remote["agreement"]["same_labels"] and remote["agreement"]["largest_difference"] < 1e-5
    assert len(remote["predict"]) == remote["agreement"]["images"] > 0


def test_predictions_stand_beside_the_measured_values(first):
    document = first
    compared = document["comparison"]["rpi-4b"]
    assert compared.keys() == {"predict", "adapt", "memory of predict", "memory of adapt"}
    for figure in compared.values():
        error = figure["predicted"] / figure["measured"] - 1
        assert figure["error_percent"] == pytest.approx(100 * error, abs=0.1)
    assert compared["adapt"]["measured"] == document["adapt"]["p50"]
    assert compared["adapt"]["predicted"] == document["devices"]["rpi-4b"]["adapt"]["p50"]


def test_only_the_kept_environment_stays(first, server):
    kept = first["remote"]["kept"]
    assert kept and [path.name for path in bench_directory(server).iterdir()] == [kept.rpartition("/")[2]]
    assert not runs_in(server.home)


def until(process, words):
    """The command's lines until one holds `words`; what follows is short enough for the pipe."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            return "".join(lines)
    raise AssertionError(f"it ended before {words!r}: {''.join(lines)}")


def gone(server, seconds):
    deadline = time.monotonic() + seconds
    while (left_on(server) or runs_in(server.home)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not left_on(server) and not runs_in(server.home)


def test_a_board_can_measure_another(first, bundle, environment, server):
    """The environment that was kept: gems-edge from its wheel, without torch or pip. Its wheel is the same again."""
    [kept] = bench_directory(server).iterdir()
    command = [kept / "bin" / "python", "-m", "gems_edge", "bench", bundle, "--host", "board", "-F", server.config]
    process = subprocess.Popen(
        [str(part) for part in (*command, "--keep")], stderr=subprocess.PIPE, text=True, env=environment, cwd=kept,
        preexec_fn=hear_ctrl_c,
    )  # fmt: skip
    said = until(process, "running adapt")
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert "creating an environment" not in said


def test_a_board_whose_client_died_clears_up_by_itself(first, start_bench, server):
    process = start_bench(server.config, "--keep", *IMPATIENT)
    until(process, "running bench")
    assert left_on(server) and runs_in(server.home)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert gone(server, LEASE + 5)


def test_ctrl_c_clears_up_at_once(first, start_bench, server):
    process = start_bench(server.config, "--keep")  # with two minutes of patience, which must not be waited for
    until(process, "running bench")
    started = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # to the whole group, as a terminal does
    assert process.wait(100) == 130 and time.monotonic() - started < 60
    assert left_on(server) == [] and gone(server, 10)


def test_a_build_that_the_processor_cannot_run_is_explained(first, refused, environment, server, tmp_path):
    """An onnxruntime that dies as one does that was built for a newer core, from --wheels like any other."""
    for wheel in (Path(environment["GEMS_EDGE_CACHE"]) / "wheels").glob("*.whl"):
        if not wheel.name.startswith("onnxruntime-"):
            (tmp_path / wheel.name).symlink_to(wheel)
    write_wheel(tmp_path, "onnxruntime", "9.9.9", "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    message = refused(server.config, "--wheels", tmp_path)
    assert message.startswith("board: import of onnxruntime 9.9.9 dies of SIGILL") and "--wheels" in message
    assert left_on(server) == []
