"""A new bundle is tried beside the one in use: taught the same, asked the same, on this board."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gems_edge.device.bundle import Bundle
from gems_edge.device.carry import Lesson, carry, read_lesson
from gems_edge.device.exam import Marks, Subject, examined
from gems_edge.device.installation import STATE, Slot
from gems_edge.errors import UserError
from gems_edge.wording import count_text

Say = Callable[[str], None]
# What a clock, and pages more or less, cannot tell apart.
_LEAST_MS, _LEAST_MB = 2.0, 2.0
_STAYS = "the bundle in use stays"


@dataclass(frozen=True)
class Limits:
    """What a new bundle may take, in times of what the one in use takes, and how much less of the photos it may answer
    right, as a share of them."""

    time: float = 1.5
    memory: float = 1.25
    worse: float = 0.0


@dataclass(frozen=True)
class InUse:
    """The bundle in use."""

    slot: Slot
    bundle: Bundle


@dataclass(frozen=True)
class Candidate:
    """A new bundle: where it came from, and its copy in the slot that would be the one in use."""

    source: Bundle
    bundle: Bundle
    slot: Slot


@dataclass(frozen=True)
class Trial:
    """How a new bundle did. Without anything taught, or anything to compare with, parts are None."""

    marks: Marks
    before: Marks | None = None  # of the bundle in use
    carried: str | None = None  # of carry.AS_KEPT, PICTURES, THUMBNAILS
    photos: int = 0
    generation: int | None = None  # of the state that was carried over


class Refused(UserError):
    """The bundle is not one to go over to; the one in use stays."""


def tried(candidate: Candidate, in_use: InUse | None, limits: Limits, threads: int | None, say: Say) -> Trial:
    """Teach the bundle what the one in use was taught, into its slot, and examine both. Refused if it is worse."""
    state = in_use.slot.state if in_use else None
    trial = Trial(Marks(0, 0, 0.0, 0.0, None))
    lesson = None
    if in_use is not None and state is not None:
        read = _read(in_use, state)
        lesson = Subject(in_use.slot.bundle, state)
        with _refusing(candidate):
            say(f"teaching it {count_text(len(read.album.photos), 'photo')} that the bundle in use was taught")
            learner, by = carry(read, candidate.bundle, threads)
            learner.save(candidate.slot.path / STATE)
        trial = replace(trial, carried=by, photos=len(read.album.photos), generation=read.state.generation)

    def examine(place: Slot) -> Marks:
        return examined(place.bundle, place.state, lesson, threads)

    say("examining it")
    with _refusing(candidate):
        trial = replace(trial, marks=examine(candidate.slot))
    if in_use is None:
        return trial
    trial = replace(trial, before=examine(in_use.slot))
    if slower(trial, limits):  # than it was just now; a board may have been busy
        trial = _at_their_best(trial, replace(trial, marks=examine(candidate.slot), before=examine(in_use.slot)))
    if reason := worse(trial, limits):
        raise Refused(f"{candidate.source.path} is not installed: {reason}; {_STAYS}")
    return trial


def _read(in_use: InUse, state: Path) -> Lesson:
    try:
        return read_lesson(in_use.bundle, state)
    except UserError as error:
        raise UserError(f"{error}; or give --fresh, which leaves what was taught behind") from None


@contextmanager
def _refusing(candidate: Candidate) -> Iterator[None]:
    """What a bundle cannot do is a reason not to go over to it."""
    try:
        yield
    except UserError as error:
        source = str(candidate.source.path)
        said = str(error).replace(str(candidate.slot.bundle), source)
        raise Refused(f"{source} is not installed: {said}; {_STAYS}") from None


def worse(trial: Trial, limits: Limits) -> str:
    """In what the new bundle is worse than the one in use; "" for nothing."""
    new, old = trial.marks, trial.before
    if old is None:
        return ""
    if new.asked and new.right < old.right - limits.worse * old.asked:
        return (
            f"of {count_text(new.asked, 'photo')} that the owner taught it answers {new.right} right, and the bundle "
            f"in use {old.right}"
        )
    if text := slower(trial, limits):
        return text
    if new.peak_mb and old.peak_mb and new.peak_mb > max(limits.memory * old.peak_mb, old.peak_mb + _LEAST_MB):
        return f"it takes {new.peak_mb:.0f} MB of memory, and the bundle in use {old.peak_mb:.0f}"
    return ""


def slower(trial: Trial, limits: Limits) -> str:
    """In what the new bundle is slower than the one in use; "" for nothing."""
    new, old = trial.marks, trial.before
    if old is None:
        return ""
    for what, ms, ms_before in (
        ("an answer", new.predict_ms, old.predict_ms),
        ("teaching", new.adapt_ms, old.adapt_ms),
    ):
        if ms > max(limits.time * ms_before, ms_before + _LEAST_MS):
            return f"{what} takes {ms:.0f} ms, and with the bundle in use {ms_before:.0f}"
    return ""


def _at_their_best(first: Trial, second: Trial) -> Trial:
    def best(one: Marks, other: Marks) -> Marks:
        predict_ms, adapt_ms = min(one.predict_ms, other.predict_ms), min(one.adapt_ms, other.adapt_ms)
        return replace(one, predict_ms=predict_ms, adapt_ms=adapt_ms)

    assert first.before is not None and second.before is not None
    return replace(first, marks=best(first.marks, second.marks), before=best(first.before, second.before))
