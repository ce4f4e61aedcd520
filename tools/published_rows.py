"""The published latency table (a CSV beside the repository) read into rows that the regression understands."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from latency_regression import Row
from published_networks import NETWORKS, build

from gems_edge.graphs.cost import describe

# Columns that a table must have.
COLUMNS = ("board", "soc", "model", "input", "precision", "runtime", "threads", "latency_ms")
# Boards of the table that have a profile.
PROFILES = {
    "Raspberry Pi Zero 2 W": "rpi-zero-2w", "Raspberry Pi 3B+": "rpi-3b-plus", "Raspberry Pi 4B": "rpi-4b",
    "Raspberry Pi 5": "rpi-5", "Orange Pi 5": "orangepi-5", "Radxa Zero 3W": "radxa-zero-3w",
    "Jetson Nano": "jetson-nano",
}  # fmt: skip
# 32-bit and RISC-V boards have no onnxruntime wheel, and their kernels are others.
FOREIGN = ("ARMv7", "ARMv6", "RV64", "armhf")


@dataclass(frozen=True)
class Published:
    """A line of the table with a network that is known here and a core that is understood."""

    runtime: str
    row: Row
    source: str


def core_of(soc: str, board: str = "") -> tuple[str, float, int] | None:
    """(core, clock in GHz, cores of that kind) of the cluster that a row ran on, from a text like
    "RK3588 4xA76@2.4+4xA55@1.8GHz [big cores]"; None where none is named."""
    clusters = []
    for count, core, clock, unit in re.findall(
        r"(?:(\d)x)?(?<![A-Z])(Denver2|A\d+)(?:@([\d.]+)(M?)[GH+ ]?)?", soc.split("[")[0]
    ):
        clusters.append((core, float(clock) / (1000 if unit else 1) if clock else None, int(count or 1)))
    clocks = [clock for _, clock, _ in clusters if clock]
    clusters = [(core, clock or clocks[0], count) for core, clock, count in clusters if core != "Denver2" and clocks]
    if not clusters:
        return None
    ordered = sorted(clusters, key=lambda cluster: (cluster[1], int(cluster[0][1:])))
    return ordered[0] if "little cores" in soc else ordered[-1]


def works(networks: set[str]) -> dict[str, dict[str, float]]:
    """Amounts by term of networks named NAME@PIXELS."""
    found = {}
    for network in networks:
        name, pixels = network.split("@")
        found[network] = describe(build(name, int(pixels)), {}, strict=False)["work"]
    return found


def read(path: Path) -> tuple[list[Published], dict[str, int]]:
    """Rows that can be predicted, and how many lines were left out for which reason."""
    kept, dropped = [], {}
    with open(path, newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if missing := [column for column in COLUMNS if line.get(column) is None]:
                raise SystemExit(f"{path}: no column {missing[0]!r}")
            reason = _unusable(line)
            if reason:
                dropped[reason] = dropped.get(reason, 0) + 1
                continue
            core, clock, _ = core_of(line["soc"])
            precision = "fp32" if line["precision"].startswith("fp32") else line["precision"]
            network = f"{line['model']}@{line['input'].split('x')[0]}"
            row = Row(line["board"], core, clock, precision, int(line["threads"]), network, float(line["latency_ms"]))
            kept.append(Published(line["runtime"], row, line.get("source", "")))
    return kept, dropped


def _unusable(line: dict[str, str]) -> str:
    if any(word in line["soc"] for word in FOREIGN):
        return "32-bit Arm or RISC-V"
    cluster = core_of(line["soc"])
    if cluster is None:
        return "no Cortex-A core named"
    if line["model"] not in NETWORKS or not line["input"].endswith("x3"):
        return "a network without a definition here"
    if not line["threads"].isdigit():
        return "threads not stated"
    if int(line["threads"]) > cluster[2]:
        return "clusters of big and little cores mixed"
    return ""
