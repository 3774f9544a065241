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
    bar from 0 to 1; None draws no bar. ``better`` is None when the change may be chance.
    """

    name: str
    note: str
    value: str
    interval: str
    zero_shot: str
    change: str
    change_range: str
    better: bool | None
    low: float | None
    high: float | None
    point: float | None
    before: float | None


def make_row(
    quantity: Quantity,
    ours: Estimate,
    zero_shot: Mapping[str, float | None] | None,
    difference: Estimate | None = None,
) -> MetricRow:
    """Return one metric of metrics.json with zero-shot beside it.

    Args:
        quantity: what is measured.
        ours: of the run.
        zero_shot: on the same images.
        difference: of both, with the interval over resamples that they share.
    """
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
        change_range=_write_change_range(quantity, difference or {}),
        better=quantity.is_better(value, before) if _is_sure(quantity, difference or {}) else None,
        low=low,
        high=high,
        point=point,
        before=other,
    )


def _is_sure(quantity: Quantity, difference: Estimate) -> bool:
    # Whether the interval of a difference, as it is written, leaves 0 out.
    low, high = difference.get("low"), difference.get("high")
    if low is None or high is None:
        return False
    return float(quantity.write_change(low)) > 0 or float(quantity.write_change(high)) < 0


def _write_change_range(quantity: Quantity, difference: Estimate) -> str:
    low, high = difference.get("low"), difference.get("high")
    if low is None or high is None:
        return ""
    return f"{quantity.write_change(low)} to {quantity.write_change(high)}"


def count_of(count: int, noun: str) -> str:
    """Return ``1 image`` or ``1,200 images``."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


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
