"""gems-edge devices: what is known of each board and from where; calibrating new ones; times of a user's graph."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gems_edge.cli.common import PATH, Document, emit, json_option, say, show_lines, table
from gems_edge.data import limits
from gems_edge.errors import UserError
from gems_edge.places import check_file_place

if TYPE_CHECKING:
    from gems_edge.predict.profiles import DeviceProfile, Fact


@click.group()
def command() -> None:
    """List, show, check and calibrate device profiles, and predict what a graph takes on them.

    \b
    Example:
      gems-edge devices list
      gems-edge devices show rpi-4b
      gems-edge devices calibrate -o my-board.toml
      gems-edge devices predict model.onnx --device rpi-4b,./my-board.toml
    """


def _document(profile: "DeviceProfile") -> Document:
    facts = {
        name: {"value": fact.value, "unit": fact.unit, "source": fact.source} for name, fact in profile.facts.items()
    }
    document = {"id": profile.id, "name": profile.name, "updated": profile.updated, "facts": facts}
    if profile.memory_only:
        return document | {"memory_only": profile.memory_only}
    return document | {"latency": _calibration(profile)}


def _calibration(profile: "DeviceProfile") -> Document:
    """How times on a board are known: by which source, and within which factor for a published runtime."""
    import math

    from gems_edge.predict.rates import published_rates

    if profile.measured:
        return {"source": profile.measured.source, "within": round(math.exp(max(profile.measured.spread.values())), 3)}
    rates = published_rates(profile.id, profile["core"], profile["clock"], "fp32", profile["cores"])
    return {"source": rates.source, "within": round(math.exp(rates.spread), 3)}


def _value(fact: "Fact") -> str:
    return f"{fact.value} {fact.unit}".strip()


@command.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """The boards that gems-edge has a profile of.

    \b
    Example:
      gems-edge devices list --json
    """
    from gems_edge.predict.profiles import list_profiles, load_profile

    profiles = [load_profile(device) for device in list_profiles()]
    if as_json:
        emit([_document(profile) for profile in profiles])
        return
    header = ("id", "board", "cores", "clock", "memory", "fp32 times of 9 in 10 networks")
    click.echo(table([_list_row(profile) for profile in profiles], header))


def _list_row(profile: "DeviceProfile") -> tuple[str, ...]:
    within = "no onnxruntime: memory only"
    if not profile.memory_only:
        within = f"within ×/÷ {_calibration(profile)['within']:.2f}"
    cores, clock, ram = f"{profile['cores']} × {profile['core']}", profile.facts["clock"], profile.facts["ram"]
    return profile.id, profile.name, cores, _value(clock), _value(ram), within


@command.command("show")
@click.argument("device")
@json_option
def show_command(device: str, as_json: bool) -> None:
    """Every fact of the board DEVICE (an id, or a profile's file), with its source.

    \b
    Example:
      gems-edge devices show rpi-zero-2w
    """
    from gems_edge.predict.profiles import find_profile

    profile = find_profile(device)
    if as_json:
        emit(_document(profile))
        return
    show_lines(f"{profile.name} ({profile.id}), looked at {profile.updated}")
    show_lines(
        table([[name, _value(fact), fact.source] for name, fact in profile.facts.items()], ["fact", "value", "source"])
    )
    if profile.memory_only:
        show_lines(f"no onnxruntime here: {profile.memory_only}")
    else:
        calibration = _calibration(profile)
        show_lines(f"times: {calibration['source']}; 9 of 10 networks within ×/÷ {calibration['within']:.2f}")


@command.command("check")
@click.argument("files", nargs=-1, type=click.Path(dir_okay=False))
@json_option
def check_command(files: tuple[str, ...], as_json: bool) -> None:
    """Check profile FILES (.toml), or all that come with gems-edge: units, ranges, a source for every fact.

    \b
    Example:
      gems-edge devices check my-board.toml
    """
    from gems_edge.predict.profiles import list_profiles, load_profile, read_profile

    profiles = [read_profile(file) for file in files] or [load_profile(device) for device in list_profiles()]
    if as_json:
        emit([{"id": profile.id, "facts": len(profile.facts), "ok": True} for profile in profiles])
        return
    for profile in profiles:
        show_lines(f"{profile.id}: {len(profile.facts)} facts in range, each with its source")


@command.command("calibrate")
@click.option("-o", "--output", required=True, type=PATH, help="The profile to write, e.g. my-board.toml.")
@click.option("--id", "device", help="The profile's id; the file's name if left out.")
@json_option
def calibrate_command(output: Path, device: str | None, as_json: bool) -> None:
    """Measure this machine with onnxruntime and write its profile: some two minutes, best with nothing else running.

    The profile is accepted wherever a board's id is. The error on networks that were not fitted is printed and
    becomes the interval of what is predicted from the profile.

    \b
    Example:
      gems-edge devices calibrate -o my-board.toml
      gems-edge bench plates.gems --device ./my-board.toml
    """
    from gems_edge.calibrate.fit import calibrate
    from gems_edge.calibrate.profile_text import profile_text
    from gems_edge.files import write_atomic
    from gems_edge.predict.profiles import read_profile

    _check_destination(output, device)
    _warn_of_load()
    calibration = calibrate(on_stage=lambda stage: say(f"{stage} …"))
    write_atomic(output, profile_text(output.stem, calibration))
    profile = read_profile(output)
    checks = [
        {
            "network": check.network,
            "threads": check.threads,
            "measured_ms": round(check.measured_ms, 4),
            "predicted_ms": round(check.predicted_ms, 4),
        }
        for check in calibration.checks
    ]
    if as_json:
        emit({"profile": str(output), "checks": checks, **_document(profile)})
        return
    rows = [[*row.values(), f"{check.error:+.0%}"] for row, check in zip(checks, calibration.checks)]
    click.echo(table(rows, ["network, not fitted", "threads", "measured ms", "predicted ms", "error"]))
    show_lines(f"wrote {output}: {_calibration(profile)['source']}")


def _check_destination(path: Path, device: str | None) -> None:
    """UserError if the profile cannot be written there, found out before minutes of measuring."""
    if path.suffix != ".toml":
        raise UserError(f"{path}: a profile's file ends in .toml, so that it can be told from an id")
    check_file_place(path)
    if device is not None and device != path.stem:
        raise UserError(f"the id must be the file's name: -o {path.with_name(device + '.toml')}, or leave --id out")


def _warn_of_load() -> None:
    import os

    from gems_edge.control_groups import available_cores

    load = os.getloadavg()[0]
    if load > 0.5 * available_cores():
        say(f"the machine is busy (load {load:.1f}): close other programs, or the profile will be slow and uncertain")


@command.command("predict")
@click.argument("model", type=click.Path(dir_okay=False))
@click.option("--device", "devices", required=True, metavar="ID[,ID…]", help="Boards: ids or profiles' files.")
@click.option("--threads", type=click.IntRange(1, limits.THREADS), help="Threads; one per (big) core if left out.")
@click.option("--dims", default="", metavar="NAME=N[,…]", help="Sizes of dynamic dimensions, e.g. images=1,classes=5.")
@click.option("--runtime", default="onnxruntime", show_default=True, help="onnxruntime, ncnn, xnnpack or tengine.")
@click.option("--precision", help="fp32, fp16 or int8; int8 for a graph with QuantizeLinear, else fp32, if left out.")
@json_option
def predict_command(
    model: str, devices: str, threads: int | None, dims: str, runtime: str, precision: str | None, as_json: bool
) -> None:
    """Predict the time of one run of MODEL (any ONNX file) on boards, with an interval and where it comes from.

    Needs the workstation's part (onnx). Ops that are not known are counted and named, and widen the interval.

    \b
    Example:
      gems-edge devices predict model.onnx --device rpi-4b,rpi-zero-2w --dims batch=1
    """
    from gems_edge.graphs.cost import describe, load_model
    from gems_edge.predict.latency import latency
    from gems_edge.predict.profiles import find_profiles

    graph = load_model(model)
    profiles = find_profiles(devices).values()
    quantised = any(node.op_type == "QuantizeLinear" for node in graph.graph.node)
    precision = precision or ("int8" if quantised else "fp32")
    cost = describe(graph, _dims(dims), strict=False)
    predictions = {
        profile.id: latency(cost, profile, threads, runtime=runtime, precision=precision) for profile in profiles
    }
    if as_json:
        emit({
            "model": model,
            "precision": precision,
            "cost": {key: cost[key] for key in ("dims", "macs", "bytes", "peak_bytes", "constant_bytes", "work")},
            "unknown": cost.get("unknown", {}),
            "devices": {board: time.as_dict("ms", digits=4, with_unit=False) for board, time in predictions.items()},
        })  # fmt: skip
        return
    rows = [(board, time.value_text(), time.interval_text(), time.source) for board, time in predictions.items()]
    show_lines(f"{model}: {cost['macs']:,} MACs, {precision}")
    click.echo(table(rows, ("board", "predicted", "interval", "how known")))


def _dims(text: str) -> dict[str, int]:
    """{"images": 1} from "images=1"."""
    dims = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, size = part.partition("=")
        if not name or not size.isdigit() or int(size) < 1:
            raise UserError(f"--dims takes NAME=N with N of at least 1, e.g. images=1; not {part!r}")
        dims[name] = int(size)
    return dims
