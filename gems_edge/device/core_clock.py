"""The clock a core really runs at, from how long a chain of additions takes.

An addition whose operand is the last addition's result takes one cycle on the 64-bit cores that onnxruntime has wheels
for, in-order or not (Arm's software optimisation guides; Intel's and AMD's likewise). What the kernel reports is what
it asked for: a Raspberry Pi's firmware lowers the clock without telling it.
"""

import ctypes
import mmap
import os
import platform
import subprocess
import sys
import time

# A round is so many additions in a row and then one countdown and branch, which fit beside them.
ADDITIONS = 512
ROUNDS = 4000  # about 1 ms at 2 GHz
# The best of so many chains is one measurement: whatever interrupts a chain makes it longer.
CHAINS = 20


def core_clocks_mhz(measurements: int = 5) -> list[float]:
    """Clocks in MHz, one per measurement (about 20 ms each); empty where the processor is unknown or forbids it.

    In a process of its own, because machine code that does not fit would end this one.
    """
    command = [sys.executable, "-m", "gems_edge.device.core_clock", str(measurements)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [float(line) for line in done.stdout.split()] if done.returncode == 0 else []


def _machine_code() -> bytes:
    """A function of one argument, the rounds to run, by the C calling convention."""
    if platform.machine() in ("x86_64", "AMD64"):
        additions = b"\x48\x01\xf8" * ADDITIONS  # add rax, rdi
        back = -(len(additions) + 3 + 6)
        return additions + b"\x48\xff\xcf" + b"\x0f\x85" + back.to_bytes(4, "little", signed=True) + b"\xc3"
    if platform.machine() == "aarch64":
        addition, countdown, ret = 0x8B000021, 0xF1000400, 0xD65F03C0  # add x1, x1, x0; subs x0, x0, #1; ret
        branch = 0x54000001 | (-(ADDITIONS + 1) & 0x7FFFF) << 5  # b.ne to the start
        return b"".join(word.to_bytes(4, "little") for word in (*[addition] * ADDITIONS, countdown, branch, ret))
    raise OSError(f"no chain for {platform.machine()}")


def main(measurements: str) -> None:
    # The code goes through a file in memory: mapping a file as executable makes Arm's instruction cache see it.
    descriptor = os.memfd_create("chain")
    os.write(descriptor, _machine_code())
    mapped = mmap.mmap(descriptor, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    chain = ctypes.CFUNCTYPE(None, ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(mapped)))

    def seconds() -> float:
        start = time.perf_counter()
        chain(ROUNDS)
        return time.perf_counter() - start

    deadline = time.perf_counter() + 0.02
    while time.perf_counter() < deadline:  # wakes the governor
        seconds()
    for _ in range(int(measurements)):
        print(ROUNDS * ADDITIONS / min(seconds() for _ in range(CHAINS)) / 1e6)
    sys.stdout.flush()
    os._exit(0)  # the mapping is still referred to, and may not be closed


if __name__ == "__main__":
    main(sys.argv[1])
