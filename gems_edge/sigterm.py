"""SIGTERM, with which systems and containers stop a program: it ends as Ctrl-C does, or waits until a step is done."""

import _thread
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from gems_edge.errors import Terminated

# Seconds after which the signal comes again to who lost it or could not take it yet.
_AGAIN = 0.1
# Seconds for which an import may keep it waiting: below the ten that containers give a program to end.
_IMPORT = 8.0


class Sigterm:
    """While this is entered SIGTERM raises Terminated in the main thread, at once or, inside `waits`, not: there it is
    only noted as `came`, for the caller to end at a moment of its choice. In other threads nothing changes.

    Where Python can raise nothing (a callback of the importer's locks, a destructor) Terminated is lost, and the signal
    comes again. Libraries that are being imported take it for a failure of theirs and go on (torch does, in C++): there
    it comes again until the import is done."""

    def __init__(self) -> None:
        self.came = False
        self._waiting = False
        self._patience = float("inf")

    def __enter__(self) -> "Sigterm":
        self._mine = threading.current_thread() is threading.main_thread()
        if self._mine:
            self._before, self._hook = signal.getsignal(signal.SIGTERM), sys.unraisablehook
            signal.signal(signal.SIGTERM, self._handle)
            sys.unraisablehook = self._lost
        return self

    def __exit__(self, *_: object) -> None:
        if self._mine:
            signal.signal(signal.SIGTERM, self._before)
            sys.unraisablehook = self._hook

    def _lost(self, lost: "sys.UnraisableHookArgs") -> None:
        if issubclass(lost.exc_type, Terminated):
            _comes_again()
        else:
            self._hook(lost)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.came:
            self.came, self._patience = True, now + _IMPORT
        if self._waiting:
            return
        if now < self._patience and _importing(frame):
            _comes_again()
        else:
            self.heed()

    @contextlib.contextmanager
    def waits(self) -> Iterator[None]:
        """Meanwhile SIGTERM is only noted; one that the caller has not heeded ends the program afterwards."""
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False
        self.heed()

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside `waits`: meanwhile SIGTERM ends this at once, as one does that has come already."""
        self._waiting = False
        try:
            self.heed()
            yield
        finally:
            self._waiting = True

    def heed(self) -> None:
        """Raise Terminated if SIGTERM came."""
        if self.came:
            raise Terminated("stopped by SIGTERM")


def _comes_again() -> None:
    """Not by threading.Timer, whose locks the code that was interrupted may hold."""
    main = threading.main_thread().ident or 0

    def send() -> None:
        time.sleep(_AGAIN)
        signal.pthread_kill(main, signal.SIGTERM)

    _thread.start_new_thread(send, ())


def _importing(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None
