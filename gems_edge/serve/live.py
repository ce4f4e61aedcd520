"""What is answered now, told to everybody who listens: pages, programs and MQTT."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gems_edge.device.answers import Answer
from gems_edge.serve.classroom import Lesson
from gems_edge.serve.steady import Shown, steadied

Event = dict[str, Any]
MOST_LISTENERS = 32
_MOST_CAMERAS = 64
_QUEUE = 16  # events that a slow listener may lag behind; then it misses the oldest


class Live:
    """The cameras whose answers are steadied, and the listeners. Of the event loop's thread alone."""

    def __init__(self) -> None:
        self._shown: OrderedDict[str, tuple[int, Shown]] = OrderedDict()
        self._listeners: set[asyncio.Queue[Event | None]] = set()
        self.closed = False

    def steady(self, camera: str, lesson: Lesson, answer: Answer, at: float) -> Shown:
        """What `camera` shows after one more answer; after a change of what was taught it begins anew."""
        generation, before = self._shown.pop(camera, (lesson.generation, None))
        shown = steadied(before if generation == lesson.generation else None, lesson.learner.classes, answer, at)
        self._shown[camera] = (lesson.generation, shown)
        while len(self._shown) > _MOST_CAMERAS:
            self._shown.popitem(last=False)
        return shown

    def tell(self, event: Event) -> None:
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    def close(self) -> None:
        """Let every listener go."""
        self.closed = True
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(None)

    @property
    def full(self) -> bool:
        return len(self._listeners) >= MOST_LISTENERS

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[AsyncIterator[Event | None]]:
        """The events from now on; None each 15 seconds in which there is none."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(_QUEUE)
        self._listeners.add(queue)
        try:
            yield self._events(queue)
        finally:
            self._listeners.discard(queue)

    async def _events(self, queue: "asyncio.Queue[Event | None]") -> AsyncIterator[Event | None]:
        while not self.closed:
            try:
                event = await asyncio.wait_for(queue.get(), 15)
            except TimeoutError:
                yield None
                continue
            if event is None:
                return
            yield event
