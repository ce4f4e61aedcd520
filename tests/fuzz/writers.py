"""Who writes what a user keeps: states, installed bundles, packed files, runs, tickets and bundles; how it is begun,
and looked at again.

All is called in a folder of its own, by forked processes: see kills.py.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import handmade
from readers import call
from valid import LABELS, PHOTOS, settings, train_run, write_photos

# The folder that is written to, and of which a cut leaves a part.
KEPT = Path("kept")


@dataclass(frozen=True)
class Writer:
    """`prepare`: what it works on, and what it kept before. `write`: the command, begun or begun again. `look`: what is
    there, in text; raises if that is not whole."""

    name: str
    prepare: Callable[[], None]
    write: Callable[[], None]
    look: Callable[[], str]


def _prepare_adapt() -> None:
    handmade.write_bundle(Path("bundle.gems"), steps=2)
    handmade.write_pictures(Path("old"), PHOTOS[::-1], LABELS)
    handmade.write_pictures(Path("photos"), PHOTOS, LABELS)
    call("adapt", "bundle.gems", "--support", "old", "-o", KEPT / "a.state", "--threads", 1)


def _adapt() -> None:
    call("adapt", "bundle.gems", "--support", "photos", "-o", KEPT / "a.state", "--threads", 1)


def _state() -> str:
    from gems_edge.device.bundle import read_bundle
    from gems_edge.device.state import load_state

    return _tensors(load_state(KEPT / "a.state", read_bundle("bundle.gems").hash))


def _prepare_teach() -> None:
    """A state that was taught three classes, and added to once; photos of these and of a fourth are at hand."""
    handmade.write_bundle(Path("bundle.gems"), steps=2)
    for seed, (name, classes) in enumerate({"first": 3, "second": 3, "third": 4}.items()):
        handmade.write_pictures(Path(name), *handmade.pictures(classes, 2, seed=seed))
    call("adapt", "bundle.gems", "--support", "first", "-o", KEPT / "a.state", "--threads", 1)
    call("teach", "bundle.gems", KEPT / "a.state", "--add", "second", "--threads", 1)


def _teach(*change: object) -> Callable[[], None]:
    """Once: a second time it would be another change."""

    def teach() -> None:
        from gems_edge.device.bundle import read_bundle
        from gems_edge.device.state import load_state

        if load_state(KEPT / "a.state", read_bundle("bundle.gems").hash).generation == 2:
            call("teach", "bundle.gems", KEPT / "a.state", *change, "--threads", 1)

    return teach


def _taught() -> str:
    """The weights and the history, and every photo that either names is there."""
    from gems_edge.device.bundle import read_bundle
    from gems_edge.device.history import files_of
    from gems_edge.device.photos import read_photo
    from gems_edge.device.state import load_state

    state = load_state(KEPT / "a.state", read_bundle("bundle.gems").hash)
    for file in files_of(state.versions):
        read_photo(KEPT / "a.state", file)
    return f"{state.generation} {state.classes} {_tensors(state)} {state.versions}"


def _tensors(state: Any) -> str:
    return hashlib.sha256(b"".join(state.tensors[name].tobytes() for name in sorted(state.tensors))).hexdigest()


def _prepare_install() -> None:
    """A bundle that is taught, another that took its place, and a third to install."""
    for number in (1, 2, 3):
        handmade.write_tested(Path(f"{number}.gems"), steps=number)
    handmade.write_pictures(Path("photos"), PHOTOS, LABELS)
    current = KEPT / "board" / "current"
    _install("1.gems")
    call("adapt", current / "bundle.gems", "--support", "photos", "-o", current / "taught.state", "--threads", 1)
    _install("2.gems")


def _install(bundle: str = "3.gems") -> None:
    call("install", bundle, "--into", KEPT / "board", "--threads", 1, "--most-time", 1e6, "--most-memory", 1e6)


def _prepare_rollback() -> None:
    _prepare_install()
    shutil.rmtree("3.gems")


def _rollback() -> None:
    """Once: a second time it would go forth again."""
    if os.readlink(KEPT / "board" / "current") != "1":
        call("rollback", KEPT / "board")


def _installed() -> str:
    """The bundle in use, what it was taught, and that there is one to go back to, with all that."""
    from gems_edge.device.installation import current_slot, previous_slot

    current = current_slot(KEPT / "board")
    assert current is not None
    previous = previous_slot(KEPT / "board", current)
    assert previous is not None
    _slot(previous)
    return _slot(current)


def _slot(slot: Any) -> str:
    from gems_edge.device.bundle import read_bundle
    from gems_edge.device.carry import read_lesson

    bundle = read_bundle(slot.bundle)
    lesson = read_lesson(bundle, slot.state)
    assert len(lesson.album.photos) == len(LABELS)
    return f"{bundle.steps} {_tensors(lesson.state)}"


def _prepare_pack() -> None:
    write_photos(Path("photos"))
    call("data", "pack", "photos", "-o", KEPT / "a.npz", "--image-size", 20)


def _pack() -> None:
    call("data", "pack", "photos", "-o", KEPT / "a.npz", "--image-size", 16)


def _packed() -> str:
    from gems_edge.data.packed import read_packed

    return str(read_packed(KEPT / "a.npz").images.shape)


def _prepare_train(**changes: Any) -> None:
    from gems_edge.meta.settings.run import write_config

    write_config(Path("config.toml"), settings(Path(), **changes))


def _prepare_search() -> None:
    _prepare_train(ticket={"method": "mwt", "ratio": 0.3, "rounds": 2}, iterations=2)


def _train() -> None:
    """Begun, or gone on with."""
    run = KEPT / "run"
    call("train", *(["--resume"] if (run / "config.toml").exists() else ["--config", "config.toml"]), "-o", run)


def _run() -> str:
    """Its weights, where it has any yet; its checkpoint must be whole, or not there."""
    from gems_edge.meta.run import Run

    run = Run(KEPT / "run")
    checkpoint = run.checkpoint() if run.config_path.exists() else None
    return "" if checkpoint is None or checkpoint.iteration < 5 else _digest(run.weights_path)


def _searched() -> str:
    from gems_edge.meta.run import Run

    run = Run(KEPT / "run")
    if not run.config_path.exists() or not run.ticket_path.exists() or run.checkpoint() is None:
        return ""
    return _masks(run.ticket_path) + _digest(run.weights_path) if run.finished() else ""


def _prepare_find() -> None:
    train_run(Path())
    call("ticket", "find", "subject", "--ticket", "mwt", "--ratio", 0.5, "-o", KEPT / "a.ticket")


def _find() -> None:
    call("ticket", "find", "subject", "--ticket", "mwt", "--ratio", 0.3, "-o", KEPT / "a.ticket")


def _ticket() -> str:
    return _masks(KEPT / "a.ticket")


def _prepare_export() -> None:
    train_run(Path(), widths=[16])
    _export(steps=2)


def _export(steps: int = 1) -> None:
    options = ("--ratio", 0, "--recover-iterations", 0, "--episodes", 2)
    call("export", "subject", *options, "--steps", steps, "-o", KEPT / "a.gems")


def _bundle() -> str:
    from gems_edge.device.bundle import read_bundle

    return str(read_bundle(KEPT / "a.gems").steps)


def _masks(path: Path) -> str:
    """Of a ticket, which also says how many seconds it took to find."""
    from gems_edge.models.ticket import load_ticket

    masks = load_ticket(path).masks
    return hashlib.sha256(b"".join(masks[name].tobytes() for name in sorted(masks))).hexdigest()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


WRITERS = {
    writer.name: writer
    for writer in (
        Writer("adapt", _prepare_adapt, _adapt, _state),
        Writer("add", _prepare_teach, _teach("--add", "third"), _taught),
        Writer("forget", _prepare_teach, _teach("--forget", LABELS[0]), _taught),
        Writer("rename", _prepare_teach, _teach("--rename", f"{LABELS[0]}=new"), _taught),
        Writer("undo", _prepare_teach, _teach("--undo"), _taught),
        Writer("install", _prepare_install, _install, _installed),
        Writer("rollback", _prepare_rollback, _rollback, _installed),
        Writer("pack", _prepare_pack, _pack, _packed),
        Writer("train", _prepare_train, _train, _run),
        Writer("search", _prepare_search, _train, _searched),
        Writer("ticket", _prepare_find, _find, _ticket),
        Writer("export", _prepare_export, _export, _bundle),
    )
}
