"""Harm that comes to bytes, whatever they mean: flipped bits, cuts, numbers over lengths, parts of other files."""

import os
import shutil
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

# At the borders of what a field holds, and far beyond what a file does.
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
# Headers decide most, so half of the harm is done there.
_HEADER = 256


def flip_bit(content: bytes, random: Random) -> bytes:
    changed = bytearray(content or b"\0")
    changed[_place(changed, random)] ^= 1 << random.randrange(8)
    return bytes(changed)


def _set_byte(content: bytes, random: Random) -> bytes:
    changed = bytearray(content or b"\0")
    changed[_place(changed, random)] = random.randrange(256)
    return bytes(changed)


def _set_number(content: bytes, random: Random) -> bytes:
    """A number over some bytes, as a length, a count or an offset would stand there."""
    size, place = random.choice((1, 2, 4, 8)), _place(content, random)
    number = random.choice(NUMBERS) & ((1 << 8 * size) - 1)
    return content[:place] + number.to_bytes(size, random.choice(("little", "big"))) + content[place + size :]


def _cut(content: bytes, random: Random) -> bytes:
    return content[: random.randrange(len(content) + 1)]


def _insert(content: bytes, random: Random) -> bytes:
    place = _place(content, random)
    return content[:place] + random.randbytes(random.choice((1, 4, 100, 5000))) + content[place:]


def _delete(content: bytes, random: Random) -> bytes:
    low, high = _span(content, random)
    return content[:low] + content[high:]


def _repeat(content: bytes, random: Random) -> bytes:
    low, high = _span(content, random)
    return content[:high] + content[low:high] * random.choice((1, 10, 1000)) + content[high:]


def _blank(content: bytes, random: Random) -> bytes:
    low, high = _span(content, random)
    return content[:low] + random.choice((b"\0", b"\xff", b" ")) * (high - low) + content[high:]


def _exchange(content: bytes, random: Random) -> bytes:
    """Two parts change their places."""
    a, b, c, d = sorted(_place(content, random) for _ in range(4))
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def _append(content: bytes, random: Random) -> bytes:
    return content + random.choice((random.randbytes(100), b"\0" * 100_000, content))


def _noise(content: bytes, random: Random) -> bytes:
    return random.randbytes(random.choice((0, 1, 8, len(content))))


HARM: dict[str, Callable[[bytes, Random], bytes]] = {
    "a bit": flip_bit, "a byte": _set_byte, "a number": _set_number, "cut": _cut, "inserted": _insert,
    "deleted": _delete, "repeated": _repeat, "blanked": _blank, "exchanged": _exchange, "appended": _append,
    "noise": _noise,
}  # fmt: skip


def harm_bytes(content: bytes, random: Random, others: Sequence[bytes] = ()) -> tuple[bytes, str]:
    """`content` after one to three harms, and their names. `others`: files of the same kind to take parts of."""
    names = []
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if others and random.random() < 0.1:
            other, place = random.choice(others), _place(content, random)
            content, name = content[:place] + other[place:], "another's end"
        else:
            name = random.choice(list(HARM))
            content = HARM[name](content, random)
        names.append(name)
    return content, ", ".join(names)


def harm_file(path: Path, random: Random, others: Sequence[bytes] = ()) -> str:
    """As harm_bytes, of a file; what was done."""
    content, what = harm_bytes(path.read_bytes(), random, others)
    path.write_bytes(content)
    return f"{path.name}: {what}"


def replace_by_special(path: Path, random: Random, absent: bool = True) -> str:
    """Something that is no file in the place of a file; with `absent` perhaps nothing at all."""
    path.unlink()
    gone = ("nothing", "nowhere") if absent else ()
    kind = random.choice((*gone, "directory", "FIFO", "zeros", "itself", "socket"))
    if kind == "directory":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            here = os.open(path.parent, os.O_RDONLY)  # a socket's path may have 107 bytes
            server.bind(f"/proc/self/fd/{here}/{path.name}")
            os.close(here)
    elif kind != "nothing":
        path.symlink_to({"zeros": "/dev/zero", "itself": path, "nowhere": "/nonexistent/file"}[kind])
    return f"{path.name}: {kind} in its place"


def exchange_files(one: Path, other: Path) -> str:
    """Each has the other's content."""
    first = one.read_bytes()
    shutil.copyfile(other, one)
    other.write_bytes(first)
    return f"{one.name} and {other.name} exchanged"


def _place(content: bytes | bytearray, random: Random) -> int:
    most = min(len(content), _HEADER) if random.random() < 0.5 else len(content)
    return random.randrange(most) if most else 0


def _span(content: bytes, random: Random) -> tuple[int, int]:
    low = _place(content, random)
    return low, min(len(content), low + random.choice((1, 4, 32, 500)))
