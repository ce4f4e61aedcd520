"""The first class that is shown: one class cannot be told from anything, so its photos wait for the second.

They lie beside the state as one file, for what was shown to the camera is not to be lost with the power.
"""

import base64
import binascii
import json
from dataclasses import dataclass
from pathlib import Path

from gems_edge.errors import UserError
from gems_edge.files import parse_json, read_plain, write_atomic

MOST = 64  # photos that wait
_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class Waiting:
    """A class and its photos, image files."""

    name: str = ""
    photos: tuple[bytes, ...] = ()


def waiting_file(state: Path) -> Path:
    return state.with_name(f"{state.name}.waiting.json")


def read_waiting(state: Path) -> Waiting:
    """What waits for the state at this path; nothing where no file is. UserError for a file that is damaged."""
    file = waiting_file(state)
    try:
        document = parse_json(read_plain(file, _MOST_BYTES), str(file))
        photos = tuple(base64.b64decode(photo, validate=True) for photo in document["photos"])
        return Waiting(str(document["class"]), photos)
    except FileNotFoundError:
        return Waiting()
    except (UserError, KeyError, TypeError, ValueError, binascii.Error):
        raise UserError(f"{file} is damaged; remove it, and show the first class again") from None


def write_waiting(state: Path, waiting: Waiting) -> None:
    """Raises OSError as write_atomic."""
    file = waiting_file(state)
    if not waiting.photos:
        file.unlink(missing_ok=True)
        return
    photos = [base64.b64encode(photo).decode() for photo in waiting.photos]
    write_atomic(file, json.dumps({"class": waiting.name, "photos": photos}))
