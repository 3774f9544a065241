"""The picture of a sweep: a test metric against shots, a line per method, a band over the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from clip_adapt.evaluation.quantities import UNITS, Quantity
from clip_adapt.sweeps.results import Point
from clip_adapt.system.files import write_atomically

# Okabe and Ito's colours, apart for the colour-blind; lines and markers tell them apart in grey.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (3, 1.5, 1, 1.5)), (0, (1.5, 1.2)))
INK, MUTED, GRID = "#1d2229", "#5a6472", "#e2e5ea"
FONT = 10
STYLE: Any = {  # matplotlib's type for this names each of its 300 keys
    "font.size": FONT,
    "text.parse_math": False,
    "svg.hashsalt": "sweep",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "grid.color": GRID,
    "axes.axisbelow": True,
}


def draw_curve(
    folder: Path,
    series: Mapping[str, Sequence[Point]],
    zero_shot: Sequence[float],
    metric: Quantity,
    title: str,
) -> None:
    """Write ``curve.png`` and ``curve.svg``.

    Args:
        folder: where.
        series: the points of every line, by its name.
        zero_shot: values that are drawn as dashed lines.
        metric: what the values are.
        title: above the picture.

    Raises:
        InputError: when the folder cannot be written.
    """
    with mpl.rc_context(STYLE):
        figure = _make_figure(series, zero_shot, metric, title)
        for kind in ("png", "svg"):
            metadata = {"Date": None} if kind == "svg" else None
            with write_atomically(folder / f"curve.{kind}") as path:
                figure.savefig(path, format=kind, dpi=160, bbox_inches="tight", metadata=metadata)


def _make_figure(
    series: Mapping[str, Sequence[Point]],
    zero_shot: Sequence[float],
    metric: Quantity,
    title: str,
) -> Figure:
    scale = UNITS[metric.unit].factor
    figure = Figure(figsize=(6.4, 4.4))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    ends: list[tuple[str, float, float, str]] = []  # label, x and y of its line's end, colour
    for index, (name, points) in enumerate(series.items()):
        shots = [p.shots for p in points]
        means = [scale * p.mean for p in points]
        colour = COLOURS[index % len(COLOURS)]
        low = [scale * (p.mean - p.deviation) for p in points]
        high = [scale * (p.mean + p.deviation) for p in points]
        axes.fill_between(shots, low, high, color=colour, alpha=0.14, linewidth=0)
        axes.plot(
            shots,
            means,
            color=colour,
            linestyle=LINES[index % len(LINES)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=5.5,
            linewidth=1.8,
        )
        ends.append((name, shots[-1], means[-1], colour))
    ticks = sorted({p.shots for points in series.values() for p in points}) or [1]
    for value in zero_shot:
        axes.axhline(scale * value, color=MUTED, linestyle="--", linewidth=1.2, zorder=1)
        ends.append(("zero-shot", ticks[-1], scale * value, MUTED))
    _label_axes(axes, ticks, f"test {metric.write_title()}", title)
    _label_lines(figure, axes, ends)
    return figure


def _label_axes(axes: Any, ticks: list[int], label: str, title: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    axes.set_xlim(ticks[0] / 1.15, ticks[-1] * 1.15)
    axes.grid(True, linewidth=0.8)
    axes.set_xlabel("labelled images per class (shots)")
    axes.set_ylabel(label)
    axes.set_title(title, loc="left", fontsize=FONT + 1, pad=12)


def _label_lines(figure: Figure, axes: Any, ends: list[tuple[str, float, float, str]]) -> None:
    # Beside the ends of their lines, moved apart where they would overlap.
    figure.canvas.draw()
    height = FONT * 1.35 * figure.dpi / 72
    bottom, top = axes.get_window_extent().y0, axes.get_window_extent().y1
    order = sorted(ends, key=lambda end: end[2])
    wanted = [axes.transData.transform((1, y))[1] for _, _, y, _ in order]
    places = spread_places(wanted, height, bottom, top)
    for (name, x, y, colour), place in zip(order, places, strict=True):
        height_of = axes.transAxes.inverted().transform((0, place))[1]
        axes.annotate(
            name,
            xy=(x, y),
            xycoords="data",
            xytext=(1.035, height_of),
            textcoords="axes fraction",
            color=colour,
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "alpha": 0.45,
                "linewidth": 0.8,
                "relpos": (0, 0.5),
                "shrinkA": 2,
                "shrinkB": 5,
            },
            annotation_clip=False,
        )


def spread_places(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return places at least ``gap`` apart, near what is wanted, in the same order.

    They stay between ``low`` and ``high`` unless there are too many for that.

    Args:
        wanted: places in rising order.
        gap: smallest distance between neighbours.
        low: of the room that there is.
        high: of the room that there is.
    """
    # Neighbours that are too near form a block around the mean of what its members want.
    blocks: list[list[float]] = []
    for place in wanted:
        blocks.append([place])
        while len(blocks) > 1 and _find_start(blocks[-1], gap) < _find_end(blocks[-2], gap) + gap:
            last = blocks.pop()
            blocks[-1] += last
    places = [_find_start(block, gap) + i * gap for block in blocks for i in range(len(block))]
    for i in reversed(range(len(places))):
        places[i] = min(places[i], high if i == len(places) - 1 else places[i + 1] - gap)
    for i in range(len(places)):
        places[i] = max(places[i], low if i == 0 else places[i - 1] + gap)
    return places


def _find_start(block: list[float], gap: float) -> float:
    return sum(block) / len(block) - gap * (len(block) - 1) / 2


def _find_end(block: list[float], gap: float) -> float:
    return _find_start(block, gap) + gap * (len(block) - 1)
