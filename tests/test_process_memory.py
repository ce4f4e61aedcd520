"""What a process may still take: the machine's memory, or what a container's limit leaves of it."""

import pytest

from gems_edge import process_memory


@pytest.mark.parametrize(
    "limit, used, expected",
    [("3000000000", "1000000000", 2000.0), ("max", "1000000000", 8000.0), ("1000", "2000", 0.0), ("", "", 8000.0)],
)
def test_a_containers_limit_counts(limit, used, expected, monkeypatch):
    files = {
        "/proc/meminfo": "MemTotal: 9999999 kB\nMemAvailable:    7812500 kB\n",
        "/sys/fs/cgroup/memory.max": f"{limit}\n",
        "/sys/fs/cgroup/memory.current": f"{used}\n",
    }
    monkeypatch.setattr(process_memory, "_text", files.__getitem__)
    assert process_memory.available_mb() == pytest.approx(expected)


def test_a_peak_is_no_less_than_what_is_held():
    assert process_memory.peak_rss_mb() >= process_memory.file_rss_mb() > 0
