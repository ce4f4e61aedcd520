"""Have I taught enough? What the taught photos say of it, in words for people and as JSON."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from gems_edge.device.album import Album, shown
from gems_edge.device.confusion import LeaveOneOut, leave_one_out, wilson
from gems_edge.device.photos import Kept
from gems_edge.wording import count_text

ENOUGH = 5  # photos of a class; the forecast was measured with so many
_MOST_LINES = 8  # of confusions
_PIXELS = "this bundle has no layers that stay as they are, by which photos could be compared"
_FEW = "no class has two photos, of which one could be left out"


@dataclass(frozen=True)
class Wish:
    """The class that wants another photo most: `right` of its `asked` photos were right when they were left out."""

    name: Hashable
    photos: int
    right: int
    asked: int


@dataclass(frozen=True)
class Explanation:
    """What new photos will be answered, as far as the taught ones say, and what would help."""

    left_out: LeaveOneOut | None  # the forecast; None: it cannot be made
    wish: Wish | None  # None: every class has ENOUGH photos, and all are told apart where they can be asked
    rough: bool = False  # gradient steps were taken, which class means do not know
    no_forecast: str = ""  # why there is none

    def lines(self) -> list[str]:
        return [*self._forecast(), *self._confusions(), *self._advice()]

    def to_json(self) -> dict[str, Any]:
        """Shares from 0 to 1, classes by their names as text, photos by their numbers."""
        left_out, wish = self.left_out, self.wish
        pull = left_out and left_out.pull
        return {
            "leave_one_out": left_out and _forecast_json(left_out, self.rough),
            "no_forecast": self.no_forecast or None,
            "pulls_away": pull
            and {"photo": pull.photo.number, "class": shown(pull.photo.label), "righted": pull.righted},
            "wants_photo": wish
            and {"class": shown(wish.name), "photos": wish.photos, "right": wish.right, "asked": wish.asked},
        }

    def _forecast(self) -> list[str]:
        if self.left_out is None:
            return [f"no forecast for new photos: {self.no_forecast}"]
        low, high = (100 * bound for bound in self.left_out.interval)
        rough = "; a rough figure: the steps of this bundle are not in it" if self.rough else ""
        return [
            f"each photo left out in turn, {100 * self.left_out.accuracy:.0f} % of "
            f"{count_text(self.left_out.asked, 'photo')} right; of new photos probably {low:.0f} to {high:.0f} %{rough}"
        ]

    def _confusions(self) -> list[str]:
        confused = self.left_out.confused if self.left_out else ()
        lines = [
            f"photo {photo.number} ({', '.join(filter(None, (shown(photo.label), photo.source)))}) looks like "
            f"{shown(guess)}"
            for photo, guess in confused[:_MOST_LINES]
        ]
        return lines + ([f"and {count_text(more, 'other photo')}"] if (more := len(confused) - _MOST_LINES) > 0 else [])

    def _advice(self) -> list[str]:
        lines, pull, wish = [], self.left_out and self.left_out.pull, self.wish
        if pull:
            name, photos = shown(pull.photo.label), count_text(pull.righted, "more photo")
            lines += [f"photo {pull.photo.number} pulls {name} away: without it {photos} would be right; is it {name}?"]
        if wish:
            asked = f", {wish.right} of {wish.asked} right when left out" if wish.asked else ""
            lines += [f"another photo would help {shown(wish.name)} most: it has {wish.photos}{asked}"]
        elif self.left_out:
            lines += ["enough is taught for what these photos show: every class has its photos, and all are told apart"]
        return lines


def explained(album: Album, kept: Mapping[str, Kept], has_trunk: bool, steps: int) -> Explanation:
    """Of an album whose photos are all in `kept`, by picture; `steps` were taken to learn it.

    Without a trunk pixels are all that is kept, and class means of those say nothing of what a network tells apart.
    """
    left_out = leave_one_out(album, kept) if has_trunk else None
    why = "" if left_out else _FEW if has_trunk else _PIXELS
    return Explanation(left_out, _wish(album, left_out), left_out is not None and steps > 0, why)


def _wish(album: Album, left_out: LeaveOneOut | None) -> Wish | None:
    """The class of which the least is sure: by the lower end of its own photos' interval, then by its photos."""
    wrong = [photo.label for photo, _ in left_out.confused] if left_out else []
    wishes = []
    for name in album.classes:
        photos = len(album.of(name))
        asked = photos if left_out and photos > 1 else 0
        wishes.append(Wish(name, photos, asked - wrong.count(name), asked))
    if not wishes or not wrong and min(wish.photos for wish in wishes) >= ENOUGH:
        return None
    return min(wishes, key=lambda wish: (wilson(wish.right, wish.asked)[0], wish.photos))


def _forecast_json(left_out: LeaveOneOut, rough: bool) -> dict[str, Any]:
    low, high = left_out.interval
    return {
        "by": "class means of the kept features",
        "rough": rough,
        "accuracy": left_out.accuracy,
        "low": low,
        "high": high,
        "photos": left_out.asked,
        "confusions": [
            {"photo": photo.number, "class": shown(photo.label), "guess": shown(guess)}
            for photo, guess in left_out.confused
        ],
    }
