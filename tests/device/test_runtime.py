"""What onnxruntime says is told in one line, by whose fault it is."""

import resource
import subprocess
import sys
from types import SimpleNamespace

import handmade as hm
import pytest

from gems_edge.device import runtime
from gems_edge.errors import UserError

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


@pytest.mark.parametrize(
    "machine, cpu, version, refused",
    [
        ("aarch64", "fp asimd evtstrm crc32 cpuid", "1.21.0", True),  # Pi 4
        ("aarch64", "fp asimd crc32 cpuid asimddp", "1.21.0", False),  # Pi 5
        ("aarch64", "fp asimd evtstrm crc32 cpuid", "1.22.0", False),
        ("x86_64", "avx2", "1.21.0", False),
    ],
)
def test_wheel_that_crashes_on_import_is_refused_before(monkeypatch, machine, cpu, version, refused):
    texts = {"/proc/cpuinfo": f"Features : {cpu}", "ort/__init__.py": f'__version__ = "{version}"'}
    monkeypatch.setattr(runtime.platform, "machine", lambda: machine)
    monkeypatch.setattr(runtime, "_text", texts.get)
    monkeypatch.setattr(runtime, "find_spec", lambda name: SimpleNamespace(origin="ort/__init__.py"))
    if refused:
        with pytest.raises(UserError, match="install another"):
            runtime._refuse_crashing_wheel()
    else:
        runtime._refuse_crashing_wheel()
