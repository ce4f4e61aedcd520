"""One predicted quantity, in the forms that commands, pages and manifests show."""

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Prediction:
    """A value that is meant to lie between `low` and `high`, and where all three come from."""

    value: float
    low: float
    high: float
    unit: str  # ms, or MB (10⁶ bytes)
    source: str

    def times(self, factor: float) -> "Prediction":
        return replace(self, value=self.value * factor, low=self.low * factor, high=self.high * factor)

    def plus(self, other: "Prediction") -> "Prediction":
        """One after the other: ends add up, since what is wrong of a board is wrong in both."""
        source = "; ".join(dict.fromkeys((self.source, other.source)))
        low, high = self.low + other.low, self.high + other.high
        return Prediction(self.value + other.value, low, high, self.unit, source)

    def as_dict(self, name: str = "value", digits: int = 3, *, with_unit: bool = True) -> dict[str, Any]:
        """For JSON: {name: value, "interval": [low, high], "unit", "tag": "predicted", "source"}.

        `with_unit` False: where a key above it names the unit already.
        """
        document = {name: round(self.value, digits), "interval": [round(self.low, digits), round(self.high, digits)]}
        unit = {"unit": self.unit} if with_unit else {}
        return document | unit | {"tag": "predicted", "source": self.source}

    def as_figure(self, name: str) -> dict[str, Any]:
        """For JSON in the form of device.measure.Sample.as_dict, whose interval goes by the value's name."""
        document = self.as_dict(name, digits=4)
        return document | {"interval": {name: document["interval"]}}

    def value_text(self, form: str = ".4g") -> str:
        return f"{self.value:{form}} {self.unit}"

    def interval_text(self, form: str = ".4g") -> str:
        return f"{self.low:{form}} … {self.high:{form}}"
