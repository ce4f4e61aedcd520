"""gems-edge demo: the whole path on glyphs, by the very commands that a user would type."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gems_edge.cli.common import PATH, Document, emit, json_option, say
from gems_edge.clock import clock
from gems_edge.errors import MachineError, UserError
from gems_edge.wording import accuracy_text, percent_text

if TYPE_CHECKING:
    from gems_edge.report.page import KeyFigures, Section

BOARDS = "rpi-4b,rpi-zero-2w"
TRAINING = ("--data", "glyphs", "--widths", 48, "--steps", 3, "--inner-lr", 0.1, "--queries", 5)
# Classes that the demo teaches, and images of each that it then asks about.
TAUGHT, ASKED = 5, 6

Photos = dict[str, list[Path]]  # folder name of a class → the new photos to ask about


@click.command()
@click.option(
    "-o", "--output", type=PATH, default="demo", show_default=True, help="Directory for everything the demo makes."
)
@click.option("--iterations", type=click.IntRange(1), default=450, show_default=True, help="Meta-training iterations.")
@click.option(
    "--episodes", type=click.IntRange(2), default=200, show_default=True, help="Test episodes per evaluation."
)
@click.option(
    "--ratio",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.8,
    show_default=True,
    help="Share of the weights to remove.",
)
@json_option
def command(output: Path, iterations: int, episodes: int, ratio: float, as_json: bool) -> None:
    """Train, evaluate, export, adapt, predict and bench on glyphs; ends with one HTML page.

    Each step is a gems-edge command, printed as it runs. A demo that was stopped goes on where it was.

    \b
    Example:
      gems-edge demo -o demo
    """
    started = time.perf_counter()
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; choose another directory with -o")
    output.mkdir(parents=True, exist_ok=True)
    files = _Files(output)
    results, photos = _run_all(files, iterations, episodes, ratio)
    seconds = time.perf_counter() - started
    _write_page(files, results, photos, seconds)
    if as_json:
        emit({"report": str(files.page), "seconds": round(seconds, 1), **asdict(results)})
        return
    board = results.evaluate_bundle
    click.echo(
        "5-way 1-shot on unseen characters, learned and answered by onnxruntime at ratio "
        f"{results.export['ratio']:.2f}: {accuracy_text(board)} ({board['normalization']})"
    )
    click.echo(f"{clock(seconds)} in all. The page: {files.page.resolve().as_uri()}")


class _Files:
    """What the demo writes into its directory."""

    def __init__(self, directory: Path):
        self.run, self.page = directory / "run", directory / "report.html"
        self.bundle, self.state = directory / "glyphs.gems", directory / "glyphs.state"
        self.support, self.new = directory / "photos" / "support", directory / "photos" / "new"


@dataclass(frozen=True)
class _Results:
    """The --json documents of the demo's commands."""

    evaluate: Document
    export: Document
    evaluate_bundle: Document
    adapt: Document
    predict: list[Document]
    bench: Document


def _run_all(files: _Files, iterations: int, episodes: int, ratio: float) -> tuple[_Results, Photos]:
    count = ("--episodes", episodes)
    resume = ("--resume",) if (files.run / "config.toml").exists() else ()
    _run("train", *TRAINING, "--iterations", iterations, "-o", files.run, *resume)
    evaluation = _run("evaluate", files.run, *count, "--per-step")
    export = _run("export", files.run, "--ratio", f"{ratio:g}", *count, "-o", files.bundle)
    on_board = _run("evaluate", files.bundle, *count)
    photos = _write_photos(files)
    shutil.rmtree(files.state, ignore_errors=True)  # a demo before this one taught another bundle
    adaptation = _run("adapt", files.bundle, "--support", files.support, "-o", files.state)
    answers = _run("predict", files.bundle, "--state", files.state, files.new)
    bench = _run("bench", files.bundle, "--device", BOARDS)
    return _Results(evaluation, export, on_board, adaptation, answers, bench), photos


def _run(*arguments: object) -> Any:
    """Run one gems-edge command in its own process, as a user does, and return its --json document.

    Training takes a process per core where there is no GPU: on small networks that beats threads.
    """
    words = [str(argument) for argument in arguments]
    processes = max(count for count in (1, 2, 4) if count <= len(os.sched_getaffinity(0)))
    if words[0] == "train" and processes > 1 and not Path("/dev/nvidia0").exists():
        torchrun = ["--standalone", "--nproc-per-node", str(processes), "-m"]
        say(f"$ torchrun {' '.join(torchrun)} gems_edge " + " ".join(words))
        launcher = ["-m", "torch.distributed.run", *torchrun, "gems_edge"]
    else:
        say("$ gems-edge " + " ".join(words))
        launcher = ["-m", "gems_edge"]
    environment = {"OMP_NUM_THREADS": "1", **os.environ} if len(launcher) > 2 else None
    result = subprocess.run([sys.executable, *launcher, *words, "--json"], stdout=subprocess.PIPE, env=environment)
    if result.returncode == 2:
        raise UserError(f"the demo stopped at `gems-edge {words[0]}` (see above)")
    if result.returncode:
        raise MachineError(f"the demo stopped at `gems-edge {words[0]}` with exit code {result.returncode} (see above)")
    return json.loads(result.stdout)


def _write_photos(files: _Files) -> Photos:
    """One photo of each of five unseen characters to learn from, and new ones in other typefaces, as PNG files."""
    from PIL import Image

    from gems_edge.data.episodes import make_sampler
    from gems_edge.data.sources import load_images

    glyphs = load_images("glyphs")
    paper = 255 - glyphs.images[..., 0]  # dark ink on white paper, as a camera sees it
    indices = make_sampler(glyphs, "test", TAUGHT, 1, ASKED, seed=7).draw(0, 0)
    files.new.mkdir(parents=True, exist_ok=True)
    photos: Photos = {}
    for row, class_id in enumerate(indices.classes):
        name = glyphs.classes[class_id].split()[0]  # "U+03A9 GREEK CAPITAL LETTER OMEGA" → "U+03A9"
        (files.support / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(paper[indices.support[row, 0]]).save(files.support / name / "1.png")
        photos[name] = [files.new / f"{name}-{number}.png" for number in range(1, ASKED + 1)]
        for index, path in zip(indices.query[row], photos[name]):
            Image.fromarray(paper[index]).save(path)
    return photos


def _write_page(files: _Files, results: _Results, photos: Photos, seconds: float) -> None:
    from gems_edge.files import write_atomic
    from gems_edge.report.bundles import bundle_sections
    from gems_edge.report.page import Picture, Section, render_page
    from gems_edge.report.plots import accuracy_chart
    from gems_edge.report.sections import bench_section, run_sections

    per_step = [row | {"mode": row["normalization"]} for row in results.evaluate["table"]]
    sections = [
        Section("What came out", (_key_figures(results, seconds),)),
        _episode(files, results.predict, photos),
        bench_section(results.bench),
        *run_sections(files.run),
        Section("Accuracy per inner step (dense run)", (Picture(accuracy_chart({"dense": per_step})),)),
        *bundle_sections(files.bundle),
    ]
    subtitle = "Few-shot learning on a small board, from training to cost"
    write_atomic(files.page, render_page("gems-edge demo", sections, subtitle))


def _key_figures(results: _Results, seconds: float) -> "KeyFigures":
    from gems_edge.report.page import KeyFigure, KeyFigures

    board, export, bench, adapt = results.evaluate_bundle, results.export, results.bench, results.adapt
    task = f"5-way 1-shot, ± {percent_text(board['ci95'])}, mode {board['normalization']}, ratio {export['ratio']:.2f}"
    fewer, step = export["params_before"] / export["params_after"], bench["adapt"]
    taught = f"{adapt['steps']} steps on {adapt['images']} photos"
    return KeyFigures((
        KeyFigure("accuracy on the board's runtime", f"{percent_text(board['accuracy'])} %", task, "measured"),
        KeyFigure("fewer parameters", f"{fewer:.1f}×", f"{export['params_after']:,} left", "counted"),
        KeyFigure("predict, one image", f"{bench['predict']['p50']:.2f} ms", "this machine, p50", "measured"),
        KeyFigure("gradient step", f"{step['p50']:.1f} ms", f"this machine, {step['images']} images, p50", "measured"),
        KeyFigure("peak memory of teaching", f"{adapt['peak_rss_mb']} MB", taught, "measured"),
        KeyFigure("the whole demo", f"{seconds:.0f} s", "this machine", "measured"),
    ))  # fmt: skip


def _episode(files: _Files, answers: Sequence[Document], photos: Photos) -> "Section":
    import numpy as np

    from gems_edge.images import open_image
    from gems_edge.report.sections import Query, episode_section

    def pixels(path: Path) -> np.ndarray:
        with open_image(path, str(path)) as image:
            return np.asarray(image)

    answer_of = {Path(answer["image"]).name: answer for answer in answers}

    def query(path: Path) -> Query:
        answer = answer_of[path.name]
        return Query(pixels(path), answer["label"], answer["probability"])

    return episode_section(
        list(photos),
        [[pixels(files.support / name / "1.png")] for name in photos],
        [[query(path) for path in paths] for paths in photos.values()],
        "Five characters it had never seen, one photo each",
        "Each row: the photo it learned from, then new ones.",
    )
