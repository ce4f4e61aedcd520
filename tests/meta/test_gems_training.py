"""Training and evaluation on two image sets through the command line: BMP, MMSUP, Multi-MAML, and equation 7."""

import json
import shutil
import signal
import subprocess
import sys
import time

import gems_reference
import pytest
import torch
from gems_runs import LAYERS, OPTIONS, TWO_SETS, stirred, stirred_run
from safetensors.torch import load_file, save_file
from small_settings import TORCHRUN
from test_training import records

from gems_edge.meta.outer import meta_loss
from gems_edge.meta.processes import start_processes
from gems_edge.meta.run import Run, seeded_weights
from gems_edge.meta.settings.adapter import AdapterConfig
from gems_edge.meta.settings.run import TrainConfig, read_config
from gems_edge.meta.start import Start, resolve
from gems_edge.meta.train import Trainer, train
from gems_edge.models.ticket import load_ticket

NAMES = ["ink", "tint"]


def evaluated(cli_here, run, image_sets, *options):
    options = ("--data-root", image_sets, "--episodes", "4", "--json", *options)
    return json.loads(cli_here("evaluate", run, *options).stdout)


# What training logs


@pytest.mark.parametrize("method", ["maml", "bmp", "mmsup"])
def test_logs_tell_the_distributions_apart(two_set_run, method):
    log = records(two_set_run(method))
    assert [line["iteration"] for line in log if line["kind"] == "train"] == list(range(1, 7))
    assert [line["iteration"] for line in log if line["kind"] == "validation"] == [3, 6]
    for line in log:
        parts = line["distributions"]
        assert list(parts) == NAMES
        for what in ("loss", "accuracy") if line["kind"] == "train" else ("accuracy",):  # of as many tasks each
            assert line[what] == pytest.approx(sum(part[what] for part in parts.values()) / 2, rel=1e-6)
        if method == "maml":
            assert not {"choices", "layers"} & line.keys()
            continue
        assert line["layers"] == LAYERS and list(line["choices"]) == NAMES
        for choices in line["choices"].values():
            shapes = {name: (len(rows), {len(row) for row in rows}) for name, rows in choices.items()}
            if method == "bmp":
                assert shapes == {"mask": (2, {5}), "rate": (2, {1})}
                assert all(0 <= x <= 1 for row in choices["mask"] for x in row) and choices["rate"][0][0] > 0
            else:
                assert shapes == {"keep": (2, {5})}
                assert choices["keep"][0] == choices["keep"][1] and all(0 < x < 1 for x in choices["keep"][0])
    tasks = [
        part["episodes"] for line in log if line["kind"] == "validation" for part in line["distributions"].values()
    ]
    assert tasks == [2] * 4


@pytest.mark.parametrize("method, start", [("bmp", [1.0] * 5 + [0.0]), ("mmsup", [0.0] * 5)])
def test_the_adapter_starts_as_asked_and_learns(two_set_run, method, start):
    run = Run(two_set_run(method))
    first, last = seeded_weights(run.config()), run.checkpoint().weights
    assert first["adapter.output.bias"].tolist() == start
    assert not torch.equal(first["adapter.output.weight"], last["adapter.output.weight"])
    (logged, *_), kind = records(run.directory), "mask" if method == "bmp" else "keep"
    assert {x for part in logged["choices"].values() for row in part[kind] for x in row} == {
        1.0 if method == "bmp" else 0.5
    }


def test_weights_are_the_shares_of_the_meta_batches(cli_here, image_sets, tmp_path):
    """And a set by name beside a file, in one format that is said."""
    options = (
        "--data-root",
        image_sets,
        "--data",
        f"ink,packed:{image_sets}/tint.npz",
        "--data-weights",
        "3,1",
        "--iterations",
        "2",
    )
    said = cli_here("train", *TWO_SETS, *options, "-o", tmp_path / "run").stderr
    assert "ink 28×28×1, tint 32×32×3" in said and "28×28×3" in said
    config = Run(tmp_path / "run").config()
    assert (config.image_size, config.channels, config.data_weights) == (28, 3, (3.0, 1.0))
    for line in records(tmp_path / "run"):
        if line["kind"] == "train":
            parts = line["distributions"]
            assert line["loss"] == pytest.approx(0.75 * parts["ink"]["loss"] + 0.25 * parts["tint"]["loss"], rel=1e-6)


# Resuming, processes


@pytest.mark.slow(4)
@pytest.mark.parametrize("method", ["bmp", "mmsup"])
def test_a_killed_run_ends_with_the_same_bits(two_set_run, cli_here, environment, image_sets, tmp_path, method):
    whole, cut = two_set_run(method), tmp_path / "cut"
    options = ["train", *TWO_SETS, *OPTIONS.get(method, ()), "--data-root", image_sets, "--method", method, "-o", cut]
    process = subprocess.Popen(
        [sys.executable, "-m", "gems_edge", *map(str, options)], env=environment, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not (cut / "last" / "checkpoint.safetensors").exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"
    assert Run(cut).checkpoint().iteration < 6
    cli_here("train", "--resume", "-o", cut)
    assert (cut / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    expected, found = (load_file(run / "last" / "checkpoint.safetensors") for run in (whole, cut))
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    assert "exp_avg.adapter.output.weight" in expected
    assert records(cut) == records(whole)


ONE_STEP = """
import sys
from pathlib import Path
from safetensors.torch import load_file
from gems_edge.meta.settings.run import read_config
from gems_edge.meta.processes import start_processes
from gems_edge.meta.run import Run
from gems_edge.meta.train import train

processes = start_processes("cpu")
assert processes.count == 2
for method in ("maml", "bmp", "mmsup"):
    place = Path(sys.argv[1])
    config = read_config(place / f"{method}.toml")
    train(Run(place / f"{method}-two"), config, initial=load_file(place / f"{method}.safetensors"), processes=processes)
processes.leave()
"""


@pytest.mark.slow(30)
def test_two_processes_compute_what_one_does(two_set_run, environment, tmp_path):
    """One outer step; with bmp and mmsup every task has masks, or a subnet, of its own."""
    for method in ("maml", "bmp", "mmsup"):
        text = (two_set_run(method) / "config.toml").read_text()
        (tmp_path / f"{method}.toml").write_text(text.replace("iterations = 6", "iterations = 1"))
        config = read_config(tmp_path / f"{method}.toml")
        start = seeded_weights(config)
        save_file(start if method == "maml" else stirred(start), tmp_path / f"{method}.safetensors")
        train(Run(tmp_path / f"{method}-one"), config, initial=load_file(tmp_path / f"{method}.safetensors"))
    (tmp_path / "step.py").write_text(ONE_STEP)
    command = [*TORCHRUN[:-2], str(tmp_path / "step.py"), str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    for method in ("maml", "bmp", "mmsup"):
        one, two = (load_file(tmp_path / f"{method}-{n}" / "last" / "checkpoint.safetensors") for n in ("one", "two"))
        # After one step Adam's first moment is a tenth of the meta-gradient.
        gradients = [
            torch.cat([t.flatten() for n, t in sorted(c.items()) if n.startswith("exp_avg.")]) for c in (one, two)
        ]
        assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[0].norm()
        if method != "maml":
            assert_choices_agree(tmp_path, method)
    assert_subnet_moves_alike(tmp_path)


def assert_choices_agree(directory, method):
    logged = [records(directory / f"{method}-{n}")[0]["choices"] for n in ("one", "two")]
    assert logged[0] == logged[1]
    kind = "mask" if method == "bmp" else "keep"
    assert logged[0]["ink"][kind] != logged[0]["tint"][kind], "a case in which all tasks choose alike proves little"


def assert_subnet_moves_alike(directory):
    """With mmsup a part of every weight moves, the same part in both."""
    ends = [load_file(directory / f"mmsup-{n}" / "last" / "checkpoint.safetensors") for n in ("one", "two")]
    for name, before in load_file(directory / "mmsup.safetensors").items():
        if before.ndim > 1 and not name.startswith("adapter."):
            moved = [checkpoint[f"weights.{name}"] != before for checkpoint in ends]
            assert torch.equal(*moved) and 0 < moved[0].float().mean() < 1, name


# Equation 7: the outer step over the union of the subnets


@pytest.fixture
def trainer(image_sets, environment, monkeypatch, tmp_path):
    """A trainer of MMSUP whose Adam has momentum everywhere, as after many iterations; learned shares are stirred."""
    monkeypatch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])

    def make(sparsity, head="shared"):
        config = TrainConfig(
            data=("ink", "tint"), widths=(8,), method="mmsup", head=head, steps=2, inner_lr=0.1, meta_batch=4,
            queries=3, clip=0.0, compute="cpu", adapter=AdapterConfig(sparsity=sparsity),
        )  # fmt: skip
        config, images = resolve(config, image_sets)
        weights = seeded_weights(config)
        weights = stirred(weights) if not sparsity else weights
        made = Trainer(Run(tmp_path), Start(config, images, start_processes("cpu")), initial=weights)
        for number, weight in enumerate(made.weights.values()):
            push = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
            moments = {"exp_avg": 0.01 * push, "exp_avg_sq": 1e-4 * torch.ones_like(weight)}
            made.optimizer.state[weight] = {"step": torch.tensor(5.0), **moments}
        return made

    return make


def largest(weight, share):
    """bool: the `share` of a tensor's entries with the largest magnitudes."""
    order = weight.detach().abs().flatten().argsort(descending=True, stable=True)
    inside = torch.zeros(weight.numel(), dtype=torch.bool)
    inside[order[: gems_reference.count(share, weight.numel())]] = True
    return inside.view_as(weight)


def layer_shares(weights, shares):
    """Share by name, of the convolution and linear weights."""
    names = [name for name, weight in weights.items() if weight.ndim > 1 and not name.startswith("adapter.")]
    return dict(zip(names, shares, strict=True))


def moved_by(trainer):
    before = {name: weight.detach().clone() for name, weight in trainer.weights.items()}
    trainer.step(trainer.tally())
    return before, {name: weight.detach() != before[name] for name, weight in trainer.weights.items()}


def test_outside_the_union_a_weight_keeps_its_bits(trainer):
    one = trainer((0.7, 0.5, 0.25, 0.9, 0.4))
    before, moved = moved_by(one)
    shares = layer_shares(before, [0.3, 0.5, 0.75, 0.1, 0.6])
    for name, changed in moved.items():
        if name in shares:
            assert torch.equal(changed, largest(before[name], shares[name])), name
        else:
            assert changed.all(), name
    again = {name: weight.detach().clone() for name, weight in one.weights.items()}
    one.iteration += 1
    one.step(one.tally())  # the subnet is that of the weights as they are now
    for name, share in shares.items():
        assert torch.equal(one.weights[name].detach() != again[name], largest(again[name], share)), name


def test_the_union_is_that_of_the_tasks_and_each_gives_to_its_own_subnet(trainer):
    one = trainer((), "per-class")
    expected = {name: torch.zeros_like(weight) for name, weight in one.weights.items()}
    keeps, names = [], list(one.weights)
    for task in range(4):
        _, indices = one.sampler.draw(0, task, 4)
        result = meta_loss(one.model, one.weights, one.tensors.episode(indices), one.config, one.rule)
        keeps.append(result.trajectory.steps[0].choice["keep"].tolist())
        shares = layer_shares(one.weights, keeps[-1])
        for name, gradient in zip(names, torch.autograd.grad(result.loss / 4, list(one.weights.values()))):
            expected[name] += gradient * largest(one.weights[name], shares[name]) if name in shares else gradient
    most = layer_shares(one.weights, [max(column) for column in zip(*keeps)])
    assert max(max(column) - min(column) for column in zip(*keeps)) > 0.02, "subnets that are all alike prove little"
    before, moved = moved_by(one)
    for name, weight in one.weights.items():
        assert torch.allclose(weight.grad, expected[name], rtol=1e-4, atol=1e-7), name
        assert torch.equal(
            moved[name], largest(before[name], most[name]) if name in most else torch.ones_like(moved[name])
        )


# Multi-MAML


@pytest.mark.slow(4)
def test_multi_maml_is_a_maml_run_for_each_set(two_set_run, cli_here, image_sets, tmp_path):
    multi = two_set_run("multi-maml")
    alone = (*TWO_SETS, "--data-root", image_sets, "--method", "maml", "--image-size", "28", "--channels", "3")
    assert sorted(path.name for path in (multi / "distributions").iterdir()) == NAMES
    for name in NAMES:
        cli_here("train", *alone, "--data", name, "-o", tmp_path / name)
        part = multi / "distributions" / name
        assert (part / "weights.safetensors").read_bytes() == (tmp_path / name / "weights.safetensors").read_bytes()
        assert records(part) == records(tmp_path / name)
        assert read_config(part / "config.toml") == read_config(tmp_path / name / "config.toml")
    run = Run(multi)
    parts = [run.distribution(name).metrics()[-1] for name in NAMES]
    spent = run.spent()
    for clock in ("seconds", "cpu_seconds"):
        assert spent[clock] == pytest.approx(parts[0][clock] + parts[1][clock]) and min(p[clock] for p in parts) > 0
    assert run.finished()


def test_multi_maml_goes_on_where_it_was(two_set_run, cli_here, tmp_path):
    """Cut between the two: what is finished stays as it is."""
    whole, cut = two_set_run("multi-maml"), tmp_path / "cut"
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "distributions" / "tint")
    assert not Run(cut).finished() and "--resume" in cli_here("evaluate", cut, code=2).stderr
    before = (cut / "distributions" / "ink" / "metrics.jsonl").read_bytes()  # with their times
    cli_here("train", "--resume", "-o", cut)
    assert Run(cut).finished() and (cut / "distributions" / "ink" / "metrics.jsonl").read_bytes() == before
    for name in NAMES:
        one, other = (run / "distributions" / name / "weights.safetensors" for run in (whole, cut))
        assert one.read_bytes() == other.read_bytes()


def test_multi_maml_answers_with_a_sets_own_model_or_with_all(two_set_run, cli_here, image_sets):
    multi = two_set_run("multi-maml")
    document = evaluated(cli_here, multi, image_sets, "--data", "slant,ink,tint", "--per-step")
    parts = [multi / "distributions" / name for name in NAMES]
    each = [evaluated(cli_here, part, image_sets, "--data", "slant,ink,tint", "--per-step") for part in parts]
    found = document["distributions"]
    assert {name: one["seen"] for name, one in found.items()} == {"slant": False, "ink": True, "tint": True}
    assert each[0]["distributions"]["tint"]["seen"] is False
    for number, name in enumerate(NAMES):
        own = each[number]["distributions"][name]
        assert own["seen"] is True and found[name]["table"] == own["table"]
    for row, *rows in zip(found["slant"]["table"], *(one["distributions"]["slant"]["table"] for one in each)):
        assert row["accuracy"] == pytest.approx((rows[0]["accuracy"] + rows[1]["accuracy"]) / 2)
    assert each[0]["distributions"]["slant"]["table"] != each[1]["distributions"]["slant"]["table"]
    assert "choices" not in found["ink"] and "overlap" not in document


# Evaluation of seen and unseen sets


@pytest.mark.parametrize("method", ["bmp", "mmsup"])
def test_evaluate_tells_each_distributions_accuracy_and_choices(two_set_run, cli_here, image_sets, tmp_path, method):
    run = stirred_run(two_set_run(method), tmp_path / "run")
    document = evaluated(cli_here, run, image_sets, "--data", "ink,slant")
    found = document["distributions"]
    assert [(name, one["seen"]) for name, one in found.items()] == [("ink", True), ("slant", False)]
    assert document["accuracy"] == pytest.approx(sum(one["accuracy"] for one in found.values()) / 2)
    assert document["ci95"] == pytest.approx(sum(one["ci95"] ** 2 for one in found.values()) ** 0.5 / 2)
    assert document["episodes"] == 4 and document["layers"] == LAYERS
    for row, *rows in zip(document["table"], *(one["table"] for one in found.values())):
        assert row["accuracy"] == pytest.approx((rows[0]["accuracy"] + rows[1]["accuracy"]) / 2)
    kinds = {"bmp": {"mask", "rate"}, "mmsup": {"keep"}}[method]
    assert all(one["choices"].keys() == kinds and len(one["choices"][max(kinds)]) == 2 for one in found.values())
    assert found["ink"]["choices"] != found["slant"]["choices"]
    alone = evaluated(cli_here, run, image_sets, "--data", "slant")
    assert alone["accuracy"] == found["slant"]["accuracy"] and alone.get("overlap", {}) == {}
    if method == "mmsup":
        keeps = [one["choices"]["keep"][0] for one in found.values()]
        assert document["overlap"]["ink|slant"] == pytest.approx(
            [min(a, b) / max(a, b) for a, b in zip(*keeps)], abs=1e-4
        )
    else:
        assert "overlap" not in document
        said = cli_here("evaluate", run, "--data-root", image_sets, "--data", "ink,slant", "--episodes", "2").stdout
        assert "slant (unseen)" in said and "ink (unseen)" not in said and "mean" in said


@pytest.mark.parametrize("method", ["bmp", "mmsup"])
def test_weights_without_the_adapter_are_refused(two_set_run, cli_here, tmp_path, method):
    run = tmp_path / "run"
    shutil.copytree(two_set_run(method), run)
    weights = load_file(run / "weights.safetensors")
    save_file({n: w for n, w in weights.items() if not n.startswith("adapter.")}, run / "weights.safetensors")
    for command in (("evaluate", run), ("export", run, "--ratio", "0", "-o", tmp_path / "a.gems")):
        said = cli_here(*command, code=2).stderr
        assert "weights.safetensors" in said and "adapter.hidden.weight is missing" in said
    assert not (tmp_path / "a.gems").exists()


# Together with tickets


def test_a_weight_ticket_masks_the_networks_weights_alone(cli_here, image_sets, tmp_path):
    run = tmp_path / "run"
    options = ("--method", "bmp", "--ticket", "rm", "--ratio", "0.5", "--iterations", "2")
    cli_here("train", *TWO_SETS, *options, "--data-root", image_sets, "-o", run)
    masks, last, start = (
        load_ticket(run / "ticket.safetensors").masks,
        Run(run).checkpoint().weights,
        Run(run).initial(),
    )
    assert masks and not any(name.startswith("adapter.") for name in masks)
    for name, mask in masks.items():
        kept = torch.from_numpy(mask)
        assert not last[name][~kept].any() and (last[name] != start[name])[kept].any(), name
    assert sum(mask.sum() for mask in masks.values()) == pytest.approx(0.5 * sum(m.size for m in masks.values()), abs=2)
    hidden, output = last["adapter.hidden.weight"], last["adapter.output.weight"]
    assert (hidden != 0).float().mean() > 0.99 and 0.2 < (output != 0).float().mean()  # of ReLU units that are on


def test_a_channel_tickets_adapter_sees_the_channels_that_are_left(cli_here, image_sets, tmp_path):
    run = tmp_path / "run"
    options = ("--method", "bmp", "--ticket", "pmt", "--unit", "channel", "--ratio", "0.5", "--round-to", "1",
               "--interval", "1", "--delta", "0.1", "--iterations", "3")  # fmt: skip
    cli_here("train", *TWO_SETS, *options, "--data-root", image_sets, "-o", run)
    last = torch.from_numpy(load_ticket(run / "ticket.safetensors").masks["widths.3"])
    start, dense = Run(run).initial(), seeded_weights(read_config(run / "config.toml"))
    means = 2 * sum(not name.startswith("adapter.") for name in dense)
    assert dense["adapter.hidden.weight"].shape[1] == means + 8 and 0 < last.sum() < 8
    seen = torch.cat([torch.ones(means, dtype=torch.bool), last])
    assert torch.equal(start["adapter.hidden.weight"], dense["adapter.hidden.weight"][:, seen])
    for name in ("adapter.hidden.bias", "adapter.output.weight", "adapter.output.bias"):
        assert torch.equal(start[name], dense[name]), name
    model, weights = Run(run).model()
    assert model.spec.widths[-1] == int(last.sum()) and weights["adapter.hidden.weight"].shape[1] == int(seen.sum())
    assert len(evaluated(cli_here, run, image_sets)["distributions"]) == 2
