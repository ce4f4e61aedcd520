"""gems-edge evaluate: accuracy over seeded episodes of unseen classes."""

from pathlib import Path

import click

from gems_edge.cli.common import compute_option, emit, json_option, refuse_device, table
from gems_edge.cli.values import IMAGE_SETS
from gems_edge.wording import accuracy_text, percent_text


@click.command()
@click.argument("subject", metavar="RUN|BUNDLE", type=click.Path(path_type=Path))
@click.option("--data", type=IMAGE_SETS, help="Images, several sets with commas; default: those of the run.")
@click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    help="Where torchvision's data sets lie, and NAME.npz for a bare NAME.",
)
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True)
@click.option("--episodes", type=click.IntRange(2), default=600, show_default=True)
@click.option("--ways", type=click.IntRange(2), help="Default: as trained.")
@click.option("--shots", type=click.IntRange(1), help="Default: as trained.")
@click.option("--queries", type=click.IntRange(1), help="Default: as trained.")
@click.option("--steps", type=click.IntRange(0), help="Inner steps; default: as trained.")
@click.option("--per-step", is_flag=True, help="Accuracy after every number of steps from 0.")
@click.option(
    "--normalization", help="The mode of the headline figure; default: as trained. All modes are in the table."
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Which episodes.")
@compute_option("Where torch runs; a bundle runs on the CPU, without torch.")
@refuse_device
@json_option
def command(
    subject,
    data,
    data_root,
    split,
    episodes,
    ways,
    shots,
    queries,
    steps,
    per_step,
    normalization,
    seed,
    compute,
    as_json,
):
    """Accuracy with its 95 % interval, per normalisation mode and step count.

    A run is evaluated with torch. A bundle is evaluated with onnxruntime, as on the board.

    \b
    Example:
      gems-edge evaluate runs/glyphs --episodes 600
    """
    from gems_edge.cli.progress import counting_progress
    from gems_edge.meta.evaluation import EvaluationProtocol, evaluate_bundle, evaluate_run

    protocol = EvaluationProtocol(
        data, split, episodes, ways, shots, queries, steps, per_step, normalization, seed, data_root
    )
    is_bundle = (subject / "manifest.json").exists()
    with counting_progress("evaluate", episodes * _sets(subject, data, is_bundle)) as progress:
        result = (
            evaluate_bundle(subject, protocol, progress)
            if is_bundle
            else evaluate_run(subject, protocol, compute, progress)
        )
    if as_json:
        emit(result)
        return
    click.echo(
        f"{subject} on {result['data']} ({result['split']}), {result['ways']}-way {result['shots']}-shot, {episodes} episodes{' of each' if len(result['distributions']) > 1 else ''}"
    )
    several, precisions = len(result["distributions"]) > 1, {"fp32": result}
    if "int8" in result:
        precisions["int8"] = result["int8"]
    rows = []
    for precision, of in precisions.items():
        found = [row for name, one in of["distributions"].items() for row in _rows(_label(name, one), one, several)]
        found += _rows("mean", of, several) if several else []
        rows += [[precision, *row] for row in found] if len(precisions) > 1 else found
    header = [*(["precision"] if len(precisions) > 1 else []), *(["data"] if several else [])]
    click.echo(table(rows, [*header, "normalization", "steps", "accuracy"]))
    if "int8" in result:
        change = result["int8"]["difference"]
        click.echo(
            f"int8 on the same episodes: {percent_text(change['accuracy'], change['ci95'], 2, signed=True)}, "
            f"{100 * result['int8']['agreement']:.1f} % of labels agree"
        )
    if "layers" in result:
        click.echo("\n" + _choices(result))


def _sets(subject, data, is_bundle):
    """How many image sets are evaluated; a subject that cannot be read is refused later."""
    from gems_edge.errors import UserError
    from gems_edge.meta.settings.run import read_config

    if data or is_bundle:
        return len(data or (subject,))
    try:
        return len(read_config(subject / "config.toml").data)
    except UserError:
        return 1


def _choices(result):
    """What a bmp or mmsup run adapts: of each layer the share of tasks at each step, or of its weights."""
    chosen = {name: one["choices"] for name, one in result["distributions"].items()}
    if "overlap" not in result:
        rows = [[name, *("/".join(f"{x:.2f}" for x in at) for at in zip(*one["mask"]))] for name, one in chosen.items()]
        return table(rows, ["share of tasks, step by step", *result["layers"]])
    rows = [[name, *(f"{share:.2f}" for share in one["keep"][0])] for name, one in chosen.items()]
    rows += [
        [pair.replace("|", " ∩ "), *(f"{share:.2f}" for share in shares)] for pair, shares in result["overlap"].items()
    ]
    return table(rows, ["share of weights; overlap", *result["layers"]])


def _label(name, one):
    return name if one.get("seen", True) else f"{name} (unseen)"


def _rows(label, one, several):
    return [
        [*([label] if several else []), row["normalization"], str(row["steps"]), _accuracy(row)] for row in one["table"]
    ]


def _accuracy(row):
    return accuracy_text(row, 2)
