"""What onnxruntime says is told in one line, by whose fault it is."""

import resource
import subprocess
import sys
from pathlib import Path

import handmade as hm
import pytest

OUT_OF_MEMORY = """
import resource, sys
import numpy as np
from gems_edge.device import Learner
from gems_edge.errors import MachineError
learner = Learner.load(sys.argv[1], threads=1)
images = np.zeros((60_000, 16, 16, 1), np.uint8)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000, resource.RLIM_INFINITY))
try:
    learner.adapt(images, [number % 2 for number in range(len(images))], steps=1)
except (MachineError, MemoryError) as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS"), reason="needs a limit on memory")
def test_out_of_memory_is_the_machines_fault(tmp_path):
    command = [sys.executable, "-c", OUT_OF_MEMORY, str(hm.write_bundle(tmp_path / "h.gems"))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.startswith("MachineError out of memory in") and "fewer" in done.stdout, done


@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_process_is_told(tmp_path, threads):
    """A process of its own forks, before its first graph and after it: only the first child may use one. The other may
    forget what it was given, and end."""
    path = hm.write_bundle(tmp_path / "h.gems")
    code = f"""
import os, signal, sys, time
import handmade as hm
from gems_edge.device import Learner
learner, pictures = Learner.load({str(path)!r}, threads={threads}), hm.pictures(3, 2)
def use():
    for call in (lambda: learner.adapt(*pictures), lambda: learner.predict(pictures[0])):
        try:
            call()
            print("works", flush=True)
        except Exception as error:
            print(type(error).__name__, error, flush=True)
def in_child(end):
    child = os.fork()
    if not child:
        signal.alarm(60)
        use()
        end()
    print("ended with", os.waitpid(child, 0)[1], flush=True)
def forget():
    global learner
    del learner
    sys.exit(0)
in_child(lambda: os._exit(0))
use()
time.sleep(0.2)  # until its threads sleep
in_child(forget)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=Path(__file__).parent
    )
    lines = done.stdout.splitlines()
    assert lines[:5] == ["works", "works", "ended with 0", "works", "works"] and len(lines) == 8, done
    assert all("UserError" in line and "forked after onnxruntime had loaded a graph" in line for line in lines[5:7])
    assert lines[7] == "ended with 0"
