"""Numbers as a page writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LOWER_IS_BETTER = frozenset({"ece", "brier", "nll"})
IN_PERCENT = ("accuracy", "f1", "ece", "coverage")
ABBREVIATIONS = frozenset({"ece", "auroc", "nll", "f1"})
DASH = "–"


@dataclass(frozen=True)
class Metric:
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


def metric(name: str, ours: Mapping[str, Any], zero_shot: Mapping[str, Any] | None) -> Metric:
    """Return one metric of metrics.json with zero-shot beside it."""
    percent = name.endswith(IN_PERCENT)
    value, low, high = ours["value"], ours.get("low"), ours.get("high")
    before = (zero_shot or {}).get("value")
    lower = name in LOWER_IS_BETTER
    drawn = _are_shares(value, low, high, before)
    return Metric(
        name=spoken(name),
        note="lower is better" if lower else "",
        value=number(value, percent),
        interval="" if low is None else f"{number(low, percent)} to {number(high, percent)}",
        zero_shot=number(before, percent),
        change=_change(value, before, percent),
        better=None
        if value is None or before is None or value == before
        else (value < before) == lower,
        low=low if drawn else None,
        high=high if drawn else None,
        point=value if drawn else None,
        before=before if drawn else None,
    )


def _are_shares(*values: float | None) -> bool:
    return all(v is not None and 0 <= v <= 1 for v in values)


def spoken(name: str) -> str:
    """Return ``macro F1`` for ``macro_f1``."""
    words = name.split("_")
    return " ".join(w.upper() if w in ABBREVIATIONS else w for w in words)


def of_metric(name: str, value: float | None) -> str:
    """Return a metric's value as it is usually written: accuracy in per cent, loss plainly."""
    return number(value, name.endswith(IN_PERCENT))


def size(count: float) -> str:
    """Return a number of bytes as ``14 kB`` or ``1.3 GB``."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return (
                f"{count:.1f} {unit}" if count < 10 and unit != "bytes" else f"{count:.0f} {unit}"
            )
        count /= 1000
    return f"{count:.1f} GB"


def seconds(count: float) -> str:
    """Return a duration as ``2.4 s`` or ``3 min 20 s``."""
    if count < 60:
        return f"{count:.1f} s" if count < 10 else f"{count:.0f} s"
    minutes, rest = divmod(round(count), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def number(value: float | None, percent: bool) -> str:
    """Return a number of a metric: ``54.6 %`` or ``0.512``; a dash when it is not defined."""
    if value is None:
        return DASH
    return f"{100 * value:.1f} %" if percent else f"{value:.3f}"


def _change(value: float | None, before: float | None, percent: bool) -> str:
    if value is None or before is None:
        return DASH
    change = value - before
    return f"{100 * change:+.1f}" if percent else f"{change:+.3f}"
