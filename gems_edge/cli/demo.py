"""gems-edge demo: the whole path on glyphs or on the user's photos, by the very commands that a user would type."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from gems_edge.cli.common import PATH, FiniteRange, emit, json_option, say
from gems_edge.clock import clock
from gems_edge.control_groups import available_cores
from gems_edge.data import limits
from gems_edge.data.specs import specs_text
from gems_edge.errors import MachineError, UserError
from gems_edge.meta.settings.run import read_config
from gems_edge.places import check_room
from gems_edge.report.demo import DemoFiles, DemoResults, Photos, Subject, write_page
from gems_edge.torchrun import torchrun
from gems_edge.wording import accuracy_text, protocol_text

BOARDS = "rpi-4b,rpi-zero-2w"
# Classes that the demo teaches, and images of each that it then asks about.
TAUGHT, ASKED = 5, 6
# Pixels on a side of the photos that the demo writes.
PHOTO_SIZE = 128

GLYPHS = Subject(
    data="glyphs",
    training=("--widths", 48, "--shots", 1, "--steps", 3, "--inner-lr", 0.1, "--queries", 5, "--iterations", 450),
    ratio=0.8,
    noun="characters",
    many_processes=True,
)


def of_photos(path: Path) -> Subject:
    """The user's own photos, with a pretrained body and the defaults that belong to it."""
    kind = "packed" if path.suffix == ".npz" else "folder"
    if not path.exists():
        raise UserError(
            f"--photos {path} does not exist; give a folder with one sub-folder per class, or a packed file"
        )
    training = ("--backbone", "efficientnet-lite0", "--init", "pretrained")
    return Subject(f"{kind}:{path.resolve()}", training, ratio=0.0, noun="classes", many_processes=False)


@click.command()
@click.option(
    "-o", "--output", type=PATH, help="Directory for everything the demo makes.  [default: demo; photos: photo-demo]"
)
@click.option(
    "--photos", type=PATH, help="Your own photos (a folder per class, or a packed file) with a pretrained body."
)
@click.option(
    "--iterations",
    type=click.IntRange(1, limits.ITERATIONS),
    help="Meta-training iterations.  [default: 450; photos: 240]",
)
@click.option(
    "--episodes",
    type=click.IntRange(2, limits.EPISODES),
    default=200,
    show_default=True,
    help="Test episodes per evaluation.",
)
@click.option(
    "--ratio", type=FiniteRange(0, 1, max_open=True),
    help="Share of the weights to remove.  [default: 0.8; photos: 0]",
)  # fmt: skip
@json_option
def command(
    output: Path | None, photos: Path | None, iterations: int | None, episodes: int, ratio: float | None, as_json: bool
) -> None:
    """Train, evaluate, export, adapt, predict and bench; ends with one HTML page.

    On glyphs it needs nothing but itself; with --photos it does the same with a pretrained body on your photos. Each
    step is a gems-edge command, printed as it runs. A demo that was stopped goes on where it was.

    \b
    Examples:
      gems-edge demo -o demo
      gems-edge demo --photos photos -o photo-demo
    """
    started = time.perf_counter()
    subject = GLYPHS if photos is None else of_photos(photos)
    files = _opened(output or Path("demo" if photos is None else "photo-demo"), subject)
    training = (*subject.training, *(() if iterations is None else ("--iterations", iterations)))
    removed = subject.ratio if ratio is None else ratio
    results, new = _run_all(files, subject, training, episodes, removed)
    seconds = time.perf_counter() - started
    write_page(files, subject, results, new, seconds)
    if as_json:
        emit({"report": str(files.page), "seconds": round(seconds, 1), **asdict(results)})
        return
    board = results.evaluate_bundle
    removed_text = f" at ratio {results.export['ratio']:.2f}" if results.export["ratio"] else ""
    click.echo(
        f"{protocol_text(board)} on unseen {subject.noun}, learned and answered by onnxruntime{removed_text}: "
        f"{accuracy_text(board)} ({board['normalization']})"
    )
    click.echo(f"{clock(seconds)} in all. The page: {files.page.resolve().as_uri()}")


def _opened(directory: Path, subject: Subject) -> DemoFiles:
    """What the demo writes into this directory, which is made; UserError for a file, and for another demo's."""
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file; choose another directory with -o")
    files = DemoFiles(directory)
    config = files.run / "config.toml"
    if config.exists() and (data := read_config(config).data) != (subject.data,):
        raise UserError(f"{directory} holds a demo of {specs_text(data)}; choose another directory with -o")
    directory.mkdir(parents=True, exist_ok=True)
    check_room(directory)
    return files


def _run_all(
    files: DemoFiles, subject: Subject, training: tuple[object, ...], episodes: int, ratio: float
) -> tuple[DemoResults, Photos]:
    count = ("--episodes", episodes)
    resume = ("--resume",) if (files.run / "config.toml").exists() else ()
    _run("train", "--data", subject.data, *training, "-o", files.run, *resume, many=subject.many_processes)
    evaluation = _run("evaluate", files.run, *count, "--per-step")
    export = _run("export", files.run, "--ratio", f"{ratio:g}", *count, "-o", files.bundle)
    # A bundle does not know where its images lie; of those that need no place it has the bar of untrained weights.
    data = ("--data", subject.data) if ":" in subject.data else ()
    on_board = _run("evaluate", files.bundle, *data, *count)
    photos = _write_photos(files, subject)
    shutil.rmtree(files.state, ignore_errors=True)  # a demo before this one taught another bundle
    adaptation = _run("adapt", files.bundle, "--support", files.support, "-o", files.state)
    answers = _run("predict", files.bundle, "--state", files.state, files.new)
    bench = _run("bench", files.bundle, "--device", BOARDS)
    return DemoResults(evaluation, export, on_board, adaptation, answers, bench), photos


def _run(*arguments: object, many: bool = False) -> Any:
    """Run one gems-edge command in its own process, as a user does, and return its --json document.

    `many`: on a machine without a GPU a process per core; on small networks that beats threads.
    """
    words = [str(argument) for argument in arguments]
    processes = max(count for count in (1, 2, 4) if count <= available_cores())
    if many and processes > 1 and not Path("/dev/nvidia0").exists():
        say(f"$ torchrun --standalone --nproc-per-node {processes} -m gems_edge " + " ".join(words))
        launcher = torchrun(processes)
    else:
        say("$ gems-edge " + " ".join(words))
        launcher = [sys.executable]
    environment = {"OMP_NUM_THREADS": "1", **os.environ} if len(launcher) > 1 else None
    command = [*launcher, "-m", "gems_edge", *words, "--json"]
    result = subprocess.run(command, stdout=subprocess.PIPE, env=environment)
    if result.returncode == 2:
        raise UserError(f"the demo stopped at `gems-edge {words[0]}` (see above)")
    if result.returncode:
        raise MachineError(f"the demo stopped at `gems-edge {words[0]}` with exit code {result.returncode} (see above)")
    return json.loads(result.stdout)


def _write_photos(files: DemoFiles, subject: Subject) -> Photos:
    """One photo of each of a few unseen classes to learn from, and new ones to ask about, as PNG files."""
    from PIL import Image

    from gems_edge.data.episodes import make_sampler
    from gems_edge.data.sources import load_images

    images = load_images(subject.data, image_size=None if subject is GLYPHS else PHOTO_SIZE)
    pixels = 255 - images.images if images.inverted else images.images  # as a camera sees it
    sampler = make_sampler(images, "test", min(TAUGHT, len(images.of_split("test"))), 1, ASKED, seed=7)
    drawn = sampler.draw(0, 0)
    shutil.rmtree(files.support, ignore_errors=True)
    shutil.rmtree(files.new, ignore_errors=True)
    files.new.mkdir(parents=True, exist_ok=True)
    photos: Photos = {}

    def write(index: int, path: Path) -> None:
        Image.fromarray(pixels[index].squeeze()).save(path)

    for row, class_id in enumerate(drawn.classes):
        name = _folder_name(images.classes[class_id], subject)
        (files.support / name).mkdir(parents=True, exist_ok=True)
        write(drawn.support[row], files.support / name / "1.png")
        photos[name] = [files.new / f"{name}-{number}.png" for number in range(1, ASKED + 1)]
        for index, path in zip(drawn.query[row], photos[name]):
            write(index, path)
    return photos


def _folder_name(name: str, subject: Subject) -> str:
    """A class's name as a folder's: "U+03A9 GREEK CAPITAL LETTER OMEGA" → "U+03A9"."""
    return name.split()[0] if subject is GLYPHS else name.replace("/", "-").strip(". ") or "class"
