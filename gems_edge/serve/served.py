"""What one server answers with, and what its answers cost."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from gems_edge.device.host import temperature_c
from gems_edge.predict.memory import predict_memory
from gems_edge.process_memory import peak_rss_mb
from gems_edge.serve.classroom import Classroom
from gems_edge.serve.live import Live

_REMEMBERED = 100  # answers


@dataclass(frozen=True)
class Served:
    """The classroom, who listens to it, and the milliseconds of the last answers."""

    classroom: Classroom
    live: Live = field(default_factory=Live)
    times: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Remember how long an answer takes, from a photo's bytes to its class."""
        began = time.perf_counter()
        yield
        self.times.append(round(1e3 * (time.perf_counter() - began), 2))

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
