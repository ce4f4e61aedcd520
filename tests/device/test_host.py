import platform

import pytest

from gems_edge.device.core_clock import core_clocks_mhz
from gems_edge.device.host import _cpu, conditions, host_facts, spoiled

COOL = {"throttled": "0x0", "temperature_c": 45.0, "governor": "ondemand", "highest_clock_mhz": 1800}


def test_host_facts_hold_what_a_figure_needs():
    facts = host_facts()
    assert facts.keys() >= {"machine", "cpu", "cores", "onnxruntime", "python", "memory_available_mb", "disk_free_mb"}
    assert None not in facts.values() and conditions().keys() <= facts.keys()


def test_arms_cores_are_named():
    text = "processor\t: {}\nCPU implementer\t: 0x41\nCPU part\t: {}\n"
    assert _cpu(text.format(0, "0xd08")) == "Cortex-A72"
    assert _cpu(text.format(0, "0xd05") + text.format(1, "0xd0b")) == "Cortex-A55 + Cortex-A76"
    assert _cpu(text.format(0, "0xfff")) == "Arm part 0xfff"


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="no chain of additions for this processor")
def test_the_clock_is_measured():
    clocks = core_clocks_mhz(3)
    assert len(clocks) == 3 and all(300 < clock < 7000 for clock in clocks)
    # A cycle per addition, and not a fraction or a multiple of one: within what governors and neighbours do.
    told = [float(line.split(":")[1]) for line in open("/proc/cpuinfo") if line.startswith("cpu MHz")]
    if told:
        assert 0.5 * min(told) < max(clocks) < 2.2 * max(told)


def test_a_run_in_good_condition_is_not_spoiled():
    assert spoiled(COOL, COOL, 1795.0) == []
    assert spoiled({}, {}, None) == []
    assert spoiled({"throttled": "?"}, {}, 1000.0) == []


@pytest.mark.parametrize(
    "before, after, clock, words",
    [
        ({}, {"throttled": "0x50005"}, 1790, "under-voltage, throttling during the run (get_throttled 0x50005)"),
        ({}, {"throttled": "0x80000"}, 1790, "the soft temperature limit during the run"),  # came and went
        ({"throttled": "0x2"}, {}, 1790, "capped clock during the run"),
        ({"throttled": "0x50000"}, {"throttled": "0x50000"}, 1790, "since it was started, perhaps not during the run"),
        ({}, {"temperature_c": 82.4}, 1790, "reached 82 °C"),
        ({}, {}, 1500, "ran at 1500 MHz of 1800 MHz, governor ondemand"),
    ],
)
def test_what_spoils_a_run_is_told(before, after, clock, words):
    [reason] = spoiled(COOL | before, COOL | after, clock)
    assert words in reason
