"""Numbers as the report writes them."""

from collections.abc import Mapping
from typing import Any


def accuracy_text(entry: Mapping[str, Any]) -> str:
    interval = f" ± {100 * entry['ci95']:.1f}" if entry.get("ci95") is not None else ""
    return f"{100 * entry['accuracy']:.1f}{interval} %"


def protocol_text(entry: Mapping[str, Any]) -> str:
    return f"{entry['ways']}-way {entry['shots']}-shot" if "ways" in entry and "shots" in entry else ""


def interval_text(low: float, high: float) -> str:
    return f"{number_text(low)} … {number_text(high)}"


def number_text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
