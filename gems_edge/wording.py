"""How numbers and names are written for people: accuracies with their intervals, predictions with theirs."""

import math
from collections.abc import Mapping
from typing import Any


def printable(text: str) -> str:
    """`text` fit for a terminal: control characters, line breaks among them, become "?"."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else "?" for sign in text)


def percent_text(share: float, half: float | None = None, digits: int = 1, signed: bool = False) -> str:
    """A share and the half-width of its interval in %: "81.2 ± 0.9"; without one, or with an infinite one, "81.2"."""
    text = f"{100 * share:{'+' if signed else ''}.{digits}f}"
    return text if half is None or not math.isfinite(half) else f"{text} ± {100 * half:.{digits}f}"


def accuracy_text(entry: Mapping[str, Any], digits: int = 1) -> str:
    """`entry` {accuracy, ci95} in words: "81.2 ± 0.9 %"."""
    return f"{percent_text(entry['accuracy'], entry.get('ci95'), digits)} %"


def below_bar_text(entry: Mapping[str, Any]) -> str:
    """A line where an accuracy does not beat its bar; "" where it does, or where there is none."""
    bar = entry.get("untrained")
    if not bar or entry["accuracy"] > bar["accuracy"]:
        return ""
    return (
        f"training gained nothing here: {accuracy_text(entry)}, while class means of the same network "
        f"without any training have {accuracy_text(bar)}"
    )


def protocol_text(entry: Mapping[str, Any]) -> str:
    return f"{entry['ways']}-way {entry['shots']}-shot" if "ways" in entry and "shots" in entry else ""


def learning_text(steps: int) -> str:
    """What one run of adapt.onnx makes, in a bundle that takes `steps`."""
    return "adapt step" if steps else "class means"


def interval_text(low: float, high: float) -> str:
    return f"{number_text(low)} … {number_text(high)}"


def number_text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def count_text(number: int, noun: str) -> str:
    """ "1 image", "5 images"."""
    return f"{number} {noun}{'s' if number != 1 else ''}"
