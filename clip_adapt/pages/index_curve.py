"""The curve of an index: the headline metric against shots, a line per setting."""

from __future__ import annotations

from collections.abc import Sequence

from clip_adapt.evaluation.quantities import UNITS, Quantity
from clip_adapt.pages import plots
from clip_adapt.pages.plots import Line
from clip_adapt.pages.settings import Setting

LINES = 6  # as many as have a colour of their own
LENGTH = 34  # characters of a line's name


def draw(settings: Sequence[Setting], headline: Sequence[Quantity]) -> str:
    """Return the curve as SVG; nothing when the runs do not differ in their shots.

    Args:
        settings: the best first.
        headline: metrics; the first is drawn.
    """
    if not headline:
        return ""
    lines = list_lines(settings, headline[0])
    longest = max((len(line.shots) for line in lines), default=0)
    return plots.draw_shots(lines[:LINES], f"test {headline[0].write_title()}") * (longest > 1)


def list_lines(settings: Sequence[Setting], quantity: Quantity) -> list[Line]:
    """Return a line for all settings that differ in their shots alone, in order of their best."""
    factor = UNITS[quantity.unit].factor
    several = len({(s.runs[0].dataset, s.runs[0].model) for s in settings}) > 1
    found: dict[str, list[tuple[int, float, float, float]]] = {}
    for setting in settings:
        estimate = setting.estimate(quantity)
        value, low, high = (estimate.get(part) for part in ("value", "low", "high"))
        if value is None or setting.shots is None:
            continue
        run = setting.runs[0]
        name = f"{setting.label}, {run.dataset}, {run.model}" if several else setting.label
        low, high = value if low is None else low, value if high is None else high
        found.setdefault(name, []).append(
            (setting.shots, factor * value, factor * low, factor * high)
        )
    return [_make_line(name, sorted(points)) for name, points in found.items()]


def _make_line(name: str, points: Sequence[tuple[int, float, float, float]]) -> Line:
    shots = [point[0] for point in points]
    return Line(_shorten(name), shots, *([point[i] for point in points] for i in (1, 2, 3)))


def _shorten(name: str) -> str:
    return name if len(name) <= LENGTH else f"{name[: LENGTH - 1]}…"
