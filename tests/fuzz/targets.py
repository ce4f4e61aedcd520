"""What is fuzzed, a line each: how a copy of a valid subject comes to harm, who reads it, and what is asked of that."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import formats
from harm import exchange_files, flip_bit, harm_bytes, harm_file, replace_by_special
from sandbox import Outcome, Sandbox
from trees import harm_json, harm_toml
from valid import VALID

Harm = Callable[[Path, Random, Sequence[Path]], str]  # (folder, random, folders of other subjects) → what was done
Rewrite = Callable[[bytes, Random], tuple[bytes, str]]  # of one file's bytes
REFUSED, SAME, OTHER = "refused", "read as before", "read otherwise"


@dataclass(frozen=True)
class Target:
    """A kind of file. `sealed`: damage, which leaves its checksums as they were, changes what it does only where that
    is said."""

    name: str
    damage: Harm
    forge: Harm  # its form and its checksums are made to agree
    board: bool = False  # read on boards
    sealed: bool = False
    codes: tuple[int, ...] = (2,)

    @property
    def side(self) -> str:
        return "board" if self.board else "workstation"


@dataclass
class Valid:
    """A target's valid subjects, and what each makes happen."""

    target: Target
    folders: list[Path]
    effects: dict[Path, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One harmed file, and what came of it."""

    place: Path
    what: str
    outcome: Outcome
    verdict: str  # of REFUSED, SAME, OTHER, or the fault


def prepare(target: Target, folder: Path, sandbox: Sandbox) -> Valid:
    """Valid subjects below `folder`, each read once. AssertionError if one is refused."""
    if not (made := folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        VALID[target.name](folder)
        made.touch()
    valid = Valid(target, sorted(place for place in folder.iterdir() if place.is_dir()))
    for place in valid.folders:
        copy = sandbox.place(place)
        outcome = sandbox.read(copy, target.name, seconds=300)  # the first imports what it needs
        fault = outcome.fault(target.board, ())
        assert not fault, f"{place} {fault}: {outcome.stderr}"
        valid.effects[place] = outcome.effect
        shutil.rmtree(copy)
    return valid


def attempt(valid: Valid, sandbox: Sandbox, seed: int, number: int) -> Trial:
    """Harm number `number` of a seed: always the same one."""
    target, random = valid.target, Random(f"{seed} {valid.target.name} {number}")
    source = random.choice(valid.folders)
    place = sandbox.place(source)
    forged = random.random() < 0.6
    what = (target.forge if forged else target.damage)(place, random, [f for f in valid.folders if f != source])
    outcome = sandbox.read(place, target.name)
    verdict = outcome.fault(target.board, target.codes)
    if not verdict:
        verdict = REFUSED if outcome.code else SAME if outcome.effect == valid.effects[source] else OTHER
        if verdict == OTHER and target.sealed and not forged and "is damaged" not in outcome.stderr:
            verdict = "damage was not seen"
    return Trial(place, f"{'forged' if forged else 'damaged'}: {what}", outcome, verdict)


def _any_file(pattern: str, special: bool = True, whole: bool = True) -> Harm:
    """Damage to one of the subject's files: bits, bytes, cuts, another's parts, no file at all. `whole`: also a whole
    file of another's in its place, or nothing, which checksums of single files do not tell."""

    def damage(place: Path, random: Random, others: Sequence[Path]) -> str:
        files = sorted(file for file in place.glob(pattern) if file.is_file())
        path = random.choice(files)
        kind = random.random()
        if kind < 0.3:
            path.write_bytes(flip_bit(path.read_bytes(), random))
            return f"{path.name}: one bit"
        if kind < 0.4 and special:
            return replace_by_special(path, random, whole)
        if kind < 0.5 and len(files) > 1 and whole:
            return exchange_files(*random.sample(files, 2))
        alike = [file.read_bytes() for other in others if (file := other / path.relative_to(place)).is_file()]
        if kind < 0.55 and alike and whole:
            path.write_bytes(random.choice(alike))
            return f"{path.name} of another"
        return harm_file(path, random, alike if whole else ())  # another's end may be all of it

    return damage


def _rewrite(pattern: str, rewrite: Rewrite) -> Harm:
    """`rewrite` of one of the subject's files."""

    def forge(place: Path, random: Random, others: Sequence[Path]) -> str:
        path = random.choice(sorted(file for file in place.glob(pattern) if file.is_file()))
        content, what = rewrite(path.read_bytes(), random)
        path.write_bytes(content)
        return f"{path.name}: {what}"

    return forge


def _json(content: bytes, random: Random) -> tuple[bytes, str]:
    text, what = harm_json(content, random)
    return text.encode(errors="surrogatepass"), what


def _toml(content: bytes, random: Random) -> tuple[bytes, str]:
    text, what = harm_toml(content.decode(), random)
    return text.encode(), what


def _forge_bundle(place: Path, random: Random, others: Sequence[Path]) -> str:
    bundle = place / "subject.gems"
    kind = random.choice(("manifest", "manifest", "graph", "graph", "weights", "bytes", "exchanged"))
    if kind == "manifest":
        text, what = harm_json((bundle / "manifest.json").read_bytes(), random)
        formats.seal_bundle(bundle, text)
        return f"manifest: {what}"
    if kind == "graph":
        what = _rewrite("subject.gems/*.onnx", formats.harm_onnx)(place, random, others)
    elif kind == "weights":
        what = _rewrite("subject.gems/weights.safetensors", formats.harm_tensors)(place, random, others)
    elif kind == "bytes":
        what = _rewrite("subject.gems/*[xs]", harm_bytes)(place, random, others)
    else:
        files = sorted(file for file in bundle.iterdir() if not file.name.startswith("manifest"))
        what = exchange_files(*random.sample(files, 2))
    formats.seal_bundle(bundle)
    return what


def _forge_selftest(place: Path, random: Random, others: Sequence[Path]) -> str:
    what = _rewrite("subject.gems/selftest*", formats.harm_tensors)(place, random, others)
    formats.seal_bundle(place / "subject.gems")
    return what


def _forge_installation(place: Path, random: Random, others: Sequence[Path]) -> str:
    """Its records, its link, a slot that is gone, and the states in it."""
    kind = random.choice(("record", "record", "link", "lost", "state"))
    if kind == "record":
        return _rewrite("subject/*/installed.json", _json)(place, random, others)
    if kind == "state":
        return _rewrite("subject/*/taught.state/*.safetensors", formats.harm_state)(place, random, others)
    if kind == "lost":
        slot = random.choice(sorted((place / "subject").glob("[0-9]*")))
        shutil.rmtree(slot)
        return f"no slot {slot.name}"
    link = place / "subject" / "current"
    link.unlink()
    if target := random.choice(("", "3", "0", "1/..", "../next.gems", "/", "1" * 300, "current")):
        link.symlink_to(target[:200])
    return f"current → {target[:20]}"


def _forge_image(place: Path, random: Random, others: Sequence[Path]) -> str:
    if (place / "subject.png").exists():
        return _rewrite("subject.png", formats.harm_png)(place, random, others)
    return _rewrite("subject.*", harm_bytes)(place, random, others)


def _forge_run(place: Path, random: Random, others: Sequence[Path]) -> str:
    if random.random() < 0.4:
        (place / "subject" / "config.sha256").unlink()
        return _rewrite("subject/config.toml", _toml)(place, random, others)
    return _rewrite("subject/**/*.safetensors", _unsealed_tensors)(place, random, others)


def _unsealed_tensors(content: bytes, random: Random) -> tuple[bytes, str]:
    """Harm to a file of tensors that has no checksum."""
    return formats.harm_tensors(formats.unsealed(content), random)


TARGETS = {
    target.name: target
    for target in (
        Target("bundle", _any_file("subject.gems/*"), _forge_bundle, board=True, sealed=True, codes=(1, 2)),
        Target("selftest", _any_file("subject.gems/selftest*"), _forge_selftest, board=True, sealed=True),
        Target("installation", _any_file("subject/**/*"), _forge_installation, board=True),
        Target(
            "state",
            _any_file("subject.state/**/*", whole=False),
            _rewrite("subject.state/*", formats.harm_state),
            board=True,
            sealed=True,
        ),
        Target("image", _any_file("subject.*"), _forge_image, board=True),
        Target("packed", _any_file("subject.npz"), _rewrite("subject.npz", formats.harm_archive)),
        Target("config", _any_file("subject.toml"), _rewrite("subject.toml", _toml)),
        Target("profile", _any_file("subject.toml"), _rewrite("subject.toml", _toml)),
        Target(
            "ticket",
            _any_file("subject.ticket", whole=False),
            _rewrite("subject.ticket", formats.harm_ticket),
            sealed=True,
        ),
        Target("run", _any_file("subject/**/*.*", whole=False), _forge_run, sealed=True, codes=(1, 2)),
        Target(
            "checkpoint",
            _any_file("subject/**/*.*", whole=False),
            _rewrite("subject/**/*.safetensors", _unsealed_tensors),
            sealed=True,
            codes=(1, 2),
        ),  # another config would have it train on for long
        Target("exchanged", _any_file("subject/**/*.*"), _forge_run, codes=(1, 2)),
        Target("exported", _any_file("subject.gems/*"), _forge_bundle, board=True, sealed=True, codes=(1, 2)),
        Target("verify", _any_file("subject*/**/*.*"), _any_file("subject*/**/*.*"), codes=(2,)),
        Target("trust", _any_file("trust/*"), _any_file("trust/*")),
        Target("facts", _any_file("subject.json", special=False), _rewrite("subject.json", _json), codes=(1,)),
        Target("answers", _any_file("subject.json", special=False), _rewrite("subject.json", _json), codes=(1,)),
    )
}


def report(trial: Trial) -> str:
    """All about a trial, as JSON."""
    return json.dumps({"what": trial.what, "verdict": trial.verdict, **vars(trial.outcome)}, indent=1)
