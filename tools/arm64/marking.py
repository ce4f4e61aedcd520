"""Runs on the emulated board, beside the script that is counted: marks what count.c counts between."""

import ctypes
from collections.abc import Callable

MARKER = 0x6E5  # as in count.c
# The first two calls of a graph fill caches: lazily bound symbols, onnxruntime's arena, malloc's bins.
WARM_UP = 2
EMPTY = 10  # and EMPTY + 1: nothing lies between them but the mark itself

_syscall = ctypes.CDLL(None).syscall


def mark(number: int) -> None:
    _syscall(MARKER, number)


def mark_warm(call: Callable[[], object], number: int) -> None:
    """`number`, a warm call, `number` + 1."""
    for _ in range(WARM_UP):
        call()
    mark(number)
    call()
    mark(number + 1)


def mark_nothing() -> None:
    """What a mark itself costs."""
    for number in (0, 1):
        mark(EMPTY + number)
