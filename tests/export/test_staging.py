"""What killed exports leave beside a bundle goes with the next export; what running ones write stays."""

import os
import signal
import subprocess
import sys

import pytest

from gems_edge.export.staging import staging

FILES = ("manifest.json", "predict.onnx")
WRITES = """
import signal, sys
from pathlib import Path
from gems_edge.export.staging import staging
with staging(Path(sys.argv[1]), ("manifest.json", "predict.onnx")) as directory:
    (directory / "predict.onnx").write_bytes(b"some")
    (directory / ".manifest.json.k3j2.tmp").write_bytes(b"half")
    print(directory, flush=True)
    signal.pause()
"""


@pytest.fixture
def exporting(tmp_path):
    """Another process that stages a bundle at that path, and the directory in which it does."""
    processes = []

    def begin(name):
        command = [sys.executable, "-c", WRITES, str(tmp_path / name)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return processes[-1], processes[-1].stdout.readline().strip()

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def test_a_killed_exports_directory_is_removed_and_a_running_ones_is_not(tmp_path, exporting):
    killed, left = exporting("x.gems")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    _, running = exporting("x.gems")  # whose beginning removes what is left
    assert not os.path.exists(left) and os.path.isdir(running)
    with staging(tmp_path / "x.gems", FILES) as own:
        assert os.path.isdir(running) and own.is_dir()
    assert os.listdir(tmp_path) == [os.path.basename(running)]


def test_what_is_not_an_exports_stays(tmp_path, exporting):
    killed, other = exporting("other.gems")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (tmp_path / ".x.gems.mine.tmp").mkdir()
    (tmp_path / ".x.gems.mine.tmp" / "thesis.txt").write_text("kept")
    (tmp_path / ".x.gems.file.tmp").write_text("kept")
    (tmp_path / ".x.gems.link.tmp").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere").mkdir()
    before = sorted(os.listdir(tmp_path))
    with staging(tmp_path / "x.gems", FILES):
        pass
    assert sorted(os.listdir(tmp_path)) == before and os.path.basename(other) in before


def test_a_directory_that_took_its_place_stays(tmp_path):
    with staging(tmp_path / "x.gems", FILES) as directory:
        (directory / "manifest.json").write_text("{}")
        directory.rename(tmp_path / "x.gems")
    assert os.listdir(tmp_path) == ["x.gems"] and os.listdir(tmp_path / "x.gems") == ["manifest.json"]
