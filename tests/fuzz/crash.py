"""What a power cut may leave of a folder while a program writes to it: every state that its system calls allow.

What was not synced may be lost: the content of a file, or its end, until fsync on it, and names in a directory until
fsync on that. A disk writes in any order, so each file and each name may be lost for itself. A recording looks at the
folder before each call that changes it or syncs, and keeps states that a cut at that moment may leave: all in order,
and some by chance out of it.
"""

import hashlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

CALLS = (
    "open",
    "fsync",
    "replace",
    "rename",
    "chmod",
    "mkdir",
    "unlink",
    "rmdir",
    "close",
    "truncate",
    "ftruncate",
    "symlink",
)
_LOST = 0.15  # of names, out of order: where many directories are new, more would leave nothing below them
# The content of a file; of a directory: names and inodes; of a link: where it leads, which lies with its inode.
Node = bytes | dict[str, int] | str


@contextmanager
def before_each_call(do: Callable[[str, tuple[Any, ...]], None]) -> Iterator[None]:
    """Meanwhile `do(name, arguments)` comes before each of CALLS in this process."""
    real = {name: getattr(os, name) for name in CALLS}

    def watched(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            do(name, arguments)
            return real[name](*arguments, **options)

        return call

    for name in CALLS:
        setattr(os, name, watched(name))
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(os, name, function)


@contextmanager
def killed_at(instant: int) -> Iterator[None]:
    """SIGKILL before the `instant`-th call, from 1."""
    left = [instant]

    def count(name: str, arguments: tuple[Any, ...]) -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    with before_each_call(count):
        yield


@dataclass
class Recording:
    """States of `folder`, kept as folders below `output`; of each call `mixed` are out of order."""

    folder: Path
    output: Path
    mixed: int
    calls: int = 0
    durable: dict[int, Node] = field(default_factory=dict)
    _held: dict[int, int] = field(default_factory=dict)  # open, so that no inode is used for another file
    _seen: set[str] = field(default_factory=set)
    _busy: bool = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Record meanwhile; all that is there before lies safe."""
        self.output.mkdir(parents=True, exist_ok=True)
        self.durable = self._look()
        with before_each_call(self._record):
            yield
        self._keep(self._look(), "end")

    def _record(self, name: str, arguments: tuple[Any, ...]) -> None:
        if self._busy:
            return
        self._busy = True
        self.calls += 1
        now = self._look()
        self._keep(now, f"{self.calls:04}-{name}")
        if name == "fsync":
            inode = os.fstat(arguments[0]).st_ino
            if inode in now:
                self.durable[inode] = now[inode]
        self._busy = False

    def _look(self) -> dict[int, Node]:
        """Every file and directory of the folder, by inode."""
        nodes: dict[int, Node] = {}
        for place, folders, files in os.walk(self.folder):
            names = {name: os.lstat(f"{place}/{name}").st_ino for name in (*folders, *files)}
            nodes[os.stat(place).st_ino] = names
            for name in (*folders, *files):
                path = Path(place, name)
                if path.is_symlink():
                    nodes[names[name]] = os.readlink(path)
                elif name in files:
                    nodes[names[name]] = path.read_bytes()
            for name, inode in names.items():
                if inode not in self._held:
                    self._held[inode] = os.open(f"{place}/{name}", os.O_PATH | os.O_NOFOLLOW)
        return nodes

    def _keep(self, now: dict[int, Node], label: str) -> None:
        for kind, names, contents in (
            *self._in_order(now),
            *(self._mixed(now, number) for number in range(self.mixed)),
        ):
            tree = self._tree(os.stat(self.folder).st_ino, names, contents)
            digest = hashlib.sha256(repr(tree).encode()).hexdigest()
            if digest not in self._seen:
                self._seen.add(digest)
                _write(tree, self.output / f"{label}-{kind}")

    def _in_order(self, now: dict[int, Node]) -> Iterator[tuple[str, dict[int, Node], dict[int, Node]]]:
        """All names or none of those that are not safe, and of all contents the same part."""
        for kind, names in (("names", now), ("no-names", self.durable)):
            for part in (1.0, 0.5, 0.0):
                yield f"{kind}-{part:g}", names, {inode: self._left(inode, node, part) for inode, node in now.items()}

    def _mixed(self, now: dict[int, Node], number: int) -> tuple[str, dict[int, Node], dict[int, Node]]:
        """Of each name and of each file's content chance says whether, and how much, has come to the disk: its
        beginning, or its whole length with zeros behind that."""
        random, names = Random(f"{self.calls} {number}"), dict[int, Node]()
        for inode, node in now.items():
            if isinstance(node, dict):
                safe = self.durable.get(inode, {})
                assert isinstance(safe, dict)
                every = sorted(node.keys() | safe.keys())
                chosen = {name: (safe if random.random() < _LOST else node).get(name) for name in every}
                names[inode] = {name: there for name, there in chosen.items() if there is not None}
        contents = {inode: self._left(inode, node, random.random()) for inode, node in now.items()}
        for inode, node in now.items():
            left = contents[inode]
            if random.random() < 0.5 and isinstance(node, bytes) and isinstance(left, bytes):
                contents[inode] = left.ljust(len(node), b"\0")
        return f"mixed-{number}", names, contents

    def _left(self, inode: int, node: Node, part: float) -> Node:
        """What is left of a file if so much of what is not safe has come to the disk."""
        safe = self.durable.get(inode, b"")
        if not isinstance(node, bytes) or node == safe:
            return node
        return node if part == 1 else safe if not part else node[: max(len(safe), int(part * len(node)))]

    def _tree(self, root: int, names: dict[int, Node], contents: dict[int, Node]) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        entries = names.get(root, {})
        assert isinstance(entries, dict)
        for name, inode in sorted(entries.items()):
            node = contents.get(inode, self.durable.get(inode, b""))
            tree[name] = self._tree(inode, names, contents) if isinstance(node, dict) else node
        return tree


def _write(tree: dict[str, Any], place: Path) -> None:
    place.mkdir()
    for name, node in tree.items():
        if isinstance(node, dict):
            _write(node, place / name)
        elif isinstance(node, str):
            (place / name).symlink_to(node)
        else:
            (place / name).write_bytes(node)


def put(state: Path, folder: Path) -> None:
    """The folder as a cut has left it."""
    shutil.rmtree(folder)
    shutil.copytree(state, folder, symlinks=True)
