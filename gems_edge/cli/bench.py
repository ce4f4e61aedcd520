"""gems-edge bench: what a bundle costs, measured here and predicted for boards."""

import click

from gems_edge.cli.common import emit, json_option, say, table


@click.command()
@click.argument("bundle", type=click.Path())
@click.option("--device", "devices", metavar="ID[,ID…]", help="Boards to predict for, e.g. rpi-4b,rpi-zero-2w.")
@click.option(
    "--threads", type=click.IntRange(min=1), help="Threads, here and on the boards; one per core if left out."
)
@json_option
def command(bundle, devices, threads, as_json):
    """Measure BUNDLE on this machine: time of a prediction and of a gradient step, memory, cold start, sizes.

    With --device it also predicts time and memory on other boards. Every number is tagged measured or predicted,
    with an interval and where it comes from.

    \b
    Example:
      gems-edge bench plates.gems
      gems-edge bench plates.gems --device rpi-4b,rpi-zero-2w --json
    """
    from gems_edge.device.bench import measure_bundle
    from gems_edge.device.bundle import read_bundle

    opened = read_bundle(bundle)
    predictions = _predict(opened, devices, threads)  # before minutes of measuring: an unknown board is told at once
    document = measure_bundle(opened, threads, on_stage=lambda stage: say(f"measuring {stage} …"))
    document["devices"] = predictions
    if as_json:
        emit(document)
    else:
        click.echo(_text(document))


def _predict(bundle, devices, threads):
    """For each board: latency of a prediction and of a gradient step, and memory of both."""
    if not devices:
        return {}
    from gems_edge.cost.latency import predict_latency
    from gems_edge.cost.memory import predict_memory
    from gems_edge.cost.profiles import load_profile

    cost = bundle.manifest["cost"]
    images = bundle.ways * bundle.shots

    def latency(graph, profile):
        made = predict_latency(cost[graph], profile, threads)
        return _predicted({"p50": made["ms"]}, "ms", {"p50": (made["low_ms"], made["high_ms"])}, made["source"])

    def memory(count, what):
        made = predict_memory(cost, count, what)
        return _predicted({"peak": made["mb"]}, "MB", {"peak": (made["low_mb"], made["high_mb"])}, made["source"])

    predictions = {}
    for device in dict.fromkeys(part.strip() for part in devices.split(",") if part.strip()):
        profile = load_profile(device)
        predictions[device] = {
            "predict": {"images": 1, **latency("predict", profile)},
            "adapt": {"images": images, **latency("adapt_step", profile)},
            "memory": {
                "predict": {"images": 1, **memory(1, "predict")},
                "adapt": {"images": images, **memory(images, "adapt")},
            },
        }
    return predictions


def _predicted(values, unit, intervals, source):
    rounded = {name: [round(low, 4), round(high, 4)] for name, (low, high) in intervals.items()}
    values = {name: round(value, 4) for name, value in values.items()}
    return {**values, "unit": unit, "interval": rounded, "tag": "predicted", "source": source}


def _text(document):
    host = document["host"]
    machine = host.get("board") or host.get("cpu") or host["machine"]
    head = [f"{document['bundle']} on {machine}, {document['threads']} threads"]
    if host.get("throttled", "0x0") != "0x0":
        head.append(f"the board reports throttling ({host['throttled']}): under-voltage or heat spoils the figures")
    rows = []

    def add(where, what, section):
        for name, interval in section["interval"].items():
            low, high = interval
            rows.append(
                [
                    where,
                    f"{what} {name}",
                    f"{section[name]:.4g} {section['unit']}",
                    f"{low:.4g} … {high:.4g}",
                    section["tag"],
                ]
            )

    sections = [("here", document)] + list(document["devices"].items())
    for where, part in sections:
        add(where, "predict, 1 image,", part["predict"])
        add(where, f"adapt step, {part['adapt']['images']} images,", part["adapt"])
        add(where, "memory of predict,", part["memory"]["predict"])
        add(where, "memory of adapt,", part["memory"]["adapt"])
    add("here", "cold start of predict", document["cold_start"])
    rows.append(["any", "MACs of a prediction", f"{document['macs']['predict']:,}", "", "predicted"])
    rows.append(["any", "MACs of an adapt step", f"{document['macs']['adapt_step']:,}", "", "predicted"])
    rows.append(["any", "size of the bundle", f"{document['bytes']['total']:,} bytes", "", "measured"])
    tail = [f"measured: {document['predict']['source']}"]
    tail += dict.fromkeys(f"predicted: {part['predict']['source']}" for _, part in sections[1:])
    return "\n".join([*head, table(rows, ["where", "what", "value", "interval", "how known"]), *tail])
