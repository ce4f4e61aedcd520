"""SIGTERM, with which systems and containers stop a program: it ends as Ctrl-C does, or waits until a step is done."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from gems_edge.errors import Terminated

# Seconds after which the signal comes again to who lost it.
_AGAIN = 0.1


class Sigterm:
    """While this is entered SIGTERM raises Terminated in the main thread, at once or, inside `waits`, not: there it is
    only noted as `came`, for the caller to end at a moment of its choice. In other threads nothing changes.

    Where Python can raise nothing (a callback of the importer's locks, a destructor) Terminated is lost, and the signal
    comes again."""

    def __init__(self) -> None:
        self.came = False
        self._waiting = False

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
        if not issubclass(lost.exc_type, Terminated):
            self._hook(lost)
            return
        main = threading.main_thread()
        again = threading.Timer(_AGAIN, lambda: signal.pthread_kill(main.ident or 0, signal.SIGTERM))
        again.daemon = True
        again.start()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        if not self._waiting:
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
