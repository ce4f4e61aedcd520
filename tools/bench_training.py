"""A meta-iteration of ours against what a user would run instead: a plain autograd loop, learn2learn, higher, torchopt.

  python tools/bench_training.py -o FILE.json [--backbone conv4 --size 84 --method maml …]
  python tools/bench_training.py -o FILE.json --backbone mobilenet-v2 --width-multiplier 0.35 --size 96 --method maml

For every row (backbone, pixels, method), on the same weights and tasks: all contestants' meta-gradients compared in
float64 (smaller networks and meta-batch; the command ends with exit code 1 if one differs from the plain loop's by more
than 1e-9); then seconds, in blocks that take turns, a process a contestant, as users install and write them, and its
peak memory; the FLOPs and bytes of our iteration against peaks that are measured beside them; and the time that drawing
the episodes takes. The peers come into an environment of the tool's own; --without-peers compares with plain torch
alone where that cannot be. FILE.json is written after every row; rows that it holds already, made by the same sources,
are not measured again.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import networks
import torch
from alternating import times_faster
from safetensors.torch import load_file, save_file
from training_peers import PEERS, Network, Setting, environment
from training_tables import OURS, tables

import gems_edge
from gems_edge.device.host import host_facts
from gems_edge.errors import UserError
from gems_edge.files import cache_directory, read_json, sha256_bytes, write_atomic
from gems_edge.models.backbones.registry import BACKBONES
from gems_edge.models.spec import full_widths

# Method → what the inner loop moves, and whether the meta-gradient is of first order.
METHODS = {"maml": ("maml", False), "maml-first": ("maml", True), "anil": ("anil", False), "boil": ("boil", False)}
TOLERANCE = 1e-9  # fifty normalised layers make more of rounding than four
CHECK_WIDTH = 0.25  # of a network's full widths, at most, where it has these layers then; float64 is slow
# A tensor whose gradient is a smaller share of the whole is measured against this share: a bias in front of a
# convolution that is normalised has none but rounding.
SMALLEST = 1e-3
CHECK_META_BATCH = 2
# Steps so small that untrained networks of fifty layers do not multiply rounding by each; without a second-order term a
# meta-gradient is still off by far more than the tolerance.
CHECK_INNER_LR = 1e-4
DATA_ITERATIONS = 30
INNER_LR = 0.05
WORKER = Path(__file__).with_name("training_worker.py")

Ask = Callable[..., dict[str, Any]]


class WorkerEnded(click.ClickException):
    """The process of a contestant is gone, without memory perhaps; what it said went to stderr."""


@dataclass(frozen=True)
class Row:
    backbone: str
    width_multiplier: float
    size: int
    method: str

    @property
    def widths(self) -> tuple[int, ...]:
        return full_widths((), self.backbone, self.width_multiplier)

    @property
    def name(self) -> str:
        label = networks.Network(self.backbone, self.width_multiplier, self.size).label
        return f"{label} {self.size}×{self.size}×{self.channels} {self.method}"

    @property
    def channels(self) -> int:
        return networks.Network(self.backbone, self.width_multiplier, self.size).channels

    def setting(self, options: SimpleNamespace) -> Setting:
        method, first_order = METHODS[self.method]
        episode = {name: getattr(options, name) for name in ("ways", "shots", "queries", "steps", "meta_batch")}
        return Setting(
            self.backbone, self.width_multiplier, self.size, self.channels, method, first_order, **episode,
            inner_lr=INNER_LR,
        )  # fmt: skip


def write_inputs(setting: Setting, directory: Path) -> dict[str, str]:
    """Weights and tasks of random pixels in files: what a worker wants of them."""
    torch.manual_seed(0)
    tasks, ways, image = setting.meta_batch, setting.ways, (setting.channels, setting.image_size, setting.image_size)
    parts: dict[str, torch.Tensor] = {}
    for part, count in (("support", setting.shots), ("query", setting.queries)):
        parts[part] = torch.rand(tasks, ways * count, *image)
        parts[f"{part}_labels"] = torch.arange(ways).repeat_interleave(count).repeat(tasks, 1)
    files = {"weights": str(directory / "weights.safetensors"), "tasks": str(directory / "tasks.safetensors")}
    save_file(dict(Network(setting).state_dict()), files["weights"])
    save_file(parts, files["tasks"])
    return files


@contextmanager
def worker(name: str, setting: Setting, files: dict[str, str], options: SimpleNamespace) -> Iterator[Ask]:
    """A contestant in a process of its own, with the malloc that the system gives it."""
    python = sys.executable if name == OURS else options.python
    tuned = ("MALLOC_", "GLIBC_TUNABLES")
    variables = {key: value for key, value in os.environ.items() if not key.startswith(tuned)}
    here = str(Path(gems_edge.__file__).parents[1])
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, (here, variables.get("PYTHONPATH"))))
    variables |= {"OMP_NUM_THREADS": str(options.threads), "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [python, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
    )

    def send(order: dict[str, Any]) -> None:
        try:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise WorkerEnded(f"{name}'s process ended with exit code {process.wait()}") from None

    def ask(do: str, **what: Any) -> dict[str, Any]:
        send({"do": do} | what)
        line = process.stdout.readline()
        if not line:
            raise WorkerEnded(f"{name}'s process ended with exit code {process.wait()}")
        return json.loads(line)

    first = {"setting": asdict(setting), "subject": name, "device": options.compute, "threads": options.threads}
    try:
        send(first | {"tf32": options.tf32} | files)
        yield ask
    finally:
        process.kill()
        process.communicate()


def contestants(row: Row, options: SimpleNamespace) -> list[str]:
    """torchopt's MetaSGD has no first-order form."""
    return [OURS, *(name for name in options.peers if not (name == "torchopt" and METHODS[row.method][1]))]


def check(row: Row, options: SimpleNamespace) -> dict[str, Any]:
    """Contestant → the largest difference of a tensor of its float64 meta-gradient from plain's, relative to that.

    Raises ClickException beyond the tolerance, WorkerEnded if one gives none.
    """
    small = replace(row, width_multiplier=min(CHECK_WIDTH, row.width_multiplier))
    try:
        small.widths  # noqa: B018  # raises where the network has other layers then
    except UserError:
        small = row
    meta_batch = min(CHECK_META_BATCH, options.meta_batch)
    setting = replace(small.setting(options), meta_batch=meta_batch, inner_lr=CHECK_INNER_LR)
    found = {}
    with tempfile.TemporaryDirectory(prefix="gems-edge-") as place, ExitStack() as running:
        files = write_inputs(setting, Path(place))
        asks = {
            name: running.enter_context(worker(name, setting, files, options)) for name in contestants(row, options)
        }
        for name, ask in asks.items():
            file = str(Path(place) / f"{name}.safetensors")
            ask("gradient", file=file)
            found[name] = load_file(file)
    differences = {name: _difference(found["plain"], own) for name, own in found.items() if name != "plain"}
    click.echo("  " + ", ".join(f"{name} differs by {value:.1e}" for name, value in differences.items()), err=True)
    for name, value in differences.items():
        if not value <= TOLERANCE:
            raise click.ClickException(
                f"{row.name}: the meta-gradient of {name} differs from plain autograd's by {value:.1e} of it in "
                f"float64; allowed is {TOLERANCE:g}"
            )
    return {"differences": differences, "width_multiplier": setting.width_multiplier, "meta_batch": setting.meta_batch}


def _difference(reference: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> float:
    if reference.keys() != own.keys():
        raise click.ClickException(f"other tensors: {sorted(reference.keys() ^ own.keys())}")
    least = SMALLEST * float(torch.stack([value.norm() for value in reference.values()]).norm())
    return max(float((own[name] - value).norm()) / max(float(value.norm()), least) for name, value in reference.items())


def compare(asks: dict[str, Ask], options: SimpleNamespace) -> tuple[dict[str, Any], dict[str, str]]:
    """Seconds and peak memory of workers in turn, and why some are not among them: peers that did not get through."""
    left_out: dict[str, str] = {}
    blocks, seconds, processor = {}, {name: [] for name in asks}, {name: [] for name in asks}

    def run(name: str, count: int) -> dict[str, Any] | None:
        try:
            return asks[name]("run", count=count)
        except WorkerEnded as error:
            if name == OURS:
                raise
            click.echo(f"  {error.message}: left out", err=True)
            left_out[name] = error.message
            return None

    for name in asks:
        if warm := run(name, 2):
            blocks[name] = max(1, round(options.block_seconds / warm["seconds"][-1]))
    names, deadline = list(asks), time.perf_counter() + options.seconds
    for number in range(options.rounds):
        if number >= 3 and time.perf_counter() > deadline:
            break
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            if name not in left_out and (found := run(name, blocks[name])):
                seconds[name].append(statistics.median(found["seconds"]))
                processor[name].append(found["processor_seconds"])
    there = [name for name in names if name not in left_out]
    peers = [name for name in there if name != OURS]
    if not peers:
        raise click.ClickException(f"no peer got through: {left_out}")
    medians = {name: statistics.median(seconds[name]) for name in there}
    return {
        "seconds": medians,
        "processor_seconds": {name: statistics.median(processor[name]) for name in there},
        "rounds": len(seconds[OURS]),
        "iterations_a_block": {name: blocks[name] for name in there},
        "fastest_peer": min(peers, key=medians.get),
        "times_faster_than": {name: times_faster(seconds[name], seconds[OURS]) for name in peers},
        "memory": {name: asks[name]("memory") for name in there},
    }, left_out


def measure(row: Row, options: SimpleNamespace) -> dict[str, Any]:
    setting = row.setting(options)
    result = {"method": row.method, "setting": asdict(setting), "check": check(row, options)}
    with tempfile.TemporaryDirectory(prefix="gems-edge-") as place:
        files = write_inputs(setting, Path(place))
        with worker(OURS, setting, files, options) as ask:
            with ExitStack() as running:
                peers = {
                    n: running.enter_context(worker(n, setting, files, options)) for n in contestants(row, options)[1:]
                }
                found, result["left_out"] = compare({OURS: ask} | peers, options)
            seconds = found["seconds"][OURS]
            # Its peak is known; the peers' memory is free again.
            data = ask("data", count=DATA_ITERATIONS)
            roof = ask("demand") | ask("peaks")
            if options.compute != "cpu":
                roof["gpu_percent"] = ask("utilisation", seconds=3.0)["percent"]
    for what in ("flops", "bytes"):
        roof[f"{what}_share"] = roof[what] / roof[f"{what}_per_second"] / seconds
    return result | found | {"roofline": roof, "data": data | {"share": data["seconds"] / seconds}}


def sources() -> str:
    """A digest of the code that is measured."""
    package, tools = Path(gems_edge.__file__).parent, Path(__file__).parent
    files = [
        file
        for room in ("data", "meta", "models", "models/backbones")
        for file in sorted((package / room).glob("*.py"))
    ]
    files += [tools / f"training_{part}.py" for part in ("peers", "worker", "roofline")]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:10]


def peers_python(place: Path | None) -> Path:
    place = place or cache_directory() / f"bench_training-{sha256_bytes(sys.prefix.encode())[:8]}"
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        return environment(place.absolute(), lambda line: click.echo(line, err=True))
    except subprocess.CalledProcessError as error:
        why = " ".join((error.stderr or "").split())[-300:]
        raise click.ClickException(
            f"the peers could not be installed into {place} ({why}); --without-peers compares with plain torch alone"
        ) from None


def rows_of(backbones, width_multiplier, sizes, methods, everything: bool) -> list[Row]:
    return [
        Row(backbone, width_multiplier, size, method)
        for backbone in (BACKBONES if everything else backbones)
        for size in sizes
        for method in methods
    ]


@click.command(help=__doc__)
@click.option("--backbone", multiple=True, type=click.Choice(list(BACKBONES)), default=["conv4"], show_default=True)
@click.option("--all", "everything", is_flag=True, help="Every backbone.")
@click.option("--width-multiplier", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True)
@click.option("--size", multiple=True, type=click.IntRange(min=16), default=(28, 84), show_default=True)
@click.option("--method", multiple=True, type=click.Choice(list(METHODS)), default=list(METHODS), show_default=True)
@click.option("--ways", type=click.IntRange(min=2), default=5, show_default=True)
@click.option("--shots", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--queries", type=click.IntRange(min=1), default=15, show_default=True, help="Per class.")
@click.option("--steps", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--meta-batch", type=click.IntRange(min=1), default=4, show_default=True)
@click.option(
    "--threads", type=click.IntRange(min=1), default=len(os.sched_getaffinity(0)), show_default="one per core"
)
@click.option("--compute", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--tf32", is_flag=True, help="TF32 on a GPU, for all; without, float32 for all.")
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True)
@click.option("--block-seconds", default=2.0, show_default=True, help="Of one contestant in one round.")
@click.option("--seconds", default=200.0, show_default=True, help="Most for the rounds of a row, after 3 of them.")
@click.option("--peers-environment", type=click.Path(path_type=Path), help="Where the peers are installed and kept.")
@click.option("--without-peers", is_flag=True, help="Plain torch is the only peer: nothing is installed.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
def main(backbone, everything, width_multiplier, size, method, peers_environment, without_peers, output, **given):
    options = SimpleNamespace(**given)
    if options.compute == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("torch finds no GPU here")
    options.peers = ["plain"] if without_peers else list(PEERS)
    compared = ("ways", "shots", "queries", "steps", "meta_batch", "threads", "compute", "tf32", "peers")
    settings = {name: getattr(options, name) for name in compared}
    document = read_json(output, "-o") if output.exists() else {"settings": settings, "rows": {}}
    if document["settings"] != settings:
        raise click.ClickException(f"{output} holds other settings ({document['settings']}); give another name with -o")
    options.python = sys.executable if without_peers else str(peers_python(peers_environment))
    if without_peers:
        click.echo("without learn2learn, higher and torchopt: the fastest peer is plain torch, the only one", err=True)
    document["host"] = {**host_facts(), "torch": torch.__version__}
    if options.compute == "cuda":
        document["host"]["gpu"] = torch.cuda.get_device_name()
    for row in rows_of(backbone, width_multiplier, size, method, everything):
        made_by, there = sources(), document["rows"].get(row.name)
        if there and there["sources"] == made_by:
            continue
        click.echo(f"{row.name}{': again, the sources changed' if there else ''}", err=True)
        document["rows"][row.name] = {"sources": made_by} | measure(row, options)
        write_atomic(output, json.dumps(document, indent=1, ensure_ascii=False))
    click.echo(tables(document))


if __name__ == "__main__":
    main()
