"""What onnxruntime says is told in one line, by whose fault it is."""

import resource
import subprocess
import sys

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
