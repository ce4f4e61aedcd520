"""Primary masked tickets: when the search stops, what it logs, and what it finds."""

import subprocess

import numpy as np
import pytest
import torch
from small_settings import TORCHRUN
from ticket_runs import (
    FIRST,
    ITERATIONS,
    RATIO,
    SIZES,
    TINY,
    UNSETTLED,
    counts,
    overlap_is_chance,
    overlaps_logged,
    same,
    ticket_of,
)

from gems_edge.meta.run import Run
from gems_edge.meta.settings.ticket import TicketConfig
from gems_edge.tickets.criteria import smart_counts
from gems_edge.tickets.primary import PrimaryWatch, read_primary_masks
from gems_edge.tickets.training import train_ticket


def test_pmt_stops_when_the_first_layer_has_settled(trained):
    run = trained("pmt")
    ticket, search = ticket_of(run), Run(run.directory / "search")
    assert counts(ticket.masks) == smart_counts(SIZES, RATIO)
    found = ticket.found
    assert found["settled"] is True and found["iterations"] == 8 == search.checkpoint().iteration
    assert found["overlaps"] == overlaps_logged(search) and [i for i, _ in found["overlaps"]] == [8]
    assert found["overlaps"][0][1] > found["delta"] == 0.95 and found["interval"] == 4
    assert not any(line["kind"] == "validation" for line in search.metrics())
    first, mask = search.checkpoint().weights[FIRST].abs(), torch.from_numpy(ticket.masks[FIRST])
    assert first[mask].min() >= first[~mask].max()
    seen = read_primary_masks(search.directory / "primary.safetensors")
    assert [iteration for iteration, _ in seen] == [4, 8]
    assert np.array_equal(seen[-1][1], ticket.masks[FIRST])


def test_pmt_that_never_settles_ends_with_the_run(trained):
    run = trained("unsettled")
    found, search = ticket_of(run).found, Run(run.directory / "search")
    assert found["settled"] is False and found["iterations"] == ITERATIONS == search.checkpoint().iteration
    assert [i for i, _ in found["overlaps"]] == [8, 12] and found["overlaps"] == overlaps_logged(search)
    assert all(0.3 < overlap <= 0.999 for _, overlap in found["overlaps"])
    seen = dict(read_primary_masks(search.directory / "primary.safetensors"))
    for (iteration, overlap), before in zip(found["overlaps"], (4, 8)):
        shared = (seen[iteration] & seen[before]).sum() / seen[iteration].sum()
        assert overlap == pytest.approx(shared, abs=1e-6)


def test_pmts_masks_behind_the_first_layer_are_random_or_the_largest(trained):
    random, largest = (ticket_of(trained(name)).masks for name in ("pmt", "magnitude"))
    assert counts(random) == counts(largest) and np.array_equal(random[FIRST], largest[FIRST])
    weights = Run(trained("magnitude").directory / "search").checkpoint().weights
    for layer in SIZES:
        mask = torch.from_numpy(largest[layer])
        assert weights[layer][mask].abs().min() >= weights[layer][~mask].abs().max()
        assert layer == FIRST or overlap_is_chance(random[layer], largest[layer]), layer


def test_a_search_that_is_stopped_goes_on_with_its_queue(trained, gems, tmp_path, monkeypatch, environment):
    """Stopped after the second look, before a checkpoint has it: that look is taken again, not counted twice."""
    monkeypatch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])
    whole, run = trained("unsettled"), Run(tmp_path / "stopped")

    def stop(record):
        if record["kind"] == "watch" and record["iteration"] == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_ticket(run, whole.config(), progress=stop)
    search = Run(run.directory / "search")
    assert not run.ticket_path.exists() and search.checkpoint().iteration == 7
    assert len(read_primary_masks(search.directory / "primary.safetensors")) == 2
    gems("train", "--resume", "-o", run.directory)
    one, other = ticket_of(whole), ticket_of(run)
    assert one.found["overlaps"] == other.found["overlaps"] and same(one.masks, other.masks)
    assert run.weights_path.read_bytes() == whole.weights_path.read_bytes()


@pytest.mark.slow(15)
def test_two_processes_find_the_ticket_that_one_finds(trained, environment, tmp_path):
    """Of two tasks each process does one: their sum has the same bits as one process's."""
    one, run = trained("unsettled"), Run(tmp_path / "two")
    command = [*TORCHRUN, "train", *TINY, *UNSETTLED, "-o", run.directory]
    result = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    alone, together = ticket_of(one), ticket_of(run)
    assert alone.found["overlaps"] == together.found["overlaps"] and same(alone.masks, together.masks)
    assert not together.found["settled"] and same(one.initial(), run.initial())


def looked(tmp_path, masks, resume_at=None, **settings) -> list[bool]:
    """What a watch says after each of these first-layer masks (lists of kept positions out of 8)."""
    config = TicketConfig(method="pmt", interval=10, **settings)
    seen = iter([np.isin(np.arange(8), kept) for kept in masks])
    watch = PrimaryWatch(tmp_path / "primary.safetensors", config, lambda weights: next(seen), writes=True)
    assert watch.every == 10 and not watch.settled
    said = [watch.look(10 * n, {})[0] for n in range(1, len(masks) + 1)]
    if resume_at:
        again = PrimaryWatch(tmp_path / "primary.safetensors", config, lambda weights: None, writes=True)
        assert again.resume(resume_at) == said[resume_at // 10 - 1]
        assert again.overlaps == watch.overlaps[: resume_at // 10 - 1]
    return said


A, B, HALF = [0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 4, 5]


def test_the_queue_remembers_the_last_overlaps(tmp_path):
    # Overlaps: A–HALF 0.5, HALF–B 0.5, B–B 1, B–A 0, A–A 1.
    masks = [A, HALF, B, B, A, A]
    # Algorithm 2: any of the last l overlaps above δ.
    assert looked(tmp_path, masks, delta=0.5, queue=1) == [False, False, False, True, False, True]
    assert looked(tmp_path, masks, delta=0.5, queue=2, resume_at=40) == [False, False, False, True, True, True]
    assert looked(tmp_path, masks, delta=0.49, queue=1, resume_at=20) == [False, True, True, True, False, True]
    # All of a full queue, as Early-Bird.
    assert looked(tmp_path, masks, delta=0.4, queue=3, stable="all") == [False, False, False, True, False, False]
    assert looked(tmp_path, masks, delta=0.5, queue=3, stable="all", resume_at=30) == [False] * 6
    assert looked(tmp_path, [A, A], delta=0.5, queue=3, stable="all") == [False] * 2
