"""Valid subjects of every kind, as small as they come, each in a folder of its own with what its reader needs."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import handmade
import numpy as np
from handmade import pictures, write_pictures
from PIL import Image

if TYPE_CHECKING:
    from gems_edge.meta.settings.run import TrainConfig

PHOTOS, LABELS = pictures(2, 2)
# Every kind of bundle that can be written by hand: see handmade.write_bundle.
BUNDLES: dict[str, dict] = {
    "maml": {"steps": 2},
    "decay": {"steps": 2, "decay": 0.5, "seed": 1},
    "split": {"steps": 3, "method": "anil", "normalization": "group", "split": True, "seed": 2},
    "per-class": {"steps": 2, "head": "per-class", "seed": 3},
}
_SETTINGS = {
    "ways": 2, "shots": "1", "steps": 1, "meta_batch": 1, "queries": 2, "widths": [4], "checkpoint_every": 1,
    "validate_every": 2, "validation_episodes": 2, "schedule": "constant", "compute": "cpu",
}  # fmt: skip


def bundles(folder: Path) -> None:
    for name, options in BUNDLES.items():
        place = _made(folder / name)
        handmade.write_bundle(place / "subject.gems", **options)
        write_pictures(place / "photos", PHOTOS, LABELS)
        _write_query(place)


def selftests(folder: Path) -> None:
    for name, options in BUNDLES.items():
        handmade.write_tested(_made(folder / name) / "subject.gems", **options)


def installations(folder: Path) -> None:
    """Two bundles, each taught by another number of steps; the second is in use, and a third is at hand."""
    from gems_edge.device import Learner
    from gems_edge.device.bundle import read_bundle
    from gems_edge.device.installation import copy_bundle, new_slot, slots_of, switch, write_record

    place = _made(folder / "twice")
    _write_query(place)
    board = _made(place / "subject")
    for number in (1, 2):
        before = slots_of(board)
        bundle = read_bundle(handmade.write_bundle(folder / f"{number}.gems", steps=number))
        slot = new_slot(board, before)
        copy_bundle(bundle, slot)
        learner = Learner(bundle, 1)
        learner.adapt(PHOTOS, LABELS)
        learner.save(slot.path / "taught.state")
        write_record(slot, before[0] if before else None, {})
        switch(board, slot)
        shutil.rmtree(bundle.path)
    handmade.write_bundle(place / "next.gems", steps=3)


def states(folder: Path) -> None:
    """Of one bundle, taught once and twice, and with one slot only."""
    from gems_edge.device import Learner

    place = _made(folder / "twice")
    learner = Learner.load(handmade.write_bundle(place / "bundle.gems", steps=2), threads=1)
    _write_query(place)
    for number in (1, 2):
        learner.adapt(PHOTOS, LABELS, steps=number)
        learner.save(place / "subject.state")
        if number == 1:
            shutil.copytree(place, folder / "once")


def images(folder: Path) -> None:
    """One of each format and of several modes."""
    small, wide = PHOTOS[0].squeeze(), np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    colour = Image.fromarray(wide)
    kinds = {
        "jpg": (colour, {}), "progressive.jpg": (colour, {"progressive": True}), "png": (colour.convert("RGBA"), {}),
        "grey.png": (Image.fromarray(small), {}), "deep.png": (Image.fromarray(small.astype(np.uint16) * 256), {}),
        "bmp": (colour, {}), "webp": (colour, {}), "gif": (colour.convert("P"), {}), "ppm": (colour, {}),
        "tif": (colour, {}), "packed.tif": (colour, {"compression": "tiff_lzw"}), "pgm": (Image.fromarray(small), {}),
    }  # fmt: skip
    for name, (image, options) in kinds.items():
        image.save(_made(folder / name) / f"subject.{name.rpartition('.')[2]}", **options)


def packed(folder: Path) -> None:
    """As pixels and as encoded files."""
    from gems_edge.data.folder import read_folder
    from gems_edge.data.packed import write_packed

    write_photos(folder / "photos")
    images = read_folder(folder / "photos", 16, 1)
    for encode in (True, False):
        write_packed(images, _made(folder / f"{encode=}") / "subject.npz", encode=encode)
    shutil.rmtree(folder / "photos")


def configs(folder: Path) -> None:
    from gems_edge.meta.settings.base import from_table
    from gems_edge.meta.settings.run import TrainConfig, write_config

    more = {"normalization": "group", "clip": 1.5, "ticket": {"method": "mwt", "ratio": 0.5}}
    for name, settings in {"dense": {}, "ticket": more}.items():
        write_config(_made(folder / name) / "subject.toml", from_table(TrainConfig, _SETTINGS | settings, name))


def profiles(folder: Path) -> None:
    from gems_edge import device_profiles

    source = Path(device_profiles.__file__).parent
    bundle = handmade.write_bundle(folder / "bundle")
    for name in ("rpi-4b", "rpi-zero-2w"):
        text = (source / f"{name}.toml").read_text().replace(f'id = "{name}"', 'id = "subject"')
        place = _made(folder / name)
        (place / "subject.toml").write_text(text)
        shutil.copy(bundle / "predict.onnx", place / "model.onnx")
    shutil.rmtree(bundle)


def write_photos(folder: Path) -> Path:
    """train|val|test/CLASS/N.png, 16×16 grey."""
    for number, split in enumerate(("train", "val", "test")):
        pixels, labels = pictures(2, 3, seed=number)
        write_pictures(folder / split, pixels, [f"{split} {label}" for label in labels])
    return folder


def runs(folder: Path) -> None:
    """A dense run that is finished, and a finished one with a ticket."""
    for name, ticket in {"dense": {}, "ticket": {"ticket": {"method": "rm", "ratio": 0.3}}}.items():
        train_run(_made(folder / name), **ticket)


def checkpoints(folder: Path) -> None:
    """A run that was ended before its last two iterations."""
    train_run(_made(folder / "dense"), ended_at=3)


def tickets(folder: Path) -> None:
    """Cut from a dense run: weights and channels."""
    from readers import call

    run = train_run(folder, widths=[32]) / "subject"
    for unit in ("weight", "channel"):
        output = _made(folder / unit) / "subject.ticket"
        call("ticket", "find", run, "--ticket", "mwt", "--unit", unit, "--ratio", 0.5, "-o", output)
    shutil.rmtree(run)
    (folder / "photos.npz").unlink()


def exported(folder: Path) -> None:
    """As export writes them: a quantised one, and one whose head are class means."""
    from readers import call

    kinds = {"int8": ({}, "--int8"), "prototype": ({"head": "prototype", "normalization": "group"}, "--no-int8")}
    for name, (changes, option) in kinds.items():
        place = _made(folder / name)
        subject = train_run(folder / f"run-{name}", widths=[16], **changes) / "subject"
        options = ("--ratio", 0, "--recover-iterations", 0, "--episodes", 2, option)
        call("export", subject, *options, "-o", place / "subject.gems")
        write_pictures(place / "photos", PHOTOS, LABELS)
        _write_query(place)
        shutil.rmtree(folder / f"run-{name}")


def verified(folder: Path) -> None:
    """A bundle, a state and a run."""
    for make in (bundles, states):
        make(folder / make.__name__)
    for source in ("bundles/maml", "states/twice"):
        shutil.copytree(folder / source, folder / source.replace("/", "-"))
    for made in ("bundles", "states"):
        shutil.rmtree(folder / made)
    train_run(_made(folder / "run"))


def trusted(folder: Path) -> None:
    """A signed bundle, the keys that are trusted and revoked, and the releases that were opened."""
    from signing import make_key, trust_line, write_signed

    from gems_edge.device.manifest import Product
    from gems_edge.device.trust import remember_release

    place = _made(folder / "signed")
    keys = [make_key(folder / name) for name in ("maker", "old")]
    write_signed(place / "subject.gems", keys[0], release=5)
    makers = _made(place / "trust") / "makers"
    makers.write_text(trust_line(keys[1], "plates,fruit-*") + trust_line(keys[0], "plates"))
    makers.with_name("makers.revoked").write_text((folder / "old.pub").read_text())
    remember_release(Product("plates", 4), makers)


class _Ended(Exception):
    pass


class _EndAt:
    """Stops a training as a kill would, after the checkpoint of the iteration before."""

    every = 1

    def __init__(self, iteration: int):
        self.iteration = iteration

    def resume(self, iteration: int) -> bool:
        return False

    def look(self, iteration: int, weights: object) -> tuple[bool, dict[str, float]]:
        if iteration > self.iteration:
            raise _Ended
        return False, {}


def settings(place: Path, **changes: Any) -> "TrainConfig":
    """Of a run of five iterations on the images of `place`/photos.npz, which is written."""
    from gems_edge.data.folder import read_folder
    from gems_edge.data.packed import write_packed
    from gems_edge.meta.settings.base import from_table
    from gems_edge.meta.settings.run import TrainConfig

    data = place.absolute() / "photos.npz"
    write_packed(read_folder(write_photos(place / "photos"), 16, 1), data)
    shutil.rmtree(place / "photos")
    return from_table(TrainConfig, {"data": [f"packed:{data}"], "iterations": 5} | _SETTINGS | changes, "")


def train_run(place: Path, ended_at: int | None = None, **changes: Any) -> Path:
    """`place` with subject/, a run as `settings` has it."""
    from gems_edge.meta.run import Run
    from gems_edge.meta.train import train
    from gems_edge.tickets.training import train_ticket

    config, run = settings(place, **changes), Run(place / "subject")
    with contextlib.suppress(_Ended):
        if config.dense:
            train(run, config, watch=None if ended_at is None else _EndAt(ended_at))
        else:
            train_ticket(run, config)
    return place


def facts(folder: Path) -> None:
    place = _made(folder / "ordinary")
    (place / "subject.json").write_text(json.dumps({
        "python": "python3", "version": [3, 11, 2], "implementation": "CPython", "bits": 64, "machine": "x86_64",
        "system": "Linux", "libc": ["glibc", "2.36"], "venv": True, "ensurepip": True, "base": "/home/pi/.cache/bench",
        "writable": True, "runs_code": True, "free_bytes": 10**12, "memory_bytes": 10**12, "kept": ["env-cp311-0"],
        "model": "a board",
    }))  # fmt: skip


def answers(folder: Path) -> None:
    """What a board answers at the end: measured here."""
    from gems_edge.device.bench import measure_bundle
    from gems_edge.device.bundle import read_bundle

    place = _made(folder / "ordinary")
    bench = measure_bundle(read_bundle(handmade.write_bundle(folder / "bundle")), 1, lambda _: None)
    answer = {"image": "q.png", "label": "a", "probability": 0.5, "probabilities": {"a": 0.5, "b": 0.25, "c": 0.25}}
    (place / "subject.json").write_text(json.dumps({
        "versions": {"python": "3.11.2", "onnxruntime": "1.31.1", "numpy": "2.4"}, "seconds": {"install": 1.0},
        "results": {
            "adapt": {"steps": 5, "ms_per_step": {"p50": 1.5, "p90": 2.0}}, "predict": [answer, answer], "bench": bench,
        },
    }))  # fmt: skip
    shutil.rmtree(folder / "bundle")


def _made(place: Path) -> Path:
    place.mkdir(parents=True)
    return place


def _write_query(place: Path) -> None:
    _made(place / "query")
    Image.fromarray(PHOTOS[0].squeeze()).save(place / "query" / "0.png")


VALID: dict[str, Callable[[Path], None]] = {
    "bundle": bundles, "selftest": selftests, "installation": installations,
    "state": states, "image": images, "packed": packed, "config": configs, "profile": profiles,
    "ticket": tickets, "run": runs, "checkpoint": checkpoints, "exchanged": runs, "exported": exported,
    "verify": verified, "trust": trusted, "facts": facts, "answers": answers,
}  # fmt: skip
