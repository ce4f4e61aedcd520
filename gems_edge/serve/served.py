"""What one server answers with, and what its answers cost."""

import time
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from anyio import CapacityLimiter

from gems_edge.control_groups import available_cores
from gems_edge.device.answers import Answer
from gems_edge.device.host import temperature_c
from gems_edge.predict.memory import predict_memory
from gems_edge.process_memory import peak_rss_mb
from gems_edge.serve.classroom import Classroom, Lesson
from gems_edge.serve.documents import Document, answer_document, steady_document
from gems_edge.serve.live import Live

_REMEMBERED = 100  # answers


@dataclass(frozen=True)
class Answered:
    """An answer, by which lesson, and the milliseconds from a photo's bytes to its class, and before, for a core."""

    lesson: Lesson
    answer: Answer
    milliseconds: float
    waited: float = 0.0


@dataclass
class Served:
    """The classroom, who listens to it, and how many milliseconds the last answers took, and waited. `picture`: the
    newest of the camera at the board; None where there is none, and while it is gone."""

    classroom: Classroom
    live: Live = field(default_factory=Live)
    times: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    waits: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    picture: bytes | None = None
    # As many answers at once as there are cores: more threads only wait for each other, and for Python's lock.
    answering: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(available_cores()))

    def ask(self, photo: bytes, accept_all: bool = False, coverage: float | None = None, since: float = 0) -> Answered:
        """As Classroom.answer; `since`: from when on it waited (time.perf_counter), 0 where it did not."""
        began = time.perf_counter()
        lesson, answer = self.classroom.answer(photo, accept_all, coverage)
        waited = began - since if since else 0.0
        return Answered(lesson, answer, round(1e3 * (time.perf_counter() - began), 2), round(1e3 * waited, 2))

    def seen(self, camera: str, answered: Answered) -> Document:
        """What is said of an answer; that of a camera ("": none) is steadied and told to who listens. In the event
        loop's thread."""
        lesson, answer = answered.lesson, answered.answer
        self.times.append(answered.milliseconds)
        self.waits.append(answered.waited)
        document = answer_document(lesson, answer, answered.milliseconds, answered.waited)
        if camera:
            document["steady"] = steady_document(self.live.steady(camera, lesson, answer, time.monotonic()))
            self.live.tell({"event": "answer", "camera": camera, **document})
        return document

    def cost(self) -> dict[str, Any]:
        """`answer_ms` and `wait_ms` are medians of the last 100 answers; null: this machine does not say it."""
        lesson, peak = self.classroom.lesson, peak_rss_mb()
        taught = lesson.learner.taught
        cost = lesson.learner.bundle.manifest["cost"]
        predicted = predict_memory(cost, taught.images, "adapt") if taught else predict_memory(cost, 1, "predict")
        temperature = temperature_c()
        return {
            "answer_ms": median(self.times) if self.times else None,
            "wait_ms": median(self.waits) if self.waits else None,
            "peak_mb": None if peak is None else round(peak, 1),
            "predicted_peak_mb": round(predicted.value, 1),
            "temperature_c": None if temperature is None else round(temperature, 1),
        }
