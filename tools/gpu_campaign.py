"""What only a GPU can measure, in pieces of less than ten minutes that go on where they were stopped.

    python tools/gpu_campaign.py DIR                          the pieces that are not done, as far as 9 minutes go
    python tools/gpu_campaign.py DIR --minutes 25 --data packed:miniimagenet.npz
    python tools/gpu_campaign.py DIR --status                 what is done and what still waits for a GPU
    python tools/gpu_campaign.py DIR --publish docs/results   keeps what is known as gpu.json and gpu.md

Pieces: equality of fp32, tf32 and bf16 with float64; nccl with one process; a meta-iteration's seconds and the GPU's
utilisation against learn2learn and plain torch; then the papers' own training, resumed call by call. Each runs as a
process of its own; DIR/campaign.json is written after each, and the next call goes on with a piece that did not end in
time. Exit code 1 where a piece failed.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from gems_edge import __version__
from gems_edge.errors import UserError
from gems_edge.files import opened_to_append, read_json, write_atomic
from gems_edge.reproduce.job import try_lock
from gems_edge.reproduce.published import publish
from gems_edge.torchrun import torchrun

TOOLS = Path(__file__).parent
STATE = "campaign.json"
DONE, FAILED, WAITING, BEGUN = "done", "failed", "waits for a GPU", "begun"
# Less is not worth the start of a process that imports torch and warms a GPU up.
LEAST_SECONDS = 20.0


@dataclass(frozen=True)
class Piece:
    name: str
    about: str
    command: tuple[str, ...]  # Python's arguments, or whole where `launcher` is given
    result: str = ""  # the JSON that it leaves, in DIR
    launcher: tuple[str, ...] = ()
    resumes: tuple[str, ...] = ()  # the arguments that go on with what `made` shows was begun
    made: str = ""  # in DIR

    def words(self, directory: Path) -> list[str]:
        begun = self.resumes and (directory / self.made).exists()
        return [*(self.launcher or (sys.executable,)), *(self.resumes if begun else self.command)]


def pieces(directory: Path, compute: str, data: str, peers: bool) -> list[Piece]:
    """In the order in which they run: what decides whether the others mean anything comes first."""
    benchmark = ("--compute", compute, *(() if peers else ("--without-peers",)))

    def timed(name: str, backbone: str, size: int) -> Piece:
        file = f"{name}.json"
        command = (
            str(TOOLS / "bench_training.py"), "-o", str(directory / file), "--backbone", backbone, "--size", str(size),
            "--method", "maml", *benchmark,
        )  # fmt: skip
        return Piece(name, f"a meta-iteration of {backbone} at {size} px", command, file)

    train = ("-m", "gems_edge", "train")
    tiny = ("--compute", compute, "--iterations", "5", "--widths", "8", "--queries", "3", "--validation-episodes", "4")
    paper = (
        *train, "--data", data, "--compute", compute, "--head", "per-class", "--normalization", "transductive",
        "--shots", "1", "--inner-lr", "0.01", "--schedule", "constant", "--iterations", "60000", "--validate-every",
        "2000", "--validation-episodes", "600", "--checkpoint-every", "250", "-o", str(directory / "paper"),
    )  # fmt: skip
    return [
        Piece(
            "equality", "meta-gradients in fp64, fp32, tf32 and bf16 against the CPU's in float64",
            (str(TOOLS / "gpu_equality.py"), str(directory / "equality.json"), "--compute", compute), "equality.json",
        ),
        Piece(
            "one-process group", "training under torchrun with one process (nccl on a GPU)",
            (*train, *tiny, "-o", str(directory / "group")), launcher=tuple(torchrun(1)),
            resumes=(*train, "--resume", "-o", str(directory / "group")), made="group/config.toml",
        ),
        timed("conv4-84", "conv4", 84), timed("resnet12-84", "resnet12", 84),
        timed("lite0-128", "efficientnet-lite0", 128),
        Piece(
            "paper", f"MAML, Conv-4, 60,000 iterations on {data}", paper,
            resumes=(*train, "--resume", "-o", str(directory / "paper")), made="paper/config.toml",
        ),
    ]  # fmt: skip


def read_state(directory: Path, compute: str) -> dict:
    """UserError for a state of another device: the two would be mixed on one page."""
    path = directory / STATE
    if not path.exists():
        return {"compute": compute, "version": __version__, "pieces": {}}
    state = read_json(path, "campaign")
    if not isinstance(state, dict) or "pieces" not in state:
        raise UserError(f"{path} is no campaign's; choose another directory")
    if state["compute"] != compute:
        raise UserError(f"{path} is of --compute {state['compute']}; choose another directory for {compute}")
    return state


def campaign(
    directory: Path, wanted: Sequence[Piece], state: dict, seconds: float, least: float = LEAST_SECONDS
) -> bool:
    """Run what is not done for so many seconds; whether nothing failed. The state is written after every piece.

    None is started with less than `least` seconds left.
    """
    end, fine = time.monotonic() + seconds, True
    for piece in wanted:
        entry = state["pieces"].setdefault(piece.name, {"status": WAITING, "seconds": 0.0})
        left = end - time.monotonic()
        if entry["status"] == DONE or left < least:
            continue
        started = time.monotonic()
        entry["status"], reason = run_piece(piece, directory, left)
        entry["seconds"] += time.monotonic() - started
        entry["reason"] = reason
        if piece.result and (directory / piece.result).exists():
            entry["result"] = read_json(directory / piece.result, piece.name)
        write_atomic(directory / STATE, json.dumps(state, indent=1) + "\n")
        print(f"{piece.name}: {entry['status']} {reason}".rstrip(), flush=True)
        fine &= entry["status"] != FAILED
    return fine


def run_piece(piece: Piece, directory: Path, seconds: float) -> tuple[str, str]:
    """Its status, and in one line why where it failed; its words are added to DIR/NAME.log."""
    paths = [str(TOOLS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    with open(directory / f"{piece.name}.log", "ab") as log:
        process = subprocess.Popen(piece.words(directory), stdout=log, stderr=log, env=environment)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.terminate()  # training leaves its last checkpoint behind
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            return BEGUN, ""
    if code == 0:
        return DONE, ""
    lines = (directory / f"{piece.name}.log").read_text(errors="replace").strip().splitlines()
    return FAILED, lines[-1][:200] if lines else f"exit code {code}"


def document(wanted: Sequence[Piece], state: dict) -> dict:
    """What docs/results takes in."""
    rows = [
        {"name": piece.name, "about": piece.about, **{"status": WAITING, "seconds": 0.0},
         **state["pieces"].get(piece.name, {})}
        for piece in wanted
    ]  # fmt: skip
    command = "python tools/gpu_campaign.py"
    return {"title": "On a GPU", "command": command, "compute": state["compute"], "version": state["version"],
            "pieces": rows}  # fmt: skip


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--minutes", type=click.FloatRange(0, 600, min_open=True), default=9.0, show_default=True)
@click.option("--compute", type=click.Choice(["cpu", "cuda"]), default="cuda", show_default=True)
@click.option("--data", default="glyphs", show_default=True, help="Images of the papers' own training.")
@click.option("--only", multiple=True, help="Only this piece; more than once.")
@click.option("--without-peers", is_flag=True, help="Plain torch is the only peer: nothing is installed.")
@click.option("--status", is_flag=True, help="Run nothing.")
@click.option("--publish", "published", type=click.Path(path_type=Path), help="Keep the results and their page there.")
def main(directory, minutes, compute, data, only, without_peers, status, published):
    try:
        state = read_state(directory, compute)
    except UserError as error:
        raise click.UsageError(str(error)) from None
    wanted = pieces(directory, compute, data, not without_peers)
    if unknown := set(only) - {piece.name for piece in wanted}:
        raise click.UsageError(f"--only {sorted(unknown)[0]}: choose from {', '.join(p.name for p in wanted)}")
    chosen = [piece for piece in wanted if not only or piece.name in only]
    fine = True
    if not (status or published):
        directory.mkdir(parents=True, exist_ok=True)
        with opened_to_append(directory / "lock") as lock:
            if not try_lock(lock):
                raise click.UsageError(f"another campaign is at work in {directory}; wait for its end")
            fine = campaign(directory, chosen, state, 60 * minutes)
    for row in document(wanted, state)["pieces"]:
        print(f"{row['name']:18} {row['status']:16} {row['seconds']:7.0f} s   {row['about']}")
    if published:
        publish(published, "gpu", document(wanted, state))
    sys.exit(not fine)


if __name__ == "__main__":
    main()
