"""The page that `gems-edge demo` ends with. No torch, no onnx."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gems_edge.files import write_atomic
from gems_edge.images import open_image
from gems_edge.report.bundles import bundle_sections
from gems_edge.report.page import Block, KeyFigure, KeyFigures, Picture, Section, render_page
from gems_edge.report.plots import accuracy_chart
from gems_edge.report.sections import Query, bench_section, episode_section, run_sections
from gems_edge.wording import count_text, percent_text, protocol_text

Document = dict[str, Any]
Photos = dict[str, list[Path]]  # folder name of a class → the new photos to ask about


@dataclass(frozen=True)
class Subject:
    """What a demo is about: its images, and how it trains on them."""

    data: str  # as --data
    training: tuple[object, ...]  # options of train
    ratio: float  # share of the weights that export removes
    noun: str  # what its classes are called
    many_processes: bool  # whether training takes a process per core


class DemoFiles:
    """What the demo writes into its directory."""

    def __init__(self, directory: Path):
        self.run, self.page = directory / "run", directory / "report.html"
        self.bundle, self.state = directory / "demo.gems", directory / "demo.state"
        self.support, self.new = directory / "photos" / "support", directory / "photos" / "new"


@dataclass(frozen=True)
class DemoResults:
    """The --json documents of the demo's commands."""

    evaluate: Document
    export: Document
    evaluate_bundle: Document
    adapt: Document
    predict: list[Document]
    bench: Document


def write_page(files: DemoFiles, subject: Subject, results: DemoResults, photos: Photos, seconds: float) -> None:
    sections = [
        Section("What came out", tuple(_key_figures(results, seconds))),
        _episode(files, subject, results.predict, photos),
        bench_section(results.bench),
        *run_sections(files.run),
        *_per_step(results.evaluate["table"]),
        *bundle_sections(files.bundle),
    ]
    subtitle = "Few-shot learning on a small board, from training to cost"
    write_atomic(files.page, render_page("gems-edge demo", sections, subtitle))


def _per_step(table: Sequence[Document]) -> Iterator[Section]:
    """A chart, where steps are taken at all."""
    if any(row["steps"] for row in table):
        rows = [row | {"mode": row["normalization"]} for row in table]
        yield Section("Accuracy per inner step (dense run)", (Picture(accuracy_chart({"dense": rows})),))


def _key_figures(results: DemoResults, seconds: float) -> Iterator[Block]:
    board, export, bench, adapt = results.evaluate_bundle, results.export, results.bench, results.adapt
    protocol = f"{protocol_text(board)}, ± {percent_text(board['ci95'])}"
    task = f"{protocol}, mode {board['normalization']}" + (f", ratio {export['ratio']:.2f}" if export["ratio"] else "")
    step, images = bench["adapt"], count_text(bench["adapt"]["images"], "image")
    learning = ("gradient step", f", {images}") if bench["steps"] else (f"class means, {images}", "")
    taught = f"{count_text(adapt['steps'], 'step')} on" if adapt["steps"] else "class means of"
    taught += f" {count_text(adapt['images'], 'photo')}"
    figures = [
        KeyFigure("accuracy on the board's runtime", f"{percent_text(board['accuracy'])} %", task, "measured"),
        KeyFigure("predict, one image", f"{bench['predict']['p50']:.2f} ms", "this machine, p50", "measured"),
        KeyFigure(learning[0], f"{step['p50']:.1f} ms", f"this machine{learning[1]}, p50", "measured"),
        KeyFigure("peak memory of teaching", f"{adapt['peak_rss_mb']} MB", taught, "measured"),
        KeyFigure("the whole demo", f"{seconds:.0f} s", "this machine", "measured"),
    ]
    if export["ratio"]:
        fewer = export["params_before"] / export["params_after"]
        figures.insert(1, KeyFigure("fewer parameters", f"{fewer:.1f}×", f"{export['params_after']:,} left", "counted"))
    yield KeyFigures(tuple(figures))


def _episode(files: DemoFiles, subject: Subject, answers: Sequence[Document], photos: Photos) -> Section:
    def pixels(path: Path) -> np.ndarray:
        with open_image(path, str(path)) as image:
            return np.asarray(image)

    answer_of = {Path(answer["image"]).name: answer for answer in answers}

    def query(path: Path) -> Query:
        answer = answer_of[path.name]
        return Query(pixels(path), answer["guess"], answer["probability"], answer["known"])

    return episode_section(
        list(photos),
        [[pixels(files.support / name / "1.png")] for name in photos],
        [[query(path) for path in paths] for paths in photos.values()],
        f"{len(photos)} {subject.noun} it had never seen, one photo each",
        "Each row: the photo it learned from, then new ones.",
    )
