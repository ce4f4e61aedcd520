"""How far onnxruntime's arena grows under what a run asks of it. Plain Python, deterministic.

The arena (onnxruntime's BFCArena: "best fit with coalescing") rounds a request up to 256 bytes and takes the smallest
free piece that is large enough. A piece of at least twice the size is split, a smaller one is handed out undivided.
Where none fits, the arena gets a new region from the system, as large as the request (device/runtime.py). A freed piece
joins its free neighbours of the same region; regions never join, and none is returned to the system. So the arena ends
up larger than what was alive at once: pieces are too large for what they hold, or too small for what comes next.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable

from gems_edge.graphs.liveness import Request

ROUNDING = 256
# A piece larger than a request by this much is split too (onnxruntime's default for max_dead_bytes_per_chunk).
MOST_UNUSED = 128 << 20


class _Piece:
    __slots__ = ("address", "size", "free", "before", "after")

    def __init__(self, address: int, size: int):
        self.address, self.size, self.free = address, size, False
        self.before: _Piece | None = None
        self.after: _Piece | None = None


class Arena:
    """An arena of its own; `total` is what it has taken from the system, in bytes."""

    def __init__(self) -> None:
        self.total = 0
        self._taken: dict[str, _Piece] = {}
        self._free: list[tuple[int, int]] = []  # (size, address), smallest first
        self._at: dict[int, _Piece] = {}  # free pieces by address

    def serve(self, asked: Iterable[Request]) -> int:
        """Serve a run's requests; returns `total`."""
        for name, size in asked:
            if size is None:
                if name in self._taken:
                    self._release(self._taken.pop(name))
            elif size:
                self._taken[name] = self._take(-(-size // ROUNDING) * ROUNDING)
        return self.total

    def _take(self, size: int) -> _Piece:
        best = bisect_left(self._free, (size, -1 << 62))
        if best == len(self._free):
            self.total += size
            # Of equal pieces the one at the lowest address is taken; the system hands out regions from the top.
            return _Piece(-self.total, size)
        available, address = self._free.pop(best)
        piece = self._at.pop(address)
        piece.free = False
        if available >= 2 * size or available - size >= MOST_UNUSED:
            rest = _Piece(address + size, available - size)
            rest.before, rest.after, piece.after, piece.size = piece, piece.after, rest, size
            if rest.after:
                rest.after.before = rest
            self._keep(rest)
        return piece

    def _release(self, piece: _Piece) -> None:
        if piece.after and piece.after.free:
            self._join(piece, piece.after)
        if piece.before and piece.before.free:
            self._join(piece.before, piece)
            piece = piece.before
        self._keep(piece)

    def _join(self, first: _Piece, second: _Piece) -> None:
        for piece in (first, second):
            if piece.free:
                del self._free[bisect_left(self._free, (piece.size, piece.address))], self._at[piece.address]
                piece.free = False
        first.size += second.size
        first.after = second.after
        if first.after:
            first.after.before = first

    def _keep(self, piece: _Piece) -> None:
        piece.free = True
        insort(self._free, (piece.size, piece.address))
        self._at[piece.address] = piece
