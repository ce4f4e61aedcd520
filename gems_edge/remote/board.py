"""What a board is before anything is copied to it, and whether a bundle can be measured there."""

import re
from dataclasses import dataclass, fields
from importlib.resources import files
from typing import Any, get_args

from gems_edge.errors import UserError
from gems_edge.remote.ssh import Connection, run
from gems_edge.remote.untrusted import not_understood, read_object

BOARD_MARK = "gems-edge-board "
OLDEST_PYTHON = (3, 11)
OLDEST_GLIBC = (2, 27)  # of onnxruntime's, numpy's and Pillow's wheels
# The processors that onnxruntime has Linux wheels for.
MACHINES = ("aarch64", "x86_64")
_GLIBC = re.compile(r"2\.[0-9]{1,3}(\.[0-9]{1,3}){0,2}")
PYTHONS = ("python3", "python3.14", "python3.13", "python3.12", "python3.11")
# A login shell may print anything and may not be sh: so sh reads its script from stdin, and lines are marked.
_SCRIPT = f"""echo "gems-edge-machine $(uname -m)"
for python in {" ".join(PYTHONS)}; do
command -v "$python" >/dev/null 2>&1 && GEMS_EDGE_PYTHON="$python" "$python" - <<'END'
{{look}}
END
done
exit 0
"""


@dataclass(frozen=True)
class Board:
    """A board by one of its Pythons, `python` of PYTHONS.

    `base`: where files may go; `kept`: what earlier benches left there. All text is the board's word, to be shown or
    compared, and part of no command.
    """

    python: str
    version: tuple[int, int, int]
    implementation: str
    bits: int
    machine: str
    system: str
    libc: tuple[str, str]  # its name and version
    venv: bool
    ensurepip: bool
    base: str
    writable: bool
    runs_code: bool
    free_bytes: int
    memory_bytes: int
    kept: tuple[str, ...]
    model: str

    @property
    def tag(self) -> str:
        """The Python in the language of wheels: cp311."""
        return f"cp{self.version[0]}{self.version[1]}"

    @property
    def glibc(self) -> tuple[int, int]:
        major, minor = self.libc[1].split(".")[:2]
        return int(major), int(minor)


def look(connection: Connection) -> Board:
    """What the board is, by the first Python there that can run gems-edge.

    Raises UserError, naming the host, if there is none, MachineError for an answer that is not understood.
    """
    script = _SCRIPT.replace("{look}", (files("gems_edge.remote") / "look.py").read_text(encoding="utf-8"))
    lines = run(connection, "sh", script)
    host = connection.host
    facts = [line.removeprefix(BOARD_MARK) for line in lines if line.startswith(BOARD_MARK)]
    if len(facts) > len(PYTHONS):
        raise not_understood(host)
    boards = [_board(read_object(entry, host), host) for entry in facts]
    if not boards:
        machine = next((line.split()[-1][:20] for line in lines if line.startswith("gems-edge-machine ")), "unknown")
        if machine != "unknown" and machine not in MACHINES:
            raise UserError(_foreign(connection.host, machine))
        raise UserError(f"{connection.host} has no python3; install it there: sudo apt install python3 python3-venv")
    able = [board for board in boards if board.version >= OLDEST_PYTHON]
    if not able:
        newest = ".".join(map(str, max(board.version for board in boards)))
        raise UserError(
            f"{connection.host} has Python {newest} and gems-edge needs 3.11 or newer; "
            "use a newer system there (Debian 12, Raspberry Pi OS of 2023 or later)"
        )
    return able[0]


def _board(facts: dict[str, Any], host: str) -> Board:
    """MachineError for facts that look.py never gives."""
    facts = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
    kinds = {field.name: field.type for field in fields(Board)}
    if facts.keys() != kinds.keys() or not all(_is(facts[name], kind) for name, kind in kinds.items()):
        raise not_understood(host)
    board = Board(**facts)
    if (
        board.python not in PYTHONS
        or max(board.version) > 999
        or board.libc[0] == "glibc"
        and not _GLIBC.fullmatch(board.libc[1])
    ):
        raise not_understood(host)
    return board


def _is(value: Any, kind: Any) -> bool:
    """Whether `value` is of a field's type: str, bool, a count, or a tuple of them."""
    if kinds := get_args(kind):
        kinds = kinds[:1] * len(value) if kinds[-1] is ... and isinstance(value, tuple) else kinds
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_is, value, kinds))
    return type(value) is kind and (kind is not int or 0 <= value)


def check(board: Board, host: str) -> None:
    """UserError, naming `host` and what to do, for a board on which onnxruntime cannot be installed."""
    if board.system != "Linux":
        raise UserError(
            f"{host} runs {board.system}, and boards are measured on Linux; run gems-edge bench there itself"
        )
    if board.bits != 64:
        kernel = ", though its kernel is a 64-bit one" if board.machine in MACHINES else ""
        raise UserError(
            f"{host} runs a {board.bits}-bit Python on {board.machine}{kernel}; "
            "onnxruntime has no wheels for 32-bit Arm: put a 64-bit system on it (Raspberry Pi OS 64-bit)"
        )
    if board.machine not in MACHINES:
        raise UserError(_foreign(host, board.machine))
    if board.implementation != "CPython":
        raise UserError(f"{host} runs {board.implementation}; onnxruntime has wheels for CPython only")
    if board.libc[0] != "glibc":
        raise UserError(f"{host} has no glibc, which onnxruntime's wheels need; use Debian or a system made of it")
    if board.glibc < OLDEST_GLIBC:
        raise UserError(
            f"{host} has glibc {board.libc[1]} and onnxruntime's wheels need {'.'.join(map(str, OLDEST_GLIBC))}; "
            "use a newer system there (Debian 12, Raspberry Pi OS of 2023 or later)"
        )
    if not board.venv:
        raise UserError(f"{host}: its Python lacks the module venv; install it there: sudo apt install python3-venv")
    if not board.writable:
        raise UserError(f"{host}: nothing can be written to {board.base}; log in as a user who has a home directory")
    if not board.runs_code:
        raise UserError(
            f"{host}: {board.base} forbids programs (mounted noexec); set GEMS_EDGE_CACHE there to another place"
        )


def check_disk(board: Board, host: str, needed_bytes: float) -> None:
    """UserError if less than `needed_bytes` is free where files go."""
    if board.free_bytes < needed_bytes:
        raise UserError(
            f"{host} has {_mb(board.free_bytes)} free in {board.base} and this needs {_mb(needed_bytes)}; "
            "remove something there"
        )


def check_memory(board: Board, host: str, needed_bytes: float) -> None:
    """UserError if less than `needed_bytes` of memory and swap are free."""
    if board.memory_bytes < needed_bytes:
        raise UserError(
            f"{host} has {_mb(board.memory_bytes)} of free memory and adapting this bundle needs about "
            f"{_mb(needed_bytes)}; end programs there, or export a smaller model"
        )


def _foreign(host: str, machine: str) -> str:
    hint = ": put a 64-bit system on it" if machine.startswith("arm") else ""
    return f"{host} is {machine}, and onnxruntime has wheels for {' and '.join(MACHINES)} only{hint}"


def _mb(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"
