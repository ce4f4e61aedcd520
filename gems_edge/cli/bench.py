"""gems-edge bench: what a bundle costs, measured here or on a board by ssh, and predicted for boards."""

from typing import TYPE_CHECKING, Any

import click

from gems_edge.cli.common import Document, emit, json_option, say, show_lines, trust_options
from gems_edge.data import limits

if TYPE_CHECKING:
    from gems_edge.device.bundle import Bundle
    from gems_edge.predict.profiles import DeviceProfile

# What is both measured and predicted: name → where it stands in a document.
_BOTH = {
    "predict": ("predict", "p50"),
    "trunk": ("trunk", "p50"),
    "adapt": ("adapt", "p50"),
    "memory of predict": ("memory", "predict", "peak"),
    "memory of adapt": ("memory", "adapt", "peak"),
}


@click.command()
@click.argument("bundle", type=click.Path())
@click.option("--device", "devices", metavar="ID[,ID…]", help="Boards to predict for, e.g. rpi-4b,rpi-zero-2w.")
@click.option(
    "--threads",
    type=click.IntRange(1, limits.THREADS),
    help="Threads, here and on the boards; one per core if left out.",
)
@click.option("--host", metavar="[USER@]HOST", help="Measure on that board, by this system's ssh, instead of here.")
@click.option(
    "-F", "--ssh-config", "config", type=click.Path(), metavar="FILE",
    help="With --host: configuration for ssh, as its -F.",
)  # fmt: skip
@click.option(
    "--wheels", type=click.Path(), metavar="DIR",
    help="With --host: install from these wheels, not from the package index (a network is then not needed).",
)  # fmt: skip
@click.option(
    "--keep", is_flag=True, help="With --host: leave the environment there, so that the next time is quicker."
)
@click.option(
    "--reconnect", "patience", type=click.IntRange(0, 86_400), metavar="SECONDS",
    help="With --host: how long a lost connection is tried again; 120 if left out.",
)  # fmt: skip
@trust_options
@json_option
def command(
    bundle: str, devices: str | None, threads: int | None, host: str | None, as_json: bool, **connection: Any
) -> None:
    """Measure BUNDLE on this machine: time of a prediction and of a gradient step, memory, cold start, sizes.

    With --host it copies the bundle and gems-edge itself to a board, adapts, predicts and measures there, and removes
    everything again. With --device it also predicts time and memory for boards. Every number is tagged measured or
    predicted, with an interval and where it comes from.

    \b
    Example:
      gems-edge bench plates.gems
      gems-edge bench plates.gems --device rpi-4b,rpi-zero-2w --json
      gems-edge bench plates.gems --host pi@raspberrypi --device rpi-4b
    """
    from gems_edge.cli.bench_text import bench_text
    from gems_edge.device.bundle import read_bundle
    from gems_edge.predict.profiles import find_profiles
    from gems_edge.predict.room import check_bench_room

    if host is None and any(value is not None and value is not False for value in connection.values()):
        raise click.UsageError("-F, --wheels, --keep and --reconnect belong with --host")
    opened = read_bundle(bundle, may_read=check_bench_room if host is None else None)
    # Before minutes of measuring, so that an unknown board is reported at once.
    predictions = {name: _predict(opened, profile, threads) for name, profile in find_profiles(devices or "").items()}
    document = _measure_here(opened, threads) if host is None else _measure_there(opened, threads, host, **connection)
    if host is not None:
        document["comparison"] = {name: _compare(document, prediction) for name, prediction in predictions.items()}
    document |= {"devices": predictions, "steps": opened.steps}
    if as_json:
        emit(document)
    else:
        show_lines(bench_text(document))


def _measure_here(bundle: "Bundle", threads: int | None) -> Document:
    """What is measured on this machine, with what the manifest says of the memory beside it."""
    from gems_edge.device.bench import measure_bundle
    from gems_edge.predict.memory import predict_memory

    document = measure_bundle(bundle, threads, on_stage=lambda stage: say(f"measuring {stage} …"))
    for what, section in document["memory"].items():
        section["predicted"] = predict_memory(bundle.manifest["cost"], section["images"], what).as_figure("peak")
    return document


def _measure_there(
    bundle: "Bundle",
    threads: int | None,
    host: str,
    config: str | None,
    wheels: str | None,
    keep: bool,
    patience: int | None,
) -> Document:
    from gems_edge.remote.bench import Target, bench_on

    target = Target(host, config, wheels, keep, 120 if patience is None else patience)
    return bench_on(bundle, target, threads, on_stage=say)


def _predict(bundle: "Bundle", profile: "DeviceProfile", threads: int | None) -> Document:
    """Latency of a prediction, of the trunk where there is one and of a gradient step on a board, and memory."""
    from gems_edge.predict.latency import latency
    from gems_edge.predict.memory import predict_memory

    cost, images = bundle.manifest["cost"], bundle.ways * bundle.shots

    def time(count: int, graph: str, precision: str = "fp32") -> Document:
        predicted = latency(cost[graph], profile, threads, precision=precision)
        return {"images": count, **predicted.as_figure("p50")}

    def memory(count: int, what: str) -> Document:
        return {"images": count, **predict_memory(cost, count, what).as_figure("peak")}

    times: Document = {}
    if not profile.memory_only:
        times["predict"] = time(1, "predict")
        if "predict_int8" in cost:
            graphs = ("predict",) if bundle.trunk is None else ("predict", "trunk")
            times["int8"] = {graph: time(1, graph, "int8") for graph in graphs}
        if bundle.trunk is not None:
            times["trunk"] = time(1, "trunk")
        times["adapt"] = time(images, "adapt_step")
    return times | {"memory": {"predict": memory(1, "predict"), "adapt": memory(images, "adapt")}}


def _compare(measured: Document, predicted: Document) -> Document:
    """For each figure that is both measured and predicted: both, how far off, and whether the interval holds it."""
    compared = {}
    for what, (*sections, name) in _BOTH.items():
        # No trunk; or a board without onnxruntime, for which memory alone is predicted.
        if sections[0] not in predicted:
            continue
        measurement, prediction = _section(measured, sections), _section(predicted, sections)
        low, high = prediction["interval"][name]
        compared[what] = {
            "measured": measurement[name],
            "predicted": prediction[name],
            "unit": measurement["unit"],
            "error_percent": round(100 * (prediction[name] / measurement[name] - 1), 1),
            "inside_interval": low <= measurement[name] <= high,
        }
    return compared


def _section(document: Document, names: list[str]) -> Document:
    for name in names:
        document = document[name]
    return document
