"""A gradient step on the board against what a user of torch would run instead.

  python tools/bench_adaptation.py -o FILE.json [--network mobilenet-v2@0.35 --size 96 --shots 5 --method maml …]

For every row (network, pixels, shots, method; dense and at --ratio, compacted as `gems-edge export` does, untrained),
on the same weights and images, alternating in one process: adapt.onnx on onnxruntime; a plain torch step of the
backbone as its author wrote it (tools/adaptation_peers.py), the same under torch.compile where asked for, and
gems-edge's own inner step on torch. All are compared with the plain step in float64 first; the exit code is 1 if one
differs by more than the tolerance. Then peak memory of fresh processes that take five steps and nothing else;
prediction of one image with adapted weights packed as constants; and `gems-edge predict` with an adapted state from a
cold start. FILE.json is written after every measurement and FILE.md holds the tables; what FILE.json holds already,
made by the same sources, is not measured again.
"""

import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import torch
from adaptation_peers import STEPS, step_call
from adaptation_rows import INNER_LR, LABELS, METHODS, WAYS, Row, families_of, make_bundles, sources
from adaptation_tables import tables
from alternating import CLOCKS, alternate, times_faster

from gems_edge.device.bundle import HEAD, Bundle
from gems_edge.device.host import host_facts
from gems_edge.device.learner import Learner
from gems_edge.device.measure import cold_starts, fresh_memory, random_pixels
from gems_edge.device.sessions import adapt_session, predict_session
from gems_edge.export.passes.stream import MEMORY
from gems_edge.files import cache_directory, read_json, write_atomic
from gems_edge.meta.inner import Support, inner_step, one_hot

PARTS = ("step", "memory", "predict", "cold")
# network, shots and method of what --compile some compiles, which takes minutes
COMPILED = {(f"conv4-{size}", 5, "maml") for size in (28, 84)}
# From the plain step in float64: the length of the difference of a tensor's update as a share of the update's own, of
# the median tensor and of the worst, and the largest difference of loss and of logits (of large ones as a share). Of
# large maps float32 itself rounds more away: where no set of images passes, so many times what the plain step in
# float32 differs by is allowed, too.
OF_PLAIN = 3
TOLERANCES = {"median": 1e-4, "worst": 2e-2, "loss": 1e-4, "logits": 1e-3}
# A tensor's update below this share of the largest one's is judged as a share of that: it is rounding.
LEAST_UPDATE = 1e-3
# Sets of images to compare on. Where two values of a pool's window differ by less than float32's rounding, either takes
# the gradient, which moves the updates of the layers below by some 5e-3: seldom in the last pools, below which most
# layers are. A wrong gradient differs on every set.
IMAGE_SETS = 6


def torch_allocator() -> None:
    """glibc's malloc as torch alone finds it after its first large tensors.

    gems_edge.device sets it up to give memory back, which costs every large tensor of torch its page faults;
    onnxruntime allocates from an arena and does not notice.
    """
    trim_threshold, mmap_threshold, dynamic_most = -1, -3, 32 << 20
    if sys.platform.startswith("linux"):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: 0)
        mallopt(mmap_threshold, dynamic_most)
        mallopt(trim_threshold, 2 * dynamic_most)


def subjects(row: Row, bundle: Bundle, threads: int) -> dict[str, Any]:
    """What takes the row's step, by name: functions of images (or of the row's own) → (loss, the moved weights)."""
    model, weights = row.start
    images, targets = row.images_of(0), one_hot(row.labels, WAYS, torch.float32)
    adapted = row.rule.adapted(weights)
    session = adapt_session(bundle, threads)
    feeds = {"targets": targets.numpy(), **bundle.start_weights(WAYS)}

    def onnx(images=images):
        results = session.run(bundle.step_outputs, feeds | {"images": images.numpy()})
        named = dict(zip(bundle.step_outputs, results, strict=True))
        return named["loss"], {name: named[f"updated.{name}"] for name in bundle.adapted}

    def gems(images=images):
        leaves = {name: weight.detach().requires_grad_(name in adapted) for name, weight in weights.items()}
        step = inner_step(model, leaves, Support(images, targets), row.rule)
        return step.loss.detach(), {name: step.weights[name].detach() for name in adapted}

    plain = step_call(row.plain(), row.method, INNER_LR, images, row.labels)
    return {"onnx": onnx, "plain": plain, "gems": gems}


def compiled_step(row: Row) -> tuple[Any, dict[str, Any]]:
    """The plain step under torch.compile after its first call, and how long that took; None and why if it fails."""
    import torch._dynamo
    import torch._inductor.config

    torch._dynamo.reset()
    torch._inductor.config.force_disable_caches = True
    call = step_call(row.plain(), row.method, INNER_LR, row.images_of(0), row.labels, compiled=True)
    started = time.perf_counter()
    try:
        call()
    except Exception as error:  # a missing C++ compiler, for instance: torch's own classes share no base but Exception
        return None, {"compile_error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    return call, {"compile_seconds": round(time.perf_counter() - started, 1)}


def differences(row: Row, calls: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Name → how far its step is from the plain one in float64, on that set of images where it is nearest.

    Raises ClickException beyond the tolerances.
    """
    weights = {name: weight.double() for name, weight in row.start[1].items()}
    found: dict[str, dict[str, float]] = {}
    for seed in range(IMAGE_SETS):
        images = row.images_of(seed)
        loss, moved = step_call(row.plain(torch.float64), row.method, INNER_LR, images.double(), row.labels)()
        for name, call in calls.items():
            own_loss, own = call(images)
            assert own.keys() == moved.keys()
            errors = list(_errors(own, moved, weights))
            error = {"median": statistics.median(errors), "worst": max(errors)}
            error |= {"loss": abs(float(own_loss) - float(loss)), "image_set": seed}
            found[name] = min(found.get(name, error), error, key=lambda one: one["median"])
        if all(_within(error) for error in found.values()):
            return found
    wrong = [name for name, error in found.items() if not _within(error, OF_PLAIN, found["plain"])]
    if not wrong:
        return found
    name, error = wrong[0], found[wrong[0]]
    raise click.ClickException(f"{row.name}: {name} differs from torch in float64 by {error}; allowed are {TOLERANCES}")


def _errors(own: Mapping[str, Any], moved: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]):
    """The difference of each tensor's update as a share of the update: of the largest tensor's where its own is next to
    nothing, as that of a shift is that the next normalisation takes away."""
    updates = {name: float((value - weights[name]).norm()) for name, value in moved.items()}
    least = LEAST_UPDATE * max(updates.values())
    for name, value in moved.items():
        yield float((torch.as_tensor(own[name]).double() - value).norm()) / max(least, updates[name])


def _within(error: dict[str, float], times: float = 0, plain: Mapping[str, float] = TOLERANCES) -> bool:
    """Whether an error is within the tolerances, or so many times that of the plain step."""
    measured = error.keys() & TOLERANCES.keys()
    return all(error[what] <= max(TOLERANCES[what], times * plain[what]) for what in measured)


def measure_steps(rows: list[Row], options: SimpleNamespace) -> dict[str, Any]:
    """The step of the same row at several ratios, everything alternating: the rows' figures by ratio."""
    calls, results = {}, {}
    for row in rows:
        own = subjects(row, row.bundle(options.bundles), options.threads)
        result = results[f"{row.ratio:g}"] = {"widths": list(row.start[0].spec.widths)}
        if options.compiled == "all" or (
            options.compiled == "some" and (row.network.name, row.shots, row.method) in COMPILED
        ):
            call, about = compiled_step(row)
            own |= {"compiled": call} if call else {}
            result |= about
        result["differences"] = differences(row, own)
        calls |= {f"{row.ratio:g} {name}": call for name, call in own.items()}
    limits = {"rounds": options.rounds, "block_seconds": options.block_seconds, "most_seconds": options.seconds}
    times = alternate(calls, clock=options.clock, **limits)
    first = f"{rows[0].ratio:g}"
    for ratio, result in results.items():
        own = {name.split()[1]: found for name, found in times.items() if name.split()[0] == ratio}
        result["ms"] = {name: round(statistics.median(found), 3) for name, found in own.items()}
        result["rounds"] = len(own["onnx"])
        peers = {name: found for name, found in own.items() if name != "onnx"}
        result["times_faster_than"] = {name: times_faster(found, own["onnx"]) for name, found in peers.items()}
        # The faster of the two of each round, so that no peer gets the luck of the other.
        eager = [min(pair) for pair in zip(own["plain"], own["gems"])]
        result["times_faster_than"]["eager"] = times_faster(eager, own["onnx"])
        if ratio != first:
            result["times_faster_than_dense"] = times_faster(times[f"{first} onnx"], own["onnx"])
    return results


def measure_memory(row: Row, options: SimpleNamespace) -> dict[str, Any]:
    """Peak memory of fresh processes that take five steps, in turn: adapt.onnx by gems_edge.device, and plain torch."""
    path, ours, peers = row.bundle(options.bundles).path, [], []
    network = row.network
    about = {"backbone": network.backbone, "channels": network.channels, "size": network.size, "ways": WAYS}
    about |= {"shots": row.shots, "method": row.method, "lr": INNER_LR, "threads": options.threads}
    about |= {"shapes": {name: list(weight.shape) for name, weight in row.start[1].items()}}
    peer = Path(__file__).with_name("adaptation_peers.py")
    command = [options.torch, str(peer), json.dumps(about)]
    environment = {**os.environ, "PYTHONPATH": str(peer.parents[1])}
    for _ in range(options.processes):
        ours += fresh_memory(path, "adapt", row.images, options.threads, repeats=1, steps=STEPS)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        peers.append(json.loads(done.stdout))
    result = {}
    for name, found in (("onnx", ours), ("plain", peers)):
        for what in ("peak_mb", "baseline_mb"):
            result[f"{name}_{what}"] = round(statistics.median(one[what] for one in found), 1)
    share = [own["peak_mb"] / other["peak_mb"] for own, other in zip(ours, peers)]
    return result | {"share": round(statistics.median(share), 3), "torch": peers[0]["torch"], "processes": len(ours)}


def taught(row: Row, options: SimpleNamespace) -> Learner:
    learner = Learner(row.bundle(options.bundles), options.threads)
    learner.adapt(random_pixels(learner.bundle, row.images), list(np.arange(row.images) % WAYS), STEPS)
    return learner


def measure_predict(rows: list[Row], options: SimpleNamespace) -> dict[str, Any]:
    """One image with adapted weights: ours with the weights as constants, and plain torch; by threads and ratio."""
    result: dict[str, Any] = {}
    learners = {f"{row.ratio:g}": (row, taught(row, options)) for row in rows}
    for threads in sorted({1, options.threads}):
        torch.set_num_threads(threads)
        calls = {}
        for ratio, (row, learner) in learners.items():
            weights = learner.bundle.all_tensors() | dict(learner.taught.tensors)
            session = predict_session(learner.bundle, dict(learner.taught.tensors), threads)
            image = row.images_of(0)[:1]
            feeds = {"images": image.numpy(), **{name: weights[name] for name in HEAD}}
            tensors = {name: torch.from_numpy(np.array(weight)) for name, weight in weights.items()}
            model = row.plain()
            model.load({name: tensors[name] for name in row.start[1]})
            model.normalize_by({name: values for name, values in tensors.items() if name not in row.start[1]})

            def onnx(session=session, feeds=feeds):
                return session.run(["logits"], feeds)[0]

            @torch.inference_mode()
            def plain(model=model, image=image):
                return model(image)

            expected = plain().numpy()
            found = float(np.abs(onnx() - expected).max() / max(1.0, np.abs(expected).max()))
            if not found <= TOLERANCES["logits"]:
                raise click.ClickException(f"{row.name}: logits of onnxruntime and torch differ by {found:.1e}")
            calls |= {f"{ratio} onnx": onnx, f"{ratio} plain": plain}
        times = alternate(calls, rounds=options.rounds, block_seconds=options.block_seconds / 2, clock=options.clock)
        parts = result[f"{threads} threads"] = {"ms": {n: round(statistics.median(t), 4) for n, t in times.items()}}
        parts["times_faster_than_plain"] = {r: times_faster(times[f"{r} plain"], times[f"{r} onnx"]) for r in learners}
        first, *others = learners
        parts["times_faster_than_dense"] = {r: times_faster(times[f"{first} onnx"], times[f"{r} onnx"]) for r in others}
    torch.set_num_threads(options.threads)
    return result


def measure_cold(row: Row, options: SimpleNamespace) -> dict[str, Any]:
    """Seconds of the whole process of `gems-edge predict BUNDLE IMAGE --state STATE`."""
    learner = taught(row, options)
    with tempfile.TemporaryDirectory(prefix="gems-edge-") as directory:
        state = Path(directory) / "taught.state"
        learner.save(state)
        found = cold_starts(learner.bundle, options.threads, 9, 30.0, state=state)
    return {"seconds": round(statistics.median(found), 3), "least_most": [round(min(found), 3), round(max(found), 3)]}


@click.command(help=__doc__)
@click.option(
    "--network", multiple=True, default=LABELS, show_default=True, help="BACKBONE or BACKBONE@WIDTH_MULTIPLIER."
)
@click.option("--size", multiple=True, type=click.IntRange(min=16), default=(28, 84), show_default=True)
@click.option("--shots", multiple=True, type=click.IntRange(min=1), default=(1, 5), show_default=True)
@click.option("--method", multiple=True, type=click.Choice(METHODS), help="Left out: maml, and for conv4 all.")
@click.option("--all", is_flag=True, help="Every method of every network.")
@click.option("--ratio", multiple=True, type=float, default=(0.0, 0.8), show_default=True, help="The dense one first.")
@click.option("--memory", type=click.Choice(list(MEMORY)), default="balanced", show_default=True)
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), default=PARTS, show_default=True)
@click.option(
    "--threads", type=click.IntRange(min=1), default=len(os.sched_getaffinity(0)), show_default="one per core"
)
@click.option(
    "--clock",
    type=click.Choice(list(CLOCKS)),
    default="wall",
    show_default=True,
    help="cpu: this process's own time; with --threads 1, where others use the machine.",
)
@click.option("--rounds", default=15, show_default=True)
@click.option("--block-seconds", default=0.2, show_default=True, help="Of one subject in one round.")
@click.option("--seconds", default=60.0, show_default=True, help="Most for the rounds of a row and its compact one.")
@click.option("--processes", default=3, show_default=True, help="Fresh processes of each for peak memory.")
@click.option("--compile", "compiled", type=click.Choice(["none", "some", "all"]), default="some", show_default=True)
@click.option(
    "--torch", default=sys.executable, metavar="PYTHON", help="Measures memory of torch: a CPU-only one is fair."
)
@click.option("--bundles", type=click.Path(path_type=Path), help="Where bundles are made and kept.")
@click.option("--build-only", is_flag=True, help="Make the bundles and end.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
def main(output, build_only, **given):
    given["bundles"] = given["bundles"] or cache_directory() / "bench_adaptation"
    options = SimpleNamespace(**given)
    families = families_of(
        options.network, options.size, options.shots, options.method, options.all, options.ratio, options.memory
    )
    make_bundles([row for family in families for row in family], options.bundles)
    if build_only:
        return
    torch.set_num_threads(options.threads)
    torch_allocator()
    settings = {
        "threads": options.threads,
        "memory": options.memory,
        "clock": options.clock,
        "ratios": list(options.ratio),
    }
    document = read_json(output, "") if output.exists() else {"settings": settings, **{part: {} for part in PARTS}}
    if document["settings"] != settings:
        raise click.ClickException(f"{output} holds other settings ({document['settings']}); give another name with -o")
    document["host"] = {**host_facts(), "torch": torch.__version__, "tolerances": TOLERANCES}
    per_network = {family[0].network.name: family for family in reversed(families)}
    jobs = [("step", family[0].family, lambda f=family: measure_steps(f, options)) for family in families]
    jobs += [("memory", row.name, lambda r=row: measure_memory(r, options)) for family in families for row in family]
    jobs += [("predict", name, lambda f=family: measure_predict(f, options)) for name, family in per_network.items()]
    for name, family in per_network.items():
        jobs += [("cold", f"{name}-{row.ratio:g}", lambda r=row: measure_cold(r, options)) for row in family]
    for part, name, job in jobs:
        if part in options.parts and document[part].get(name, {}).get("sources") != sources():
            click.echo(f"{part} {name}", err=True)
            document[part][name] = {"sources": sources(), "found": job()}
            write_atomic(output, json.dumps(document, indent=1))
            write_atomic(output.with_suffix(".md"), tables(document))
    click.echo(tables(document))


if __name__ == "__main__":
    main()
