"""What three Raspberry Pis say of themselves in /proc/cpuinfo, in /sys and through vcgencmd.

onnxruntime picks its kernels from the "Features" and "CPU part" lines, so they must be those of the emulated core: on
x86's lines it crashes, and on those of a newer core it dies of an illegal instruction. Core numbers and features: Arm's
technical reference manuals (MIDR_EL1) in the words of Linux's arch/arm64/kernel/cpuinfo.c. The cryptography extension
is left out of the Pi 3's and the Pi 4's silicon. Revision codes, clocks and sizes of caches: Raspberry Pi's hardware
documentation; their ways: Arm's manuals of the cores.
"""

from dataclasses import dataclass
from pathlib import Path

CORES = 4
_VCGENCMD = """#!/bin/sh
case "$*" in
    get_throttled) echo throttled=0x0 ;;
    "measure_clock arm") echo "frequency(48)={clock}" ;;
    *) echo "Command not registered" >&2; exit 255 ;;
esac
"""


@dataclass(frozen=True)
class Board:
    model: str
    revision: str  # Raspberry Pi's code for the model
    part: int  # MIDR_EL1: which core of Arm's, and which issue of it
    variant: int
    issue: int
    features: str
    timer_mhz: float  # of the architected timer; BogoMIPS is twice that
    min_mhz: int
    max_mhz: int
    caches: tuple[tuple[int, int], tuple[int, int]]  # of data, first and second level: KiB and ways

    @property
    def cache_options(self) -> tuple[str, str]:
        """As count.c takes them: sets of lines of 64 bytes."""
        first, second = (f"{1024 * kib // 64 // ways}:{ways}" for kib, ways in self.caches)
        return f",l1={first}", f",l2={second}"


BOARDS = {
    "cortex-a53": Board(
        "Raspberry Pi Zero 2 W Rev 1.0", "902120", 0xD03, 0, 4, "fp asimd evtstrm crc32 cpuid", 19.2, 600, 1000,
        ((32, 4), (512, 16)),
    ),
    "cortex-a72": Board(
        "Raspberry Pi 4 Model B Rev 1.4", "c03114", 0xD08, 0, 3, "fp asimd evtstrm crc32 cpuid", 54.0, 600, 1800,
        ((32, 2), (1024, 16)),
    ),
    "cortex-a76": Board(
        "Raspberry Pi 5 Model B Rev 1.0", "d04170", 0xD0B, 4, 1,
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
        54.0, 1500, 2400, ((64, 4), (512, 8)),
    ),
}  # fmt: skip


def write_board(cpu: str, directory: Path) -> None:
    """Write what a session on the board with that core sees into `directory`, in place of another board or anew.

    `cpu` (qemu's name), `cpuinfo`, the tree `sys`, and the program `vcgencmd`.
    """
    board = BOARDS[cpu]
    (directory / "cpu").write_text(cpu + "\n")
    (directory / "cpuinfo").write_text(_cpuinfo(board))
    for name, content in _sys(board).items():
        (directory / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / "sys" / name).write_text(content)
    (directory / "vcgencmd").write_text(_VCGENCMD.format(clock=10**6 * board.max_mhz))
    (directory / "vcgencmd").chmod(0o755)


def _cpuinfo(board: Board) -> str:
    core = {
        "BogoMIPS": f"{2 * board.timer_mhz:.2f}",
        "Features": board.features,
        "CPU implementer": "0x41",  # Arm
        "CPU architecture": "8",
        "CPU variant": f"{board.variant:#x}",
        "CPU part": f"{board.part:#x}",
        "CPU revision": str(board.issue),
    }
    cores = [{"processor": str(number)} | core for number in range(CORES)]
    whole = {"Revision": board.revision, "Serial": f"{0:016x}", "Model": board.model}
    return "\n".join("".join(_line(*item) for item in block.items()) for block in [*cores, whole])


def _line(name: str, value: str) -> str:
    separator = ": " if name == "CPU architecture" else "\t: "
    return f"{name}{separator}{value}\n"


def _sys(board: Board) -> dict[str, str]:
    midr = 0x41 << 24 | board.variant << 20 | 0xF << 16 | board.part << 4 | board.issue
    every = f"0-{CORES - 1}\n"
    files = {f"devices/system/cpu/{name}": every for name in ("possible", "present", "online")}
    files["devices/system/cpu/kernel_max"] = "255\n"
    frequency = {
        "cpuinfo_min_freq": f"{1000 * board.min_mhz}\n",
        "cpuinfo_max_freq": f"{1000 * board.max_mhz}\n",
        "scaling_min_freq": f"{1000 * board.min_mhz}\n",
        "scaling_max_freq": f"{1000 * board.max_mhz}\n",
        "scaling_cur_freq": f"{1000 * board.max_mhz}\n",
        "scaling_governor": "ondemand\n",
        "related_cpus": " ".join(map(str, range(CORES))) + "\n",
    }
    for number in range(CORES):
        place = f"devices/system/cpu/cpu{number}"
        files |= {f"{place}/cpufreq/{name}": content for name, content in frequency.items()}
        files |= {
            f"{place}/online": "1\n",
            f"{place}/regs/identification/midr_el1": f"{midr:#018x}\n",
            f"{place}/topology/core_id": f"{number}\n",
            f"{place}/topology/physical_package_id": "0\n",
            f"{place}/topology/core_siblings_list": every,
            f"{place}/topology/package_cpus_list": every,
            f"{place}/topology/thread_siblings_list": f"{number}\n",
            f"{place}/topology/core_cpus_list": f"{number}\n",
        }
    files["class/thermal/thermal_zone0/type"] = "cpu-thermal\n"
    files["class/thermal/thermal_zone0/temp"] = "48312\n"
    files["firmware/devicetree/base/model"] = board.model + "\0"
    return files
