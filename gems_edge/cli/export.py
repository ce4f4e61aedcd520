"""gems-edge export: prune a run physically and write a bundle for the board."""

from pathlib import Path

import click

from gems_edge.cli.common import compute_option, emit, json_option, say, table
from gems_edge.cli.values import ONE_IMAGE_SET
from gems_edge.errors import UserError
from gems_edge.wording import accuracy_text, percent_text


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--ratio",
    "ratios",
    metavar="SHARE[,SHARE…]",
    help="Share of the backbone's weights to remove, as whole channels; 0 exports the dense model. Several: a bundle of "
    "each and a page with their front; with limits: the ones to choose from.  [default: 0.8; with limits: 0 to 0.95]",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Bundle to write.  [default: RUN's name + .gems, here]"
)
@click.option(
    "--recover-iterations",
    type=click.IntRange(0),
    help="Meta-training of the compact network.  [default: a quarter of the run's]",
)
@click.option(
    "--round-to",
    type=click.IntRange(1, 64),
    help="Widths are multiples of this (onnxruntime's kernels work in blocks of 8 or 16 channels).  "
    "[default: 16; with limits: 16 or 8]",
)
@click.option("--device", "boards", metavar="ID[,ID…]", help="Boards that the limits are for: ids or profiles' files.")
@click.option("--max-latency-ms", type=click.FloatRange(0, min_open=True), help="Limit of a prediction of one image.")
@click.option("--max-adapt-ms", type=click.FloatRange(0, min_open=True), help="Limit of learning, all steps together.")
@click.option("--max-memory-mb", type=click.FloatRange(0, min_open=True), help="Limit of the peak memory of both.")
@click.option(
    "--limits-hold",
    type=click.Choice(["surely", "typically"]),
    default="surely",
    show_default=True,
    help="Whether the upper end of each prediction's interval must keep the limits, or its typical value.",
)
@click.option("--threads", type=click.IntRange(1), help="Threads on the boards.  [default: all cores]")
@click.option(
    "--steps", type=click.IntRange(1), help="Gradient steps on the board.  [default: the run's; at most, with limits]"
)
@click.option(
    "--episodes",
    type=click.IntRange(2),
    default=200,
    show_default=True,
    help="Test episodes for the accuracies in the manifest.",
)
@click.option(
    "--for-data",
    type=ONE_IMAGE_SET,
    help="One image set: freeze what a bmp or mmsup run adapts to its choice for it; of a multi-maml run, its model.",
)
@click.option(
    "--for-tasks",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Validation tasks of --for-data that decide by majority.",
)
@click.option(
    "--memory",
    type=click.Choice(["low", "balanced", "fast"]),
    help="What learning on the board may take: large maps one image at a time, and (low) computed again.  "
    "[default: balanced; with limits: what fits]",
)
@click.option("--int8", is_flag=True, help="Also write predict.int8.onnx, with its accuracy beside float32's.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Which test episodes.")
@compute_option("Where torch runs, to recover and to evaluate.")
@click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    help="Where torchvision's data sets lie, and NAME.npz for a bare NAME.",
)
@json_option
def command(run, output, ratios, boards, as_json, **options):
    """Prune, recover, and write predict.onnx and adapt.onnx with weights and manifest.

    A run with a ticket is pruned by it: a channel ticket has removed its channels already, a weight ticket says which
    channels matter; how much of it is kept is printed. Before the bundle appears, onnxruntime must reproduce torch's
    adaptation and answers on real episodes.

    With --device and limits the most accurate bundle that is predicted to keep them is searched for. What binds is said;
    if nothing fits, the nearest that there is.

    \b
    Example:
      gems-edge export runs/glyphs --ratio 0.8 -o glyphs.gems
      gems-edge export runs/both --for-data folder:fruit -o fruit.gems
      gems-edge export runs/glyphs --device rpi-zero-2w --max-latency-ms 15 --max-memory-mb 110 -o zero.gems
      gems-edge export runs/glyphs --ratio 0.5,0.8,0.9 --device rpi-4b -o glyphs.gems
    """
    from gems_edge.predict.profiles import find_profile

    output = output or Path(f"{run.resolve().name}.gems")
    shares = numbers(ratios, "--ratio")
    profiles = tuple(find_profile(board.strip()) for board in boards.split(",") if board.strip()) if boards else ()
    limits = [(name, options.pop(name)) for name in LIMITS]
    limited = [(name, most) for name, most in limits if most is not None]
    if limited and not profiles:
        raise UserError(f"{option_of(limited[0][0])} needs a board: name one with --device (gems-edge devices list)")
    if limited:
        documents = within_limits(run, output, shares, profiles, limited, options, as_json)
    else:
        documents = plain(run, output, shares or (0.8,), profiles, options, as_json)
    if as_json:
        emit(documents[0] if len(documents) == 1 else {"family": documents, "front": str(front_of(output))})


LIMITS = {"max_latency_ms": "predict", "max_adapt_ms": "adapt", "max_memory_mb": "memory"}


def option_of(name):
    return "--" + name.replace("_", "-")


def numbers(text, option):
    """Numbers of a list with commas; None for no list."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"{option} {text}: give a number, or several with commas") from None


def resolved(options, ratio):
    """ExportOptions and displays from the command's options."""
    from gems_edge.cli.progress import counting_progress, training_progress
    from gems_edge.export.source import ExportOptions, Reports

    made = ExportOptions(
        ratio,
        options["recover_iterations"],
        options["round_to"] or 16,
        options["episodes"],
        options["seed"],
        options["compute"],
        options["data_root"],
        options["for_data"],
        options["for_tasks"],
        options["int8"],
        options["memory"] or "balanced",
        options["steps"],
    )
    return made, Reports(say, lambda: training_progress("recover"), counting_progress)


def within_limits(run, output, shares, profiles, limited, options, as_json):
    """Export the most accurate bundle within the limits; its document."""
    from gems_edge.export.budget import RATIOS, ROUNDINGS, Budget, Limit
    from gems_edge.export.families import export_within
    from gems_edge.export.streaming import MEMORY

    budget = Budget(
        profiles,
        tuple(Limit(LIMITS[name], option_of(name), most) for name, most in limited),
        options["threads"],
        options["limits_hold"] == "surely",
        shares or RATIOS,
        (options["round_to"],) if options["round_to"] else ROUNDINGS,
        (options["memory"],) if options["memory"] else tuple(MEMORY),
    )
    made, displays = resolved(options, 0.0)
    manifest = export_within(run, output, made, budget, displays)
    if not as_json:
        show(output, manifest)
        rows = [
            [board, what, f"{found['value']:.4g} {found['unit']}", "{:.4g} … {:.4g}".format(*found["interval"])]
            for board, values in manifest["budget"]["predicted"].items()
            for what, found in values.items()
        ]
        click.echo(table(rows, ["board", "what", "predicted", "interval"]))
    return [summary(output, manifest)]


def plain(run, output, shares, profiles, options, as_json):
    """Export one bundle for each ratio, several with a page of their front; their documents."""
    from gems_edge.cli.report import write_page
    from gems_edge.export.families import export_family, front_points
    from gems_edge.report.front import front_sections

    made, displays = resolved(options, shares[0])
    stem = output.name.removesuffix(".gems")
    outputs = [output]
    if len(shares) > 1:
        outputs = [output.with_name(f"{stem}-{share:g}.gems") for share in shares]
    manifests = export_family(run, outputs, shares, made, displays)
    if not as_json:
        for path, manifest in zip(outputs, manifests):
            show(path, manifest)
    documents = [summary(path, manifest) for path, manifest in zip(outputs, manifests)]
    if len(shares) > 1:
        points = front_points(manifests, profiles, options["threads"])
        write_page(front_of(output), f"gems-edge: {stem}", front_sections(points))
        say(f"their front: {front_of(output)}")
        documents = [document | {"boards": point["boards"]} for document, point in zip(documents, points)]
    return documents


def front_of(output):
    return output.with_name(f"{output.name.removesuffix('.gems')}-front.html")


def show(output, manifest):
    """What was exported, in words and as a table."""
    document = summary(output, manifest)
    check, mode = manifest["verification"], manifest["normalization"]
    say(
        f"onnxruntime equals torch on {check['episodes']} episodes: updates within {check['update_relative_error']:.1e} of their size "
        f"(tolerance {check['update_tolerance']:.0e}; the worst {check['worst_update_relative_error']:.1e}), "
        f"probabilities within {check['probability_error']:.1e} (tolerance {check['probability_tolerance']:.0e})"
    )
    if manifest["specialised"]:
        say(about_specialised(manifest["specialised"]))
    if manifest["provenance"]["trained_as"] == "transductive":
        say("the run was trained transductive; a board sees one image at a time, so the bundle answers in mode support")
    if "int8" in manifest:
        for line in about_int8(manifest):
            say(line)
    rows = [
        ["parameters", f"{document['params_before']:,}", f"{document['params_after']:,}"],
        ["MACs per image", f"{document['macs_before']:,}", f"{document['macs_after']:,}"],
        *(
            [
                f"accuracy ({m})",
                *(accuracy_text(manifest[k][m], 2) for k in ("accuracy_before", "accuracy")),
            ]
            for m in manifest["accuracy"]
        ),
        *(
            [
                f"memory of {what}, {count_of(images, 'image')}, predicted",
                "",
                f"{peak.value_text('.0f')} ({peak.interval_text('.0f')})",
            ]
            for what, (images, peak) in predicted_memory(manifest).items()
        ),
    ]
    click.echo(
        table(
            rows,
            [
                f"{output} ({mode})",
                "dense" if manifest["ticket"] is None else "run (sizes: dense)",
                f"ratio {manifest['ratio']['reached']:.3f}",
            ],
        )
    )


def predicted_memory(manifest: dict) -> dict:
    """Peak memory of predict and adapt on a board: what → (images, Prediction)."""
    from gems_edge.predict.memory import predict_memory

    counts = {"predict": 1, "adapt": manifest["ways"] * manifest["shots"]}
    return {what: (images, predict_memory(manifest["cost"], images, what)) for what, images in counts.items()}


def count_of(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def about_specialised(found: dict) -> str:
    """One line: what was frozen, and how often the adapter itself chooses so."""
    if "masks" in found:
        steps = ["+".join(n for n, on in zip(found["layers"], row) if on) or "nothing" for row in found["masks"]]
        what = steps[0] if len(set(steps)) == 1 else "; ".join(f"step {i}: {step}" for i, step in enumerate(steps, 1))
        what = f"adapts {what}"
    else:
        what = f"adapts {100 * found['weights_kept']:.0f} % of the weights"
    agreed = f"{100 * found['agreement']:.1f} % of the run's own choices on {found['tasks']} validation tasks agree"
    return f"frozen for {found['data']}: {what}; {agreed}"


def about_int8(manifest: dict) -> list[str]:
    """What the quantised graph answers and takes beside float32's; a warning where it lost more than the interval."""
    lines, sizes = [], {name: file["bytes"] for name, file in manifest["files"].items()}
    for mode, found in manifest["int8"]["accuracy"].items():
        fp32, int8, change = found["fp32"], found["int8"], found["difference"]
        lines.append(
            f"int8 ({mode}): {accuracy_text(int8, 2)} where fp32 has {100 * fp32['accuracy']:.2f} %, "
            f"difference {percent_text(change['accuracy'], change['ci95'], 2, signed=True)}, {100 * found['agreement']:.1f} % of labels agree; "
            f"predict.int8.onnx has {sizes['predict.int8.onnx']:,} bytes, predict.onnx {sizes['predict.onnx']:,}"
        )
        if -change["accuracy"] > fp32["ci95"]:
            lines.append("warning: int8 loses more accuracy than the interval of fp32's; predict with --precision fp32")
    return lines


def summary(output: Path, manifest: dict) -> dict:
    """The document of `export --json`."""
    mode = manifest["normalization"]
    return {
        "bundle": str(output),
        "ratio": manifest["ratio"]["reached"],
        "widths": manifest["backbone"]["widths"],
        **{f"{what}_{when}": manifest[what][when] for what in ("params", "macs") for when in ("before", "after")},
        "accuracy_before": manifest["accuracy_before"][mode],
        "accuracy_after": manifest["accuracy"][mode],
        "accuracy_per_mode": {"before": manifest["accuracy_before"], "after": manifest["accuracy"]},
        "normalization": mode,
        "ticket": manifest["ticket"],
        "specialised": manifest["specialised"],
        "verification": manifest["verification"],
        "predicted_memory_mb": {
            what: {"images": images, **peak.as_dict("peak", digits=1, with_unit=False)}
            for what, (images, peak) in predicted_memory(manifest).items()
        },
        "int8": manifest.get("int8", {}).get("accuracy"),
        "memory": manifest["memory"],
        "steps": manifest["rule"]["steps"],
        "budget": manifest.get("budget"),
        "bytes": sum(file["bytes"] for file in manifest["files"].values()),
    }
