"""gems-edge bench: what a bundle costs, measured here or on a board by ssh, and predicted for boards."""

import click

from gems_edge.cli.common import emit, json_option, say, table


@click.command()
@click.argument("bundle", type=click.Path())
@click.option("--device", "devices", metavar="ID[,ID…]", help="Boards to predict for, e.g. rpi-4b,rpi-zero-2w.")
@click.option(
    "--threads", type=click.IntRange(min=1), help="Threads, here and on the boards; one per core if left out."
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
    "--reconnect", "patience", type=click.FloatRange(min=0), metavar="SECONDS",
    help="With --host: how long a lost connection is tried again; 120 if left out.",
)  # fmt: skip
@json_option
def command(bundle, devices, threads, host, config, wheels, keep, patience, as_json):
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
    from gems_edge.device.bench import measure_bundle
    from gems_edge.device.bundle import read_bundle

    if host is None and (config or wheels or keep or patience is not None):
        raise click.UsageError("-F, --wheels, --keep and --reconnect belong with --host")
    opened = read_bundle(bundle)
    predictions = _predict(opened, devices, threads)  # before minutes of measuring: an unknown board is told at once
    if host is None:
        document = measure_bundle(opened, threads, on_stage=lambda stage: say(f"measuring {stage} …"))
        _add_predicted_memory(opened, document)
    else:
        from gems_edge.remote.bench import Target, bench_on

        target = Target(host, config, wheels, keep, 120.0 if patience is None else patience)
        document = bench_on(opened, target, threads, on_stage=say)
        document["comparison"] = {device: _compare(document, part) for device, part in predictions.items()}
    document["devices"] = predictions
    if as_json:
        emit(document)
    else:
        click.echo(_text(document))


def _predict(bundle, devices, threads):
    """For each board: latency of a prediction and of a gradient step, and memory of both."""
    from gems_edge.predict.latency import latency
    from gems_edge.predict.memory import predict_memory
    from gems_edge.predict.profiles import find_profile

    cost, images = bundle.manifest["cost"], bundle.ways * bundle.shots

    def times(profile):
        def figures(count, graph, precision="fp32"):
            predicted = latency(cost[graph], profile, threads, precision=precision)
            return {"images": count, **predicted.as_figure("p50")}

        int8 = {"int8": {"predict": figures(1, "predict", "int8")}} if "predict_int8" in cost else {}
        return {"predict": figures(1, "predict"), **int8, "adapt": figures(images, "adapt_step")}

    def memory(count, what):
        return {"images": count, **predict_memory(cost, count, what).as_figure("peak")}

    predictions = {}
    for device in dict.fromkeys(part.strip() for part in (devices or "").split(",") if part.strip()):
        profile = find_profile(device)
        predictions[device] = {
            **({} if profile.memory_only else times(profile)),
            "memory": {"predict": memory(1, "predict"), "adapt": memory(images, "adapt")},
        }
    return predictions


def _add_predicted_memory(bundle, document):
    """What the manifest says of the memory, beside what was measured."""
    from gems_edge.predict.memory import predict_memory

    for what, section in document["memory"].items():
        section["predicted"] = predict_memory(bundle.manifest["cost"], section["images"], what).as_figure("peak")


def _compare(measured, predicted):
    """For each figure that is both measured and predicted: both, how far off, and whether the interval holds it."""
    pairs = {"predict": ("predict", "p50"), "adapt": ("adapt", "p50")}
    pairs |= {f"memory of {what}": ("memory", what, "peak") for what in ("predict", "adapt")}

    def pick(document, path):
        for name in path[:-1]:
            document = document[name]
        return document[path[-1]], document["interval"][path[-1]], document["unit"]

    compared = {}
    for what, path in pairs.items():
        if path[0] not in predicted:  # of boards that onnxruntime does not run on the memory alone is predicted
            continue
        seen, _, unit = pick(measured, path)
        said, (low, high), _ = pick(predicted, path)
        compared[what] = {
            "measured": seen, "predicted": said, "unit": unit, "error_percent": round(100 * (said / seen - 1), 1),
            "inside_interval": low <= seen <= high,
        }  # fmt: skip
    return compared


def _text(document):
    host = document["host"]
    machine = host.get("board") or host.get("cpu") or host["machine"]
    remote = document.get("remote")
    here = remote["host"] if remote else "here"
    head = [f"{document['bundle']} on {machine}, {document['threads']} threads", _conditions(document)]
    head += [f"spoiled: {reason}" for reason in document["conditions"]["spoiled"]]
    if remote:
        head.append(_remote(remote))
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

    sections = [(here, document)] + list(document["devices"].items())
    for where, part in sections:
        if "predict" in part:
            add(where, "predict, 1 image,", part["predict"])
        if "int8" in part:
            add(where, "predict in int8, 1 image,", part["int8"]["predict"])
        if "adapt" in part:
            add(where, f"adapt step, {part['adapt']['images']} images,", part["adapt"])
        for what, section in part["memory"].items():
            add(where, f"memory of {what},", section)
            if "predicted" in section:
                add(where, f"memory of {what},", section["predicted"])
    add(here, "cold start of predict", document["cold_start"])
    rows.append(["any", "MACs of a prediction", f"{document['macs']['predict']:,}", "", "predicted"])
    rows.append(["any", "MACs of an adapt step", f"{document['macs']['adapt_step']:,}", "", "predicted"])
    rows.append(["any", "size of the bundle", f"{document['bytes']['total']:,} bytes", "", "measured"])
    tail = [f"measured: {document['predict']['source']}"]
    if "int8" in document:
        tail.append(_int8(document["int8"]["times_faster"], here))
    tail += dict.fromkeys(f"predicted: {part['predict']['source']}" for _, part in sections[1:] if "predict" in part)
    for device, figures in document.get("comparison", {}).items():
        told = (f"{what} {figure['error_percent']:+.0f} %" for what, figure in figures.items())
        tail.append(f"{device}, predicted against measured: {', '.join(told)}")
    return "\n".join([*head, table(rows, ["where", "what", "value", "interval", "how known"]), *tail])


def _int8(ratio, here):
    """The line on which of the two graphs is the faster."""
    low, high = ratio["interval"]["p50"]
    verdict = "faster" if low > 1 else "slower" if high < 1 else "neither faster nor slower"
    return f"int8 is {verdict} {here}: {ratio['p50']:.2f} × as fast as fp32 ({low:.2f} … {high:.2f})"


def _conditions(document):
    """The line on what the machine was like."""
    conditions, host = document["conditions"], document["host"]
    before, after = conditions["before"], conditions["after"]
    parts = []
    if clock := conditions["clock"]:
        highest = f" of {host['highest_clock_mhz']}" if "highest_clock_mhz" in host else ""
        parts.append(f"{clock['core']:.0f}{highest} MHz {clock['tag']}")
    if "governor" in after:
        parts.append(f"governor {after['governor']}")
    for name, form in (("temperature_c", "{:.0f} → {:.0f} °C"), ("throttled", "throttled {} → {}")):
        if name in before and name in after:
            parts.append(form.format(before[name], after[name]))
    parts += [f"{after[key]:,} MB {what} free" for key, what in _FREE.items() if key in after]
    return ", ".join([*parts, f"onnxruntime {host['onnxruntime']}, python {host['python']}"])


_FREE = {"memory_available_mb": "of memory", "disk_free_mb": "of disk"}


def _remote(remote):
    """The line on what adapt and predict did on the board."""
    adapt, agreement = remote["adapt"], remote["agreement"]
    same = "the same classes as here" if agreement["same_labels"] else "other classes than here"
    return (
        f"adapted there in {adapt['steps']} steps of {adapt['ms_per_step']['p50']:.1f} ms; its answers name {same}, "
        f"probabilities within {agreement['largest_difference']:.1e}"
    )
