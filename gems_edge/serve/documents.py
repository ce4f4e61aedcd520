"""What is said over HTTP: JSON documents of a lesson and of an answer."""

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np

from gems_edge.device.album import shown
from gems_edge.device.answers import Answer
from gems_edge.serve.classroom import Lesson
from gems_edge.serve.steady import Shown

Document = dict[str, Any]


def state_document(lesson: Lesson) -> Document:
    """What was taught, and whether it is enough. `history`: the changes, newest first, of which `undo` can be undone.
    `waiting`: the first class, until there is a second one."""
    album, taught, waiting, bundle = lesson.album, lesson.learner.taught, lesson.waiting, lesson.learner.bundle
    versions = taught.versions if taught is not None else ()
    return {
        "generation": lesson.generation,
        "bundle": {
            "name": bundle.name,
            "image_size": bundle.image_size,
            "channels": bundle.channels,
            "knows_unknown": bundle.familiar is not None,
        },
        "classes": [
            {
                "class": shown(name),
                "photos": [
                    {"number": photo.number, "file": photo.source, "src": f"/api/photos/{photo.number}/{photo.picture}"}
                    for photo in album.of(name)
                ],
            }
            for name in album.classes
        ],
        "waiting": {"class": waiting.name, "photos": len(waiting.photos)} if waiting.photos else None,
        "history": [version.change for version in reversed(versions)],
        "undo": 1 if waiting.photos else max(0, len(versions) - 1),
        "enough": lesson.explanation and {"lines": lesson.explanation.lines(), **lesson.explanation.to_json()},
    }


def answer_document(lesson: Lesson, answer: Answer, milliseconds: float, waited: float) -> Document:
    """`class` is null for what is like nothing that was taught."""
    return {
        "generation": lesson.generation,
        "class": _name(answer.name),
        "guess": shown(answer.guess),
        "score": round(float(answer.score), 4),
        "shares": _shares(lesson.learner.classes, answer.shares),
        "set": None if answer.candidates is None else [shown(name) for name in answer.candidates],
        "ms": milliseconds,
        "waited_ms": waited,
    }


def steady_document(steady: Shown) -> Document:
    """What a camera shows, over its last frames: the shares of the classes and `unknown` come to 1."""
    return {
        "class": _name(steady.name),
        "guess": shown(steady.guess),
        "unknown": round(steady.unknown, 4),
        "shares": _shares(steady.classes, steady.shares),
    }


def _name(name: Hashable | None) -> str | None:
    return None if name is None else shown(name)


def _shares(classes: Iterable[Hashable], shares: np.ndarray) -> list[Document]:
    return [{"class": shown(name), "share": round(float(share), 4)} for name, share in zip(classes, shares)]
