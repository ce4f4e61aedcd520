"""The results of a board's adapt, predict and bench, checked: only what is expected is taken, in the form expected."""

from collections.abc import Collection
from typing import Any

import numpy as np

from gems_edge.remote.untrusted import not_understood

_GRAPHS = ("predict", "trunk", "adapt_step")
_CONDITIONS = {
    "clock_mhz": float, "firmware_clock_mhz": float, "temperature_c": float, "governor": str, "throttled": str,
    "memory_available_mb": float, "disk_free_mb": float,
}  # fmt: skip


def read_answers(outcome: dict[str, Any], expected: np.ndarray, host: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The board's own `bench --json`, and what "remote" holds of its answers.

    `expected`: probabilities [images, classes] of this machine after the same adaptation. What else the board sends
    stands for nothing of this machine's. Raises MachineError for results of another form.
    """
    try:
        results, versions = outcome["results"], outcome["versions"]
        answers = [_answer(answer) for answer in results["predict"]]
        return _bench(results["bench"]), {
            **{name: _is(versions[name], str) for name in ("python", "onnxruntime", "numpy")},
            "adapt": _adapt(results["adapt"]),
            "predict": answers,
            "agreement": _agreement(expected, answers),
            "seconds": {name: round(_is(value, float), 2) for name, value in outcome["seconds"].items()},
        }
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        raise not_understood(host) from None


def _answer(answer: dict[str, Any]) -> dict[str, Any]:
    _is(answer["label"], str)
    for probability in answer["probabilities"].values():
        _number(probability)
    return {name: value for name, value in answer.items() if name != "image"}


def _agreement(expected: np.ndarray, answers: list[dict[str, Any]]) -> dict[str, Any]:
    """How far the board's answers are from this machine's, both after their own adaptation."""
    probabilities = np.array([list(answer["probabilities"].values()) for answer in answers], np.float64)
    if probabilities.shape != expected.shape:
        raise ValueError
    return {
        "largest_difference": float(np.abs(probabilities - expected).max()),
        "same_labels": bool((probabilities.argmax(axis=1) == expected.argmax(axis=1)).all()),
        "images": len(answers),
    }


def _adapt(document: dict[str, Any]) -> dict[str, Any]:
    _is(document["steps"], int)
    if document["ms_per_step"]:
        _number(document["ms_per_step"]["p50"])
    return document


def _bench(document: dict[str, Any]) -> dict[str, Any]:
    """The parts that `bench` writes, as far as its text and the comparison with predictions read them."""
    host, conditions, memory = document["host"], document["conditions"], document["memory"]
    for name in ("onnxruntime", "python", "machine"):
        _is(host[name], str)
    for name in ("board", "cpu"):
        _is(host.get(name, ""), str)
    _number(host.get("highest_clock_mhz", 1))
    for part in (conditions["before"], conditions["after"]):
        for name, kind in _CONDITIONS.items():
            _is(part.get(name, kind()), kind)
    _all(conditions["spoiled"], str)
    if conditions["clock"] is not None:
        _figure(conditions["clock"], ["core"])
    times = {name: document[name] for name in ("predict", *({"trunk"} & document.keys()), "adapt")}
    for figure in times.values():
        _figure(figure, ["p50"])
        _is(figure["images"], int)
    int8 = {"int8": _int8(document["int8"])} if "int8" in document else {}
    for what in ("predict", "adapt"):
        _figure(memory[what], ["peak"])
        if "predicted" in memory[what]:
            _figure(memory[what]["predicted"], ["peak"])
    _figure(document["cold_start"], ["p50"])
    for graph in _GRAPHS:
        _is(document["macs"].get(graph, 0), int)
    _is(document["bytes"]["total"], int)
    return {
        "host": host,
        "conditions": conditions,
        "threads": _is(document["threads"], int),
        **times,
        **int8,
        "memory": {what: memory[what] for what in ("predict", "adapt")},
        "cold_start": document["cold_start"],
        "bytes": document["bytes"],
        "macs": document["macs"],
    }


def _int8(document: dict[str, Any]) -> dict[str, Any]:
    for name in ("predict", "times_faster", *({"trunk"} & document.keys())):
        _figure(document[name], ["p50"])
    return document


def _figure(section: dict[str, Any], names: Collection[str]) -> None:
    """ValueError, TypeError or KeyError unless the section holds numbers, those of `names` above 0, as figures do."""
    for name in {*names, *section["interval"]}:
        low, high = section["interval"][name]
        if not 0 <= _number(low) <= _number(high) or _number(section[name]) < 0 or name in names and not section[name]:
            raise ValueError
    for name in ("unit", "tag", "source"):
        _is(section[name], str)


def _number(value: Any) -> float:
    number: float = _is(value, float)
    return number


def _all(values: Any, kind: type) -> None:
    for value in _is(values, list):
        _is(value, kind)


def _is(value: Any, kind: type) -> Any:
    """`value`, if it is of this type (an int will do for a float, a bool for neither); else TypeError."""
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise TypeError
    return value
