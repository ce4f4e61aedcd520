"""What was found of something on disk: which of its parts are whole, which are not, and what can be saved."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gems_edge.errors import UserError


@dataclass(frozen=True)
class Part:
    """A file, or something else that can be whole by itself. `about` says what is in it."""

    name: str
    problem: str = ""  # "": it is whole
    about: str = ""


@dataclass(frozen=True)
class Finding:
    kind: str  # "bundle", "state", "run" or "packed file"
    path: Path
    parts: tuple[Part, ...]
    rescue: str = ""  # what can be saved, and how; "" where all is whole
    about: dict[str, Any] = field(default_factory=dict)  # more for --json

    @property
    def damaged(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.problem)


def reason_of(error: UserError | OSError) -> str:
    """What is wrong, of an error that reading a part raised."""
    return str(error) if isinstance(error, UserError) else f"it cannot be read ({error.strerror or error})"
