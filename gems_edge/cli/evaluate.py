"""gems-edge evaluate: accuracy over seeded episodes of unseen classes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gems_edge.cli.common import (
    PATH,
    Document,
    compute_option,
    data_root_option,
    emit,
    json_option,
    refuse_device,
    say_unchecked,
    show_lines,
    table,
    trust_flags,
)
from gems_edge.cli.values import GIVEN_SHOTS, IMAGE_SETS
from gems_edge.data import limits
from gems_edge.wording import accuracy_text, below_bar_text, percent_text

if TYPE_CHECKING:
    from gems_edge.data.shots import Shots
    from gems_edge.meta.evaluation.document import EvaluationProtocol

COLUMNS = ("shots", "precision", "data", "normalization", "steps", "accuracy", "untrained")


@click.command()
@click.argument("subject", metavar="RUN|BUNDLE", type=PATH)
@click.option("--data", type=IMAGE_SETS, help="Images, several sets with commas; default: those of the run.")
@data_root_option
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True)
@click.option("--episodes", type=click.IntRange(2, limits.EPISODES), default=600, show_default=True)
@click.option("--ways", type=click.IntRange(2, limits.CLASSES), help="Default: as trained.")
@click.option(
    "--shots", type=GIVEN_SHOTS, help="A number, or one for each class (5,1,1,1,1); default: as trained, both ends."
)
@click.option("--queries", type=click.IntRange(1, limits.PER_CLASS), help="Default: as trained.")
@click.option("--steps", type=click.IntRange(0, limits.STEPS), help="Inner steps; default: as trained.")
@click.option("--per-step", is_flag=True, help="Accuracy after every number of steps from 0.")
@click.option(
    "--normalization", help="The mode of the headline figure; default: as trained. All modes are in the table."
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Which episodes.")
@compute_option("Where torch runs; a bundle runs on the CPU, without torch.")
@trust_flags
@refuse_device
@json_option
def command(subject: Path, compute: str, as_json: bool, **protocol: Any) -> None:
    """Accuracy with its 95 % interval, per normalisation mode and step count.

    A run is evaluated with torch. A bundle is evaluated with onnxruntime, as on the board. untrained: class means of
    the same network before training.

    \b
    Example:
      gems-edge evaluate runs/glyphs --episodes 600
    """
    from gems_edge.meta.evaluation.document import EvaluationProtocol

    result = _evaluate(subject, EvaluationProtocol(**protocol), compute)
    if as_json:
        emit(result)
        return
    show_lines(_headline(subject, result))
    show_lines(_accuracy_table(result))
    for tested in _by_shots(result):
        if line := below_bar_text(tested):
            show_lines(f"{_shots_text(tested)}-shot: {line}")
    if "int8" in result:
        show_lines(_int8_line(result["int8"]))
    if "layers" in result:
        show_lines("\n" + _choices_table(result))


def _evaluate(subject: Path, protocol: "EvaluationProtocol", compute: str) -> Document:
    from gems_edge.cli.progress import counting_progress
    from gems_edge.meta.evaluation.bundle import evaluate_bundle
    from gems_edge.predict.room import check_bench_room

    is_bundle = (subject / "manifest.json").exists()
    trained_sets, shots = _trained(subject, is_bundle)
    rounds = (len(protocol.data) if protocol.data else trained_sets) * len(protocol.tested_shots(shots))
    with counting_progress("evaluate", protocol.episodes * rounds) as progress:
        if is_bundle:
            result = evaluate_bundle(subject, protocol, progress, check_bench_room)
            say_unchecked()
            return result
        from gems_edge.meta.evaluation.run import evaluate_run  # torch, which a bundle does without

        return evaluate_run(subject, protocol, compute, progress, counting_progress)


def _trained(subject: Path, is_bundle: bool) -> tuple[int, "Shots"]:
    """How many image sets it is tested on by default, and its shots; what cannot be read is refused later."""
    from gems_edge.data.shots import Shots
    from gems_edge.device.bundle import read_bundle
    from gems_edge.errors import UserError
    from gems_edge.meta.settings.run import read_config
    from gems_edge.predict.room import check_bench_room

    try:
        if is_bundle:
            bundle = read_bundle(subject, may_read=check_bench_room)
            return 1, Shots(bundle.least_shots, bundle.shots)
        config = read_config(subject / "config.toml")
    except UserError:
        return 1, Shots()
    return len(config.data), config.shots


def _headline(subject: Path, result: Document) -> str:
    each = " of each" if len(result["distributions"]) > 1 or "by_shots" in result else ""
    shots = " and ".join(f"{_shots_text(part)}-shot" for part in _by_shots(result))
    return (
        f"{subject} on {result['data']} ({result['split']}), {result['ways']}-way {shots}, "
        f"{result['episodes']} episodes{each}"
    )


def _by_shots(result: Document) -> list[Document]:
    parts: list[Document] = result.get("by_shots", [result])
    return parts


def _shots_text(part: Document) -> str:
    shots = part["shots"]
    return ",".join(map(str, shots)) if isinstance(shots, list) else str(shots)


def _accuracy_table(result: Document) -> str:
    """A row for each number of shots, precision, distribution, mode and step count; without columns that are the same
    in all rows."""
    rows = [
        (
            _shots_text(tested),
            precision,
            name,
            row["normalization"],
            row["steps"],
            accuracy_text(row, 2),
            accuracy_text(entry["untrained"], 2) if "untrained" in entry else "",
        )
        for tested in _by_shots(result)
        for precision, part in _precisions(tested).items()
        for name, entry in _with_mean(part).items()
        for row in entry["table"]
    ]
    shown = {
        "shots": "by_shots" in result, "precision": "int8" in result, "data": len(result["distributions"]) > 1,
        "untrained": "untrained" in result,
    }  # fmt: skip
    columns = [index for index, name in enumerate(COLUMNS) if shown.get(name, True)]
    return table([[row[index] for index in columns] for row in rows], [COLUMNS[index] for index in columns])


def _precisions(tested: Document) -> dict[str, Document]:
    return {"fp32": tested} | ({"int8": tested["int8"]} if "int8" in tested else {})


def _with_mean(part: Document) -> dict[str, Document]:
    """Label → what was measured on that distribution; of several ones also their mean."""
    distributions = {
        name if entry.get("seen", True) else f"{name} (unseen)": entry for name, entry in part["distributions"].items()
    }
    return distributions | ({"mean": part} if len(distributions) > 1 else {})


def _int8_line(int8: Document) -> str:
    change = int8["difference"]
    return (
        f"int8 on the same episodes: {percent_text(change['accuracy'], change['ci95'], 2, signed=True)}, "
        f"{100 * int8['agreement']:.1f} % of labels agree"
    )


def _choices_table(result: Document) -> str:
    """What a bmp or mmsup run adapts: of each layer the share of tasks at each step, or of its weights."""
    choices = {name: entry["choices"] for name, entry in result["distributions"].items()}
    if "overlap" not in result:
        masks = {name: zip(*choice["mask"]) for name, choice in choices.items()}
        rows = [
            [name, *("/".join(f"{share:.2f}" for share in layer) for layer in mask)] for name, mask in masks.items()
        ]
        return table(rows, ["share of tasks, step by step", *result["layers"]])
    shares = {name: choice["keep"][0] for name, choice in choices.items()}
    shares |= {pair.replace("|", " ∩ "): overlap for pair, overlap in result["overlap"].items()}
    rows = [[name, *(f"{share:.2f}" for share in layers)] for name, layers in shares.items()]
    return table(rows, ["share of weights; overlap", *result["layers"]])
