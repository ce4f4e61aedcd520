"""gems-edge demo: the whole path on glyphs, by the very commands that a user would type."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import click

from gems_edge.cli.common import emit, json_option, say
from gems_edge.cli.progress import clock
from gems_edge.errors import MachineError, UserError
from gems_edge.wording import accuracy_text, percent_text

BOARDS = "rpi-4b,rpi-zero-2w"
# Classes that the demo teaches, and images of each that it then asks about.
TAUGHT, ASKED = 5, 6


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default="demo",
    show_default=True,
    help="Directory for everything the demo makes.",
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
def command(output, iterations, episodes, ratio, as_json):
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
    run, bundle, state = output / "run", output / "glyphs.gems", output / "glyphs.state"
    count = ["--episodes", str(episodes)]
    training = [
        "--widths",
        "48",
        "--steps",
        "3",
        "--inner-lr",
        "0.1",
        "--queries",
        "5",
        "--iterations",
        str(iterations),
    ]
    resume = ["--resume"] if (run / "config.toml").exists() else []
    _run("train", "--data", "glyphs", *training, "-o", str(run), *resume)
    evaluation = _run("evaluate", str(run), *count, "--per-step")
    export = _run("export", str(run), "--ratio", f"{ratio:g}", *count, "-o", str(bundle))
    on_board = _run("evaluate", str(bundle), *count)
    episode = _write_photos(output / "photos")
    adaptation = _run("adapt", str(bundle), "--support", str(output / "photos" / "support"), "-o", str(state))
    answers = _run("predict", str(bundle), "--state", str(state), str(output / "photos" / "new"))
    bench = _run("bench", str(bundle), "--device", BOARDS)

    page = output / "report.html"
    seconds = time.perf_counter() - started
    _write_page(page, run, bundle, evaluation, export, on_board, episode, adaptation, answers, bench, seconds)
    if as_json:
        emit({
            "report": str(page), "seconds": round(seconds, 1), "evaluate": evaluation, "export": export,
            "evaluate_bundle": on_board, "adapt": adaptation, "predict": answers, "bench": bench,
        })  # fmt: skip
        return
    click.echo(
        f"5-way 1-shot on unseen characters, learned and answered by onnxruntime at ratio {export['ratio']:.2f}: "
        f"{accuracy_text(on_board)} ({on_board['normalization']})"
    )
    click.echo(f"{clock(seconds)} in all. The page: {page.resolve().as_uri()}")


def _run(*arguments: str):
    """Run one gems-edge command in its own process, as a user does, and return its --json document.

    Training takes a process per core where there is no GPU: on small networks that beats threads.
    """
    processes = max(count for count in (1, 2, 4) if count <= len(os.sched_getaffinity(0)))
    if arguments[0] == "train" and processes > 1 and not Path("/dev/nvidia0").exists():
        torchrun = ["--standalone", "--nproc-per-node", str(processes), "-m"]
        say(f"$ torchrun {' '.join(torchrun)} gems_edge " + " ".join(arguments))
        launcher = ["-m", "torch.distributed.run", *torchrun, "gems_edge"]
    else:
        say("$ gems-edge " + " ".join(arguments))
        launcher = ["-m", "gems_edge"]
    environment = {"OMP_NUM_THREADS": "1", **os.environ} if len(launcher) > 2 else None
    result = subprocess.run([sys.executable, *launcher, *arguments, "--json"], stdout=subprocess.PIPE, env=environment)
    if result.returncode == 2:
        raise UserError(f"the demo stopped at `gems-edge {arguments[0]}` (see above)")
    if result.returncode:
        raise MachineError(
            f"the demo stopped at `gems-edge {arguments[0]}` with exit code {result.returncode} (see above)"
        )
    return json.loads(result.stdout)


def _write_photos(directory: Path) -> dict[str, list]:
    """One photo of each of five unseen characters to learn from, and new ones in other typefaces, as PNG files.

    Returns {folder name: [paths to ask about]}.
    """
    from PIL import Image

    from gems_edge.data.episodes import make_sampler
    from gems_edge.data.sources import load_images

    glyphs = load_images("glyphs")
    indices = make_sampler(glyphs, "test", TAUGHT, 1, ASKED, seed=7).draw(0, 0)
    asked = {}
    for row, class_id in enumerate(indices.classes):
        name = _folder_name(glyphs.classes[class_id])
        (directory / "support" / name).mkdir(parents=True, exist_ok=True)
        (directory / "new").mkdir(parents=True, exist_ok=True)
        paper = 255 - glyphs.images  # dark ink on white paper, as a camera sees it
        Image.fromarray(paper[indices.support[row, 0], :, :, 0]).save(directory / "support" / name / "1.png")
        asked[name] = []
        for number, index in enumerate(indices.query[row], 1):
            path = directory / "new" / f"{name}-{number}.png"
            Image.fromarray(paper[index, :, :, 0]).save(path)
            asked[name].append(path)
    return asked


def _folder_name(class_name: str) -> str:
    """ "U+03A9 GREEK CAPITAL LETTER OMEGA" → "U+03A9"."""
    return class_name.split()[0]


def _write_page(page, run, bundle, evaluation, export, on_board, episode, adaptation, answers, bench, seconds) -> None:
    import numpy as np

    from gems_edge.files import write_atomic
    from gems_edge.images import open_image
    from gems_edge.report.page import KeyFigure, KeyFigures, Picture, Section, render_page
    from gems_edge.report.plots import accuracy_chart
    from gems_edge.report.sections import Query, bench_section, bundle_sections, episode_section, run_sections

    def pixels(path):
        with open_image(path, str(path)) as image:
            return np.asarray(image)

    by_name = {Path(answer["image"]).name: answer for answer in answers}
    support = [[pixels(page.parent / "photos" / "support" / name / "1.png")] for name in episode]
    queries = [
        [Query(pixels(p), by_name[p.name]["label"], by_name[p.name]["probability"]) for p in paths]
        for paths in episode.values()
    ]
    figures = KeyFigures((
        KeyFigure("accuracy on the board's runtime", f"{100 * on_board['accuracy']:.1f} %", f"5-way 1-shot, ± {percent_text(on_board['ci95'])}, mode {on_board['normalization']}, ratio {export['ratio']:.2f}", "measured"),
        KeyFigure("fewer parameters", f"{export['params_before'] / export['params_after']:.1f}×", f"{export['params_after']:,} left", "counted"),
        KeyFigure("predict, one image", f"{bench['predict']['p50']:.2f} ms", "this machine, p50", "measured"),
        KeyFigure("gradient step", f"{bench['adapt']['p50']:.1f} ms", f"this machine, {bench['adapt']['images']} images, p50", "measured"),
        KeyFigure("peak memory of teaching", f"{adaptation['peak_rss_mb']} MB", f"{adaptation['steps']} steps on {adaptation['images']} photos", "measured"),
        KeyFigure("the whole demo", f"{seconds:.0f} s", "this machine", "measured"),
    ))  # fmt: skip
    per_step = [row | {"mode": row["normalization"]} for row in evaluation["table"]]
    sections = [
        Section("What came out", (figures,)),
        episode_section(
            list(episode),
            support,
            queries,
            "Five characters it had never seen, one photo each",
            "Each row: the photo it learned from, then new ones.",
        ),
        bench_section(bench),
        *run_sections(run),
        Section("Accuracy per inner step (dense run)", (Picture(accuracy_chart({"dense": per_step})),)),
        *bundle_sections(bundle),
    ]
    write_atomic(
        page, render_page("gems-edge demo", sections, "Few-shot learning on a small board, from training to cost")
    )
