"""What is measured: its name, its unit, which way is better, and how its values are written.

Whatever shows a number of metrics.json (terminal, pages, model card, tables and curve of a sweep)
asks the quantity and knows nothing of it besides.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from clip_adapt.errors import InputError, explain_unknown

Estimate = Mapping[str, float | None]  # {"value", "low", "high"}: a value and its 95 % interval
UNDEFINED = "not defined"
RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class Unit:
    """How numbers of a unit are written: ``factor`` times the number, rounded, then ``sign``."""

    factor: float = 1.0
    digits: int = 3
    sign: str = ""


UNITS = {
    "none": Unit(),
    "per cent": Unit(factor=100.0, digits=1, sign=" %"),
    "nats": Unit(),
    "classes": Unit(digits=2, sign=" classes"),
}


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """Something that is measured.

    Attributes:
        name: in metrics.json and in tables for machines: letters, digits, ``_`` and ``@``.
        spoken: the same for people.
        unit: ``none``, ``per cent`` (a share, 1 is 100 %), ``nats`` or ``classes``.
        better: which values are better; None where neither is, as for a promised coverage.
        headline: whether it stands where there is room for few.
        low: smallest value that can be.
        high: largest value that can be.
    """

    name: str
    spoken: str
    unit: str = "none"
    better: Literal["higher", "lower"] | None = "higher"
    headline: bool = False
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w@]+", self.name):
            raise InputError(f"a metric is called {self.name!r}: use letters, digits, _ and @")
        if self.unit not in UNITS:
            raise InputError(f"metric {self.name}: {explain_unknown('unit', self.unit, UNITS)}")
        if not self.low < self.high:
            raise InputError(f"metric {self.name}: low={self.low} is not below high={self.high}")

    @property
    def best(self) -> float | None:
        """The best value that can be; None where no direction is better."""
        return {"higher": self.high, "lower": self.low, None: None}[self.better]

    def is_better(self, value: float | None, before: float | None) -> bool | None:
        """Return whether a value is better than one before it; None when that cannot be said."""
        if self.better is None or value is None or before is None or value == before:
            return None
        return (value > before) == (self.better == "higher")

    def write_value(self, value: float | None) -> str:
        """Return ``49.1 %`` or ``0.912``."""
        return UNDEFINED if value is None else f"{self._write(value)}{UNITS[self.unit].sign}"

    def write_range(self, estimate: Estimate) -> str:
        """Return the interval of an estimate: ``45.2 to 53.0``; nothing when there is none."""
        low, high = estimate.get("low"), estimate.get("high")
        return "" if low is None or high is None else f"{self._write(low)} to {self._write(high)}"

    def write_estimate(self, estimate: Estimate) -> str:
        """Return ``49.1 % (45.2 to 53.0)`` or ``0.912 (0.901 to 0.923)``."""
        value, interval = self.write_value(estimate["value"]), self.write_range(estimate)
        return f"{value} ({interval})" if interval else value

    def write_spread(self, mean: float, deviation: float) -> str:
        """Return mean and standard deviation: ``49.1 ± 2.2 %``."""
        return f"{self._write(mean)} ± {self.write_value(deviation)}"

    def write_change(self, change: float) -> str:
        """Return a difference with its sign, in per cent points or plainly."""
        return f"{self._round(change):+.{UNITS[self.unit].digits}f}"

    def write_title(self) -> str:
        """Return the title of an axis: ``accuracy in %``, ``NLL in nats``, ``AUROC``."""
        word = UNITS[self.unit].sign.strip() or {"none": ""}.get(self.unit, self.unit)
        return f"{self.spoken} in {word}" if word else self.spoken

    def describe(self) -> dict[str, Any]:
        """Return what metrics.json says of a quantity that does not ship."""
        ends = [end if math.isfinite(end) else None for end in (self.low, self.high)]
        return {
            "spoken": self.spoken,
            "unit": self.unit,
            "better": self.better,
            "headline": self.headline,
            "range": ends,
        }

    @classmethod
    def from_description(cls, name: str, facts: Mapping[str, Any]) -> Quantity:
        """Return what ``describe`` described."""
        low, high = facts["range"]
        return cls(
            name=name,
            spoken=facts["spoken"],
            unit=facts["unit"],
            better=facts["better"],
            headline=facts["headline"],
            low=-math.inf if low is None else low,
            high=math.inf if high is None else high,
        )

    def _write(self, value: float) -> str:
        return f"{self._round(value):.{UNITS[self.unit].digits}f}"

    def _round(self, value: float) -> float:
        unit = UNITS[self.unit]
        return round(unit.factor * value, unit.digits) + 0.0  # + 0.0: zero has no minus


def _of_class(name: str, spoken: str, unit: str = "per cent") -> Quantity:
    return Quantity(name=name, spoken=spoken, unit=unit)


# Of one class against the rest.
PER_CLASS = (
    _of_class("recall", "recall"),
    _of_class("precision", "precision"),
    _of_class("f1", "F1"),
    _of_class("auroc", "AUROC", "none"),
    _of_class("average_precision", "average precision", "none"),
)

# Of conformal sets. More coverage than was promised is no gain: the sets are larger than needed.
COVERAGE = Quantity(name="coverage", spoken="coverage", unit="per cent", better=None)
SET_SIZE = Quantity(
    name="set_size", spoken="set size", unit="classes", better="lower", high=math.inf
)
EMPTY = Quantity(name="empty", spoken="empty sets", unit="per cent", better=None)

# Of images and captions.
RECALLS = tuple(
    Quantity(
        name=f"{way}_recall@{k}",
        spoken=f"{way.replace('_', ' ')} recall@{k}",
        unit="per cent",
        headline=k == 5,
    )
    for way in ("image_to_text", "text_to_image")
    for k in RECALL_AT
)
