"""Numbers as a page writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clip_adapt.evaluation.quantities import Estimate, Quantity

DASH = "–"


@dataclass(frozen=True)
class MetricRow:
    """One row of the headline table, as text.

    ``low`` and ``high`` (the interval), ``point`` and ``before`` (zero-shot) place the marks on a
    bar from 0 to 1; None draws no bar.
    """

    name: str
    note: str
    value: str
    interval: str
    zero_shot: str
    change: str
    better: bool | None
    low: float | None
    high: float | None
    point: float | None
    before: float | None


def make_row(
    quantity: Quantity, ours: Estimate, zero_shot: Mapping[str, float | None] | None
) -> MetricRow:
    """Return one metric of metrics.json with zero-shot beside it."""
    value, before = ours["value"], (zero_shot or {}).get("value")
    marks = (ours.get("low"), ours.get("high"), value, before)
    drawn = quantity.high == 1 and all(mark is not None and 0 <= mark <= 1 for mark in marks)
    low, high, point, other = marks if drawn else (None, None, None, None)
    return MetricRow(
        name=quantity.spoken,
        note="lower is better" if quantity.better == "lower" else "",
        value=write_value(quantity, value),
        interval=quantity.write_range(ours),
        zero_shot=write_value(quantity, before),
        change=DASH if value is None or before is None else quantity.write_change(value - before),
        better=quantity.is_better(value, before),
        low=low,
        high=high,
        point=point,
        before=other,
    )


def write_value(quantity: Quantity, value: float | None) -> str:
    """Return ``54.6 %`` or ``0.512``; a dash when it is not defined."""
    return DASH if value is None else quantity.write_value(value)


def write_size(count: float) -> str:
    """Return a number of bytes as ``14 kB`` or ``1.3 GB``."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return (
                f"{count:.1f} {unit}" if count < 10 and unit != "bytes" else f"{count:.0f} {unit}"
            )
        count /= 1000
    return f"{count:.1f} GB"


def write_duration(count: float) -> str:
    """Return a number of seconds as ``2.4 s`` or ``3 min 20 s``."""
    if count < 60:
        return f"{count:.1f} s" if count < 10 else f"{count:.0f} s"
    minutes, rest = divmod(round(count), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
