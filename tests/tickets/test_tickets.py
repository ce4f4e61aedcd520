"""Every weight ticket on tiny runs: what it keeps, and what it starts from."""

import math

import numpy as np
import pytest
import reference
import torch
from safetensors.torch import load_file
from ticket_runs import (
    CHANNEL,
    FAST,
    FIRST,
    ITERATIONS,
    RATIO,
    SIZES,
    TINY,
    TOTAL,
    counts,
    overlap_is_chance,
    same,
    ticket_of,
)

from gems_edge.data.episodes import make_sampler
from gems_edge.data.sources import load_images
from gems_edge.data.tensors import episode_tensors
from gems_edge.meta.run import Run, seeded_weights
from gems_edge.meta.settings.ticket import TICKETS
from gems_edge.meta.start import resolve
from gems_edge.models.backbones.registry import make_backbone
from gems_edge.models.ticket import Masks
from gems_edge.tickets import find
from gems_edge.tickets.criteria import equal_counts, smart_counts
from gems_edge.tickets.search import Search


def test_every_method_has_a_finder_and_every_finder_is_a_method():
    """One function in find.py and one row in TICKETS; what they find is tested below, by these names."""
    wanted = {find.finder(name, unit) for name, method in TICKETS.items() for unit in method.units}
    takes_search = {"search": Search, "return": Masks}
    assert wanted == {item for item in vars(find).values() if getattr(item, "__annotations__", None) == takes_search}


@pytest.mark.parametrize("name", [*TICKETS, "layer", "rewound", "rounds", "unsettled", "magnitude"])
def test_the_ratio_is_exact_and_removed_weights_are_zero(trained, name):
    run = trained(name)
    ticket = ticket_of(run)
    assert (ticket.unit, ticket.ratio) == ("weight", RATIO) and ticket.method == run.config().ticket.method
    assert {n: mask.size for n, mask in ticket.masks.items()} == SIZES
    assert sum(counts(ticket.masks).values()) == round((1 - RATIO) * TOTAL)
    assert min(counts(ticket.masks).values()) > 0
    last = run.checkpoint()
    assert last.iteration == ITERATIONS
    for weights in (load_file(run.weights_path), last.weights, run.kept(0), run.kept(8)):
        for layer, mask in ticket.masks.items():
            assert torch.equal(weights[layer] != 0, torch.from_numpy(mask)), layer
    assert not same(run.kept(0), last.weights)


@pytest.mark.parametrize("name", [*TICKETS, "layer", "rounds"])
def test_training_starts_from_the_masked_first_weights(trained, name):
    run, dense = trained(name), trained("dense")
    start, ticket = run.initial(), ticket_of(run)
    assert same(start, dense.kept(0)) == (TICKETS[ticket.method].start != "fresh")
    masks = ticket.masks
    for layer, tensor in run.kept(0).items():
        mask = torch.from_numpy(masks[layer]) if layer in masks else 1
        assert torch.equal(tensor, start[layer] * mask)


def test_mwt_keeps_the_largest_weights_of_the_dense_run(trained):
    weights, masks = load_file(trained("dense").weights_path), ticket_of(trained("mwt")).masks
    kept = torch.cat([weights[layer][torch.from_numpy(mask)].abs() for layer, mask in masks.items()])
    gone = torch.cat([weights[layer][torch.from_numpy(~mask)].abs() for layer, mask in masks.items()])
    assert kept.min() >= gone.max()


def test_untrained_keeps_the_largest_weights_of_the_start(trained):
    start, masks = trained("dense").kept(0), ticket_of(trained("untrained")).masks
    kept = torch.cat([start[layer][torch.from_numpy(mask)].abs() for layer, mask in masks.items()])
    gone = torch.cat([start[layer][torch.from_numpy(~mask)].abs() for layer, mask in masks.items()])
    assert kept.min() >= gone.max()


def test_layerwise_mwt_removes_the_same_share_of_every_layer(trained):
    weights, masks = load_file(trained("dense").weights_path), ticket_of(trained("layer")).masks
    assert counts(masks) == equal_counts(SIZES, RATIO)
    for layer, mask in masks.items():
        mask = torch.from_numpy(mask)
        assert weights[layer][mask].abs().min() >= weights[layer][~mask].abs().max()


def test_a_dense_run_gives_the_ticket_that_a_search_finds(trained):
    own, given = trained("mwt"), trained("mwt-dense")
    assert (own.directory / "search").is_dir() and not (given.directory / "search").exists()
    assert same(ticket_of(own).masks, ticket_of(given).masks)
    assert own.weights_path.read_bytes() == given.weights_path.read_bytes()
    assert (own.directory / "search" / "weights.safetensors").read_bytes() == trained("dense").weights_path.read_bytes()
    found = [ticket_of(run).found for run in (own, given)]
    assert all(f["iterations"] == ITERATIONS and f["seconds"] > 0 and f["cpu_seconds"] > 0 for f in found)


def test_rr_has_mwts_mask_and_fresh_weights(trained):
    rr, mwt = trained("rr"), trained("mwt")
    assert same(ticket_of(rr).masks, ticket_of(mwt).masks)
    for layer in SIZES:
        fresh, first = rr.initial()[layer], mwt.initial()[layer]
        assert (fresh != first).float().mean() > 0.99
        assert 0.6 < fresh.std() / first.std() < 1.6  # the same distribution


def test_omt_and_pm_exchange_the_masks_around_the_first_layer(trained):
    mwt, omt, pm = (ticket_of(trained(name)).masks for name in ("mwt", "omt", "pm"))
    assert counts(mwt) == counts(omt) == counts(pm)
    for layer in SIZES:
        as_in_mwt, drawn = (omt, pm) if layer != FIRST else (pm, omt)
        assert np.array_equal(as_in_mwt[layer], mwt[layer]), layer
        assert overlap_is_chance(drawn[layer], mwt[layer]), layer


def test_random_tickets_differ_from_each_other_and_follow_their_counts(trained):
    rm, sr = (ticket_of(trained(name)).masks for name in ("rm", "sr"))
    assert counts(sr) == smart_counts(SIZES, RATIO) != counts(rm)
    for layer, count in counts(rm).items():
        share = 1 - RATIO
        assert abs(count / SIZES[layer] - share) < 5 * math.sqrt(share * (1 - share) / SIZES[layer]), layer
        assert not np.array_equal(rm[layer], sr[layer])


def test_snip_keeps_what_the_meta_objective_is_most_sensitive_to(trained, monkeypatch, environment):
    """|w · ∂L/∂w| in float64 by the plain MAML of reference.py, over the episodes that training draws first."""
    monkeypatch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])
    run = trained("snip")
    config, masks = run.config(), ticket_of(run).masks
    images = load_images(config.data[0], image_size=config.image_size, channels=config.channels)
    sampler = make_sampler(images, "train", config.ways, config.shots, config.queries, config.seed)
    start = {name: weight.double() for name, weight in trained("dense").kept(0).items()}
    score = dict.fromkeys(SIZES, 0.0)
    for iteration, task in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0)):
        episode = episode_tensors(images, torch.device("cpu")).episode(sampler.draw(iteration, task), torch.float64)
        _, gradient = reference.meta_gradient(
            make_backbone("conv4", config.channels), start, config.normalization, "maml", config.inner_lr, config.steps,
            False, episode.support_images, episode.support_labels, episode.query_images, episode.query_labels,
            config.ways,
        )  # fmt: skip
        score = {name: score[name] + gradient[name] / 5 for name in SIZES}
    score = {name: (start[name] * score[name]).abs() for name in SIZES}
    kept = torch.cat([score[name][torch.from_numpy(mask)] for name, mask in masks.items()])
    gone = torch.cat([score[name][torch.from_numpy(~mask)] for name, mask in masks.items()])
    assert kept.min() > gone.max() * (1 - 1e-3)
    assert ticket_of(run).found["episodes"] == 5


def test_rewinding_starts_from_the_weights_of_that_iteration(trained):
    own, given, mwt = trained("rewound"), trained("rewound-dense"), trained("mwt")
    assert same(ticket_of(own).masks, ticket_of(mwt).masks) and same(ticket_of(given).masks, ticket_of(mwt).masks)
    fourth = Run(own.directory / "search").kept(4)
    assert same(own.initial(), fourth) and same(given.initial(), trained("dense").kept(4))
    assert same(fourth, trained("dense").kept(4)) and not same(fourth, mwt.initial())
    masks = ticket_of(own).masks
    assert all(torch.equal(own.kept(0)[n], fourth[n] * torch.from_numpy(mask)) for n, mask in masks.items())


@pytest.mark.parametrize("name", ["rounds", "rr-rounds"])
def test_two_rounds_remove_the_same_share_twice(trained, name):
    outer = trained(name)
    inner, dense = Run(outer.directory / "search"), Run(outer.directory / "search" / "search")
    first, second = ticket_of(inner), ticket_of(outer)
    assert first.ratio == pytest.approx(1 - math.sqrt(1 - RATIO)) and second.ratio == RATIO
    assert sum(counts(first.masks).values()) == round(math.sqrt(1 - RATIO) * TOTAL)
    assert all(not (second.masks[layer] & ~first.masks[layer]).any() for layer in SIZES)
    assert dense.weights_path.read_bytes() == trained("dense").weights_path.read_bytes()
    trained_again = load_file(inner.weights_path)
    kept = torch.cat([trained_again[n][torch.from_numpy(m)].abs() for n, m in second.masks.items()])
    gone = torch.cat([trained_again[n][torch.from_numpy(~m)].abs() for n, m in second.masks.items()])
    assert kept.min() >= gone.max()
    assert second.found["iterations"] == 2 * ITERATIONS
    assert not same(second.masks, ticket_of(trained("mwt")).masks)  # rounds are not one shot
    assert same(second.masks, ticket_of(trained("rounds")).masks)  # rr has MWT's mask here too


@pytest.mark.parametrize("name, options", [("mwt", ()), ("rr", ()), ("channel-mwt", (*CHANNEL, *FAST))])
def test_a_given_ticket_is_trained_as_the_run_that_found_it(trained, gems, tmp_path, name, options):
    source, run = trained(name), Run(tmp_path / "given")
    ticket = ("--ticket", ticket_of(source).method, *options, "--ticket-file", source.ticket_path)
    gems("train", *TINY, *ticket, "-o", run.directory)
    assert same(ticket_of(run).masks, ticket_of(source).masks) and same(run.initial(), source.initial())
    assert run.weights_path.read_bytes() == source.weights_path.read_bytes()


def test_the_sizes_are_those_of_the_run(trained, monkeypatch, environment):
    monkeypatch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])
    config, _ = resolve(trained("dense").config())
    shapes = {name: tuple(tensor.shape) for name, tensor in seeded_weights(config).items()}
    assert {name: math.prod(shapes[name]) for name in SIZES} == SIZES
