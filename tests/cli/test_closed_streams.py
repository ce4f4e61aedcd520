"""Standard streams that are closed or full: the exit code is right, nothing ends in a traceback, no file takes their
numbers."""

import subprocess
import sys

import pytest

STREAMS = {">&-": "out", "2>&-": "", ">&- 2>&-": "", "<&- >&- 2>&-": "", "2>/dev/full": "", ">/dev/full": "error"}


def shell(environment, redirection, *command):
    line = f'exec "$@" {redirection}'
    return subprocess.run(["sh", "-c", line, "sh", *command], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("redirection", STREAMS)
def test_a_refusal(environment, redirection):
    result = shell(environment, redirection, sys.executable, "-m", "gems_edge", "predict", "nosuch", "photo.jpg")
    assert result.returncode == 2 and "Traceback" not in result.stderr, result
    if STREAMS[redirection] == "error":
        assert result.stderr.startswith("gems-edge: nosuch is not a bundle") and result.stderr.count("\n") == 1


def test_no_file_takes_the_number_of_a_closed_stream(environment, tmp_path):
    program = (
        "import os, sys; from gems_edge.cli.main import run_reporting\n"
        "def work():\n"
        "    file = open(sys.argv[1], 'w'); file.write(f'{file.fileno()}'); file.flush(); os.write(2, b'a warning')\n"
        "    print('said'); print('said', file=sys.stderr)\n"
        "run_reporting(work)"
    )
    path = tmp_path / "state"
    result = shell(environment, "<&- >&- 2>&-", sys.executable, "-c", program, path)
    assert result.returncode == 0 and path.read_text() == "3"
