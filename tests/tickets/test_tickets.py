"""Every ticket through the command line on tiny runs: what it keeps, what it starts from, and what it refuses."""

import contextlib
import dataclasses
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_settings import SMALL

sys.path.insert(0, str(Path(__file__).parents[1] / "meta"))
import reference  # noqa: E402

from gems_edge.cli.main import main  # noqa: E402
from gems_edge.data.episodes import make_sampler  # noqa: E402
from gems_edge.data.sources import load_images  # noqa: E402
from gems_edge.data.tensors import episode_tensors  # noqa: E402
from gems_edge.meta.run import Run, seeded_weights  # noqa: E402
from gems_edge.meta.ticket_config import TicketConfig  # noqa: E402
from gems_edge.meta.train import prepare, resolve  # noqa: E402
from gems_edge.models.fewshot import FewShotModel  # noqa: E402
from gems_edge.models.ticket import load_ticket, save_ticket  # noqa: E402
from gems_edge.tickets.channels import channel_importances  # noqa: E402
from gems_edge.tickets.criteria import equal_counts, smart_counts  # noqa: E402
from gems_edge.tickets.primary import PrimaryWatch, read_primary_masks  # noqa: E402
from gems_edge.tickets.training import train_ticket  # noqa: E402

ITERATIONS, RATIO = 12, 0.8
TINY = (
    *SMALL, "--widths", "16", "--head", "per-class", "--meta-batch", "2", "--queries", "3",
    "--iterations", ITERATIONS, "--validate-every", ITERATIONS, "--validation-episodes", "4", "--keep", "every:4",
)  # fmt: skip
PMT = ("--ticket", "pmt", "--interval", "4")
CHANNEL = ("--unit", "channel", "--ratio", "0.6", "--round-to", "2")
# Large outer steps, so that masks change within a few iterations.
FAST = ("--lr", "0.05")
# A threshold that one changed position misses: the first layer's mask never settles.
UNSETTLED = (*PMT, *FAST, "--delta", "0.999")

FIRST = "backbone.blocks.0.conv.weight"
SIZES = {FIRST: 144, **{f"backbone.blocks.{n}.conv.weight": 2304 for n in (1, 2, 3)}, "head.weight": 80}
TOTAL = sum(SIZES.values())

# The trainings that the tests share. DENSE stands for the dense run's directory.
DENSE = "DENSE"
OPTIONS = {
    "dense": (),
    "mwt": ("--ticket", "mwt"),
    **{name: ("--ticket", name, "--dense-run", DENSE) for name in ("rr", "omt", "pm")},
    **{name: ("--ticket", name) for name in ("rm", "sr")},
    "snip": ("--ticket", "snip", "--snip-episodes", "5"),
    "pmt": PMT,
    "mwt-dense": ("--ticket", "mwt", "--dense-run", DENSE),
    "layer": ("--ticket", "mwt", "--scope", "layer", "--dense-run", DENSE),
    "rewound": ("--ticket", "mwt", "--rewind", "4"),
    "rewound-dense": ("--ticket", "mwt", "--rewind", "4", "--dense-run", DENSE),
    "rounds": ("--ticket", "mwt", "--rounds", "2"),
    "rr-rounds": ("--ticket", "rr", "--rounds", "2"),
    "unsettled": UNSETTLED,
    "magnitude": (*PMT, "--secondary", "magnitude"),
    "channel-mwt": ("--ticket", "mwt", *CHANNEL, *FAST),
    "channel-rewound": ("--ticket", "mwt", *CHANNEL, "--rewind", "4", "--dense-run", DENSE),
    "channel-pmt": (*PMT, *CHANNEL, *FAST, "--delta", "0.1"),
}
METHODS = ("mwt", "rr", "rm", "sr", "snip", "omt", "pm", "pmt")
CHANNEL_RUNS = ("channel-mwt", "channel-rewound", "channel-pmt")


@pytest.fixture(scope="module")
def gems(environment):
    """`gems("train", …)`: the command line in this process, because a process of its own spends most of its time importing
    torch. `code` is the exit code that it must have."""

    def call(*arguments, code=0):
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])
            patch.setenv("MPLCONFIGDIR", environment["GEMS_EDGE_CACHE"])
            patch.setattr(sys, "argv", ["gems-edge", *map(str, arguments)])
            ended = 0
            try:
                main()
            except SystemExit as end:
                ended = end.code
        assert ended == code, f"exit code {ended}\n{out.getvalue()}\n{err.getvalue()}"
        if code == 2:
            said = [line for line in err.getvalue().splitlines() if not line.startswith("find ticket ")]
            assert len(said) == 1, err.getvalue()
        return out.getvalue() if code == 0 else err.getvalue()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield call
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(gems, tmp_path_factory):
    """`trained("mwt")`: that run of OPTIONS, trained once."""
    place = tmp_path_factory.mktemp("tickets")

    def run(name: str) -> Run:
        directory = place / name
        if not directory.exists():
            options = [run("dense").directory if option == DENSE else option for option in OPTIONS[name]]
            gems("train", *TINY, *options, "-o", directory)
        return Run(directory)

    return run


def ticket_of(run: Run):
    return load_ticket(run.ticket_path)


def counts(masks) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks.items()}


def overlap_is_chance(drawn, mask) -> bool:
    """Whether `drawn`, of as many positions as `mask`, shares no more with it than six standard deviations over chance."""
    kept = mask.mean()
    return drawn[mask].mean() < kept + 6 * math.sqrt(kept * (1 - kept) / mask.sum())


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(bool((one[name] == other[name]).all()) for name in one)


# Weight tickets


@pytest.mark.parametrize("name", [*METHODS, "layer", "rewound", "rounds", "unsettled", "magnitude"])
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


@pytest.mark.parametrize("name", [*METHODS, "layer", "rounds"])
def test_training_starts_from_the_masked_first_weights(trained, name):
    run, dense = trained(name), trained("dense")
    start, masks = run.initial(), ticket_of(run).masks
    assert same(start, dense.kept(0)) == (name != "rr")
    for layer, tensor in run.kept(0).items():
        mask = torch.from_numpy(masks[layer]) if layer in masks else 1
        assert torch.equal(tensor, start[layer] * mask)


def test_mwt_keeps_the_largest_weights_of_the_dense_run(trained):
    weights, masks = load_file(trained("dense").weights_path), ticket_of(trained("mwt")).masks
    kept = torch.cat([weights[layer][torch.from_numpy(mask)].abs() for layer, mask in masks.items()])
    gone = torch.cat([weights[layer][torch.from_numpy(~mask)].abs() for layer, mask in masks.items()])
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
    images = load_images(config.data, image_size=config.image_size, channels=config.channels)
    sampler = make_sampler(images, "train", config.ways, config.shots, config.queries, config.seed)
    start = {name: weight.double() for name, weight in trained("dense").kept(0).items()}
    score = dict.fromkeys(SIZES, 0.0)
    for iteration, task in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0)):
        episode = episode_tensors(images, torch.device("cpu")).episode(sampler.draw(iteration, task), torch.float64)
        _, gradient = reference.meta_gradient(
            "conv4", start, config.normalization, "maml", config.inner_lr, config.steps, False, episode.support_images,
            episode.support_labels, episode.query_images, episode.query_labels, config.ways,
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


# Primary masked tickets


def overlaps_logged(search: Run) -> list:
    watched = [line for line in search.metrics() if line["kind"] == "watch"]
    return [[line["iteration"], round(line["overlap"], 6)] for line in watched if "overlap" in line]


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


def test_two_processes_find_the_ticket_that_one_finds(trained, environment, tmp_path):
    """Of two tasks each process does one: their sum has the same bits as one process's."""
    one, run = trained("unsettled"), Run(tmp_path / "two")
    torchrun = (
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "gems_edge",
    )
    command = [*torchrun, "train", *TINY, *UNSETTLED, "-o", run.directory]
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


# Channel tickets


@pytest.mark.parametrize("name", CHANNEL_RUNS)
def test_a_channel_ticket_is_the_slice_of_the_first_weights(trained, name):
    run = trained(name)
    config, ticket = run.config(), ticket_of(run)
    assert ticket.unit == "channel" and list(ticket.masks) == [f"widths.{n}" for n in range(4)]
    dense = config.model_spec()
    compact = dataclasses.replace(dense, widths=ticket.widths)
    assert all(width < 16 for width in ticket.widths) and [m.size for m in ticket.masks.values()] == [16] * 4
    assert abs(1 - compact.backbone_weights / dense.backbone_weights - 0.6) <= 0.02
    whole, start = trained("dense").kept(4 if name == "channel-rewound" else 0), run.initial()
    inputs = np.ones(1, bool)
    for n, mask in enumerate(ticket.masks.values()):
        block = f"backbone.blocks.{n}"
        assert torch.equal(start[f"{block}.conv.weight"], whole[f"{block}.conv.weight"][mask][:, inputs])
        for part in ("norm.weight", "norm.bias"):
            assert torch.equal(start[f"{block}.{part}"], whole[f"{block}.{part}"][mask])
        inputs = mask
    assert torch.equal(start["head.weight"], whole["head.weight"][:, inputs])
    assert torch.equal(start["head.bias"], whole["head.bias"])
    model, weights = run.model()
    assert model.spec == compact and not model.masks and not same(weights, start)


def test_channel_tickets_keep_the_most_important_channels(trained):
    for name in ("channel-mwt", "channel-pmt"):
        run = trained(name)
        model = FewShotModel(run.config().model_spec())
        weights = Run(run.directory / "search").checkpoint().weights
        for importance, mask in zip(channel_importances(model, weights), ticket_of(run).masks.values()):
            assert importance[torch.from_numpy(mask)].min() >= importance[torch.from_numpy(~mask)].max(), name


def test_channel_pmt_watches_the_first_layers_channels(trained):
    run = trained("channel-pmt")
    search, found = Run(run.directory / "search"), ticket_of(run).found
    assert found["settled"] and found["iterations"] == 8 and found["overlaps"] == overlaps_logged(search)
    seen = read_primary_masks(search.directory / "primary.safetensors")
    assert np.array_equal(seen[-1][1], ticket_of(run).masks["widths.0"])


@pytest.mark.parametrize("name", ["mwt", "rr", "channel-mwt", "channel-pmt"])
def test_evaluate_works_on_a_ticket(trained, gems, name):
    document = json.loads(gems("evaluate", trained(name).directory, "--episodes", "4", "--json"))
    assert document["episodes"] == 4 and 0 <= document["accuracy"] <= 1 and document["steps"] == 2


# Given tickets


@pytest.mark.parametrize("name, options", [("mwt", ()), ("rr", ()), ("channel-mwt", (*CHANNEL, *FAST))])
def test_a_given_ticket_is_trained_as_the_run_that_found_it(trained, gems, tmp_path, name, options):
    source, run = trained(name), Run(tmp_path / "given")
    ticket = ("--ticket", ticket_of(source).method, *options, "--ticket-file", source.ticket_path)
    gems("train", *TINY, *ticket, "-o", run.directory)
    assert same(ticket_of(run).masks, ticket_of(source).masks) and same(run.initial(), source.initial())
    assert run.weights_path.read_bytes() == source.weights_path.read_bytes()


# Bad input


REFUSED = [
    (("--ticket", "mwt", "--ratio", "1"), "--ratio 1"),
    (("--ticket", "mwt", "--ratio", "-0.1"), "--ratio"),
    (("--ticket", "mwt", "--ratio", "nan"), "--ratio"),
    (("--ticket", "sr", "--ratio", "0.999"), "without weights"),
    ((*PMT, "--ratio", "0.999"), "without weights"),
    ((*PMT, "--unit", "channel", "--ratio", "0.99"), "too few channels"),
    (("--ticket", "mwt", "--unit", "channel", "--ratio", "0.99"), "too few channels"),
    (("--ratio", "0.8"), "--ratio belongs to a ticket"),
    (("--rewind", "3"), "--rewind belongs to a ticket"),
    (("--ticket", "mwt", "--rewind", "13"), "beyond"),
    ((*PMT, "--rewind", "3"), "--rewind"),
    (("--ticket", "snip", "--unit", "channel"), "--unit channel"),
    (("--ticket", "mwt", "--unit", "channel", "--rounds", "2"), "--rounds"),
    ((*PMT, "--rounds", "2"), "--rounds"),
    ((*PMT, "--dense-run", DENSE), "--dense-run"),
    (("--ticket", "mwt", "--rounds", "2", "--dense-run", DENSE), "--dense-run"),
    (("--ticket", "mwt", "--dense-run", DENSE, "--lr", "0.5"), "lr = 0.001, not 0.5"),
    (("--ticket", "mwt", "--dense-run", DENSE, "--rewind", "3"), "--keep 3"),
    (("--ticket", "mwt", "--dense-run", "NOTHING"), "NOTHING"),
    ((*PMT, "--delta", "1"), "--delta"),
    ((*PMT, "--interval", "0"), "--interval"),
    ((*PMT, "--queue", "0"), "--queue"),
    (("--ticket", "sr", "--head-keep", "2"), "--head-keep"),
    (("--keep", "nonsense"), "--keep"),
    (("--keep", "every:0"), "--keep"),
    (("--keep", "-1"), "--keep"),
    (("--ticket", "lottery"), "lottery"),
]


@pytest.mark.parametrize("options, message", REFUSED, ids=[" ".join(options) for options, _ in REFUSED])
def test_bad_input_is_refused_in_one_line_and_writes_nothing(trained, gems, tmp_path, options, message):
    places = {DENSE: trained("dense").directory, "NOTHING": tmp_path / "NOTHING"}
    options = [places.get(option, option) for option in options]
    assert message in gems("train", *TINY, *options, "-o", tmp_path / "run", code=2)
    assert not list(tmp_path.iterdir())


def test_only_a_finished_dense_run_gives_trained_weights(trained, gems, tmp_path):
    run = ("-o", tmp_path / "run")
    sparse = trained("mwt").directory
    assert "trained a ticket" in gems("train", *TINY, "--ticket", "mwt", "--dense-run", sparse, *run, code=2)
    unfinished = Run(tmp_path / "unfinished")
    prepare(unfinished, trained("dense").config())
    options = (*TINY, "--ticket", "rr", "--dense-run", unfinished.directory)
    assert "not finished" in gems("train", *options, *run, code=2)
    unfinished.save_checkpoint(dataclasses.replace(trained("dense").checkpoint(), iteration=ITERATIONS - 1))
    assert "not finished" in gems("train", *options, *run, code=2)
    assert not (tmp_path / "run").exists()


def test_a_ticket_file_that_does_not_fit_is_refused(trained, gems, tmp_path):
    path, run = tmp_path / "given.ticket", ("-o", tmp_path / "run")
    ticket = ticket_of(trained("mwt"))

    def refused(*options) -> str:
        return gems("train", *TINY, *options, "--ticket-file", path, *run, code=2)

    assert "given.ticket" in refused("--ticket", "mwt")  # not there
    save_ticket(path, ticket)
    assert "widths" in refused("--ticket", "mwt", "--widths", "8")
    assert "--ticket" in refused()  # and no method
    assert "pmt" in refused("--ticket", "pmt") and "0.5" in refused("--ticket", "mwt", "--ratio", "0.5")
    assert "channel" in refused("--ticket", "mwt", "--unit", "channel")
    path.write_bytes(path.read_bytes()[:-10])
    assert "damaged" in refused("--ticket", "mwt")
    assert [place.name for place in tmp_path.iterdir()] == ["given.ticket"]


def test_a_run_goes_on_only_with_its_own_ticket(trained, gems):
    run = trained("rm")
    before = {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()}
    assert "ratio = 0.8, not 0.5" in gems("train", "--resume", "--ratio", "0.5", "-o", run.directory, code=2)
    assert "method" in gems("train", "--resume", "--ticket", "sr", "-o", run.directory, code=2)
    assert "--resume" in gems("train", *TINY, "--ticket", "rm", "-o", run.directory, code=2)
    dense = trained("dense").directory
    assert "ticket" in gems("train", "--resume", "--ticket", "rm", "-o", dense, code=2)
    assert before == {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()}


def test_global_pruning_that_empties_a_layer_says_so(trained, gems, tmp_path):
    """Known only after training: then what was trained is there to go on with."""
    options = (*TINY, "--ticket", "mwt", "--ratio", "0.999", "-o", tmp_path / "run")
    message = gems("train", *options, code=2)
    assert "without weights" in message and f"--dense-run {tmp_path / 'run' / 'search'}" in message
    again = ("--ticket", "mwt", "--ratio", "0.9", "--dense-run", tmp_path / "run" / "search", "-o", tmp_path / "again")
    gems("train", *TINY, *again)


def test_the_shapes_above_are_those_of_the_run(trained, monkeypatch, environment):
    monkeypatch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])
    config, _ = resolve(trained("dense").config())
    shapes = {name: tuple(tensor.shape) for name, tensor in seeded_weights(config).items()}
    assert {name: math.prod(shapes[name]) for name in SIZES} == SIZES
