"""What reads each kind of file, as a user meets it: the real commands, or the library where a command does more.

A reader is called in the folder of its subject and returns in text what the file made happen, without times.
"""

import contextlib
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

HOST = "board"


def call(*arguments: object) -> str:
    """What a gems-edge command says on stdout; its errors are raised."""
    from gems_edge.cli.main import group

    with contextlib.redirect_stdout(io.StringIO()) as said:
        group.main(list(map(str, arguments)), standalone_mode=False)
    return said.getvalue()


def bundle() -> str:
    """Taught with photos, and asked."""
    call("adapt", "subject.gems", "--support", "photos", "-o", "out/taught.state", "--threads", 1)
    return call("predict", "subject.gems", "--state", "out/taught.state", "query", "--threads", 1, "--json")


def state() -> str:
    answers = call("predict", "bundle.gems", "--state", "subject.state", "query", "--threads", 1, "--json")
    taught = json.loads(call("teach", "bundle.gems", "subject.state", "--list", "--json"))
    return answers + json.dumps({name: value for name, value in taught.items() if name != "state_bytes"})


def selftest() -> str:
    return call("verify", "subject.gems", "--run", "--json")


def installation() -> str:
    """What the bundle in use was taught is taught to the next, and rolled back; an installation does more only in
    processes of its own."""
    from gems_edge.device.bundle import read_bundle
    from gems_edge.device.carry import carry, read_lesson
    from gems_edge.device.exam import examine
    from gems_edge.device.installation import current_slot

    slot = current_slot(Path("subject"))
    if slot is None or slot.state is None:
        return f"nothing in use: {slot}"
    lesson = read_lesson(read_bundle(slot.bundle), slot.state)
    learner, by = carry(lesson, read_bundle("next.gems"), 1)
    learner.save("out/next.state")
    marks = examine(learner.bundle, Path("out/next.state"), lesson, 1)
    went = call("rollback", "subject", "--json")
    current = "subject/current"
    state = ("--state", f"{current}/taught.state")
    answers = call("predict", f"{current}/bundle.gems", *state, "query", "--threads", 1, "--json")
    return f"{by} {marks.right} {marks.asked} {went} {answers}"


def image() -> str:
    from gems_edge.images import decode_image

    path = next(Path().glob("subject.*"), Path("subject.png"))  # it may be gone
    shapes = [(84, 3), (28, 1)]  # a colour bundle, and a grey one
    return ",".join(
        hashlib.sha256(decode_image(path, size, channels).tobytes()).hexdigest() for size, channels in shapes
    )


def packed() -> str:
    from gems_edge.data.packed import read_packed

    images = read_packed("subject.npz")
    call("data", "show", "packed:subject.npz", "-o", "out/sheet.png", "--json")
    return f"{images.classes} {images.label} {hashlib.sha256(images.images.tobytes()).hexdigest()}"


def config() -> str:
    from gems_edge.meta.settings.base import to_table
    from gems_edge.meta.settings.run import read_config, write_config

    settings = read_config("subject.toml")
    write_config(Path("out/config.toml"), settings)
    return json.dumps(to_table(settings), sort_keys=True)


def profile() -> str:
    call("devices", "check", "subject.toml")
    call("devices", "show", "subject.toml")
    return call(
        "devices", "predict", "model.onnx", "--device", "./subject.toml", "--dims", "images=1,classes=3", "--json"
    )


def ticket() -> str:
    return call("ticket", "show", "subject.ticket", "--json")


def run() -> str:
    return call("evaluate", "subject", "--episodes", 2, "--compute", "cpu", "--json")


def checkpoint() -> str:
    """Gone on with."""
    from gems_edge.meta.run import Run

    call("train", "--resume", "-o", "subject")
    weights = Run("subject").weights()
    return hashlib.sha256(b"".join(weights[name].numpy().tobytes() for name in sorted(weights))).hexdigest()


def exchanged() -> str:
    return run()


def exported() -> str:
    return bundle()


def verify() -> str:
    return call("verify", next(Path().glob("subject*")), "--json")


def trust() -> str:
    """Looked at, and opened with a copy of the trust file, which takes down the release."""
    from gems_edge.device.bundle import read_bundle
    from gems_edge.device.trust import Trust

    told = call("verify", "subject.gems", "--trust", "trust/makers", "--json")
    shutil.copytree("trust", "out/trust")
    return told + read_bundle("subject.gems", Trust(Path("out/trust/makers"))).hash


def facts() -> str:
    from gems_edge.remote.board import _board
    from gems_edge.remote.untrusted import read_object

    return repr(_board(read_object(Path("subject.json").read_bytes(), HOST), HOST))


def answers() -> str:
    from gems_edge.cli.bench_text import bench_text
    from gems_edge.remote.answers import read_answers
    from gems_edge.remote.untrusted import read_object

    outcome = read_object(Path("subject.json").read_bytes(), HOST)
    measured, answered = read_answers(outcome, np.full((2, 3), 1 / 3), HOST)
    remote = {"host": HOST, **answered, "copied_bytes": 1, "reconnections": 0, "kept": None}
    return bench_text(measured | {"bundle": "b.gems", "remote": remote, "devices": {}, "steps": 5})


READERS: dict[str, Callable[[], str]] = {
    reader.__name__: reader
    for reader in (
        bundle,
        selftest,
        installation,
        state,
        image,
        packed,
        config,
        profile,
        ticket,
        run,
        checkpoint,
        exchanged,
        exported,
        verify,
        trust,
        facts,
        answers,
    )
}
