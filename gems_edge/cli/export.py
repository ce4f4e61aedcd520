"""gems-edge export: prune a run physically and write a bundle for the board."""

from pathlib import Path

import click

from gems_edge.cli.common import emit, json_option, say, table


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--ratio",
    type=float,
    default=0.8,
    show_default=True,
    help="Share of the backbone's weights to remove, as whole channels; 0 exports the dense model.",
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
    default=16,
    show_default=True,
    help="Widths are multiples of this (onnxruntime's kernels work in blocks of 8 or 16 channels).",
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
    default="balanced",
    show_default=True,
    help="What learning on the board may take: large maps one image at a time, and (low) computed again.",
)
@click.option("--int8", is_flag=True, help="Also write predict.int8.onnx, with its accuracy beside float32's.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Which test episodes.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to recover and evaluate.",
)
@click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    help="Where torchvision's data sets lie, and NAME.npz for a bare NAME.",
)
@json_option
def command(
    run,
    ratio,
    output,
    recover_iterations,
    round_to,
    episodes,
    for_data,
    for_tasks,
    memory,
    int8,
    seed,
    device,
    data_root,
    as_json,
):
    """Prune, recover, and write predict.onnx and adapt.onnx with weights and manifest.

    A run with a ticket is pruned by it: a channel ticket has removed its channels already, a weight ticket says which
    channels matter; how much of it is kept is printed. Before the bundle appears, onnxruntime must reproduce torch's
    adaptation and answers on real episodes.

    \b
    Example:
      gems-edge export runs/glyphs --ratio 0.8 -o glyphs.gems
      gems-edge export runs/both --for-data folder:fruit -o fruit.gems
    """
    from gems_edge.cli.progress import counting_progress, training_progress
    from gems_edge.export.pipeline import ExportOptions, Reports, export_run

    output = output or Path(f"{run.resolve().name}.gems")
    options = ExportOptions(
        ratio, recover_iterations, round_to, episodes, seed, device, data_root, for_data, for_tasks, int8, memory
    )
    displays = Reports(say, lambda: training_progress("recover"), counting_progress)
    manifest = export_run(run, output, options, displays)
    document = summary(output, manifest)
    if as_json:
        emit(document)
        return
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
                *(
                    f"{100 * manifest[k][m]['accuracy']:.2f} ± {100 * manifest[k][m]['ci95']:.2f} %"
                    for k in ("accuracy_before", "accuracy")
                ),
            ]
            for m in manifest["accuracy"]
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
            f"int8 ({mode}): {100 * int8['accuracy']:.2f} ± {100 * int8['ci95']:.2f} % where fp32 has {100 * fp32['accuracy']:.2f} %, "
            f"difference {100 * change['accuracy']:+.2f} ± {100 * change['ci95']:.2f}, {100 * found['agreement']:.1f} % of labels agree; "
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
        "int8": manifest.get("int8", {}).get("accuracy"),
        "bytes": sum(file["bytes"] for file in manifest["files"].values()),
    }
