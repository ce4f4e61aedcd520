"""What a process may still take: the machine's memory, or what its control groups leave of it."""

import pytest

from gems_edge import process_memory


@pytest.mark.parametrize("left, expected", [(None, 8000.0), (3_000_000_000, 3000.0), (0, 0.0), (1 << 40, 8000.0)])
def test_the_groups_limit_counts(left, expected, monkeypatch):
    monkeypatch.setattr(process_memory, "readable_text", lambda file: "MemAvailable:    7812500 kB\n")
    monkeypatch.setattr(process_memory, "memory_left", lambda: left)
    assert process_memory.available_mb() == pytest.approx(expected)


def test_a_peak_is_no_less_than_what_is_held():
    assert process_memory.peak_rss_mb() >= process_memory.file_rss_mb() > 0
