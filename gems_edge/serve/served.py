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


@dataclass
class Served:
    """The classroom, who listens to it, and the milliseconds of the last answers. `picture`: the newest of the camera
    at the board; None where there is none, and while it is gone."""

    classroom: Classroom
    live: Live = field(default_factory=Live)
    times: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    picture: bytes | None = None
    # As many answers at once as there are cores: more threads only wait for each other, and for Python's lock.
    answering: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(available_cores()))

    def seen(self, camera: str, lesson: Lesson, answer: Answer, milliseconds: float) -> Document:
        """What is said of an answer, which took so long from a photo's bytes to its class; that of a camera ("": none)
        is steadied and told to who listens. In the event loop's thread."""
        self.times.append(milliseconds)
        document = answer_document(lesson, answer, milliseconds)
        if camera:
            document["steady"] = steady_document(self.live.steady(camera, lesson, answer, time.monotonic()))
            self.live.tell({"event": "answer", "camera": camera, **document})
        return document

    def cost(self) -> dict[str, Any]:
        """`answer_ms` is the median of the last 100 answers; null stands for what this machine does not say."""
        lesson, peak = self.classroom.lesson, peak_rss_mb()
        taught = lesson.learner.taught
        cost = lesson.learner.bundle.manifest["cost"]
        predicted = predict_memory(cost, taught.images, "adapt") if taught else predict_memory(cost, 1, "predict")
        temperature = temperature_c()
        return {
            "answer_ms": median(self.times) if self.times else None,
            "peak_mb": None if peak is None else round(peak, 1),
            "predicted_peak_mb": round(predicted.value, 1),
            "temperature_c": None if temperature is None else round(temperature, 1),
        }
