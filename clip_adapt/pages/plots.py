"""Plots as SVG text that takes its colours and its font from the page it stands in."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

# Colours that stand for the page's own, and are replaced by them in the finished SVG.
INK, MUTED, GRID, ACCENT, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
COLOURS = tuple(f"#10101{i}" for i in range(6))  # of lines
VARIABLES = {
    **{colour: f"var(--c{i})" for i, colour in enumerate(COLOURS)},
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    ACCENT: "var(--accent)",
    SECOND: "var(--second)",
}
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (3, 1.5, 1, 1.5)), (0, (1.5, 1.2)), "-", "--")
BINS = 10
SPARSE = 10  # a bin with fewer images says little: it is open, and no line leads to it
Z95 = 1.96
ACCURACIES = {"accuracy": "support set", "val_accuracy": "val"}
STYLE: Any = {  # matplotlib's type for this names each of its 300 keys
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.axisbelow": True,
}


def draw_learning_curve(
    curve: Mapping[str, Sequence[float]],
    labels: Mapping[str, str] = ACCURACIES,
    axis: str = "accuracy in %",
) -> str:
    """Return the loss, and below it the shares from 0 to 1 that are measured, over the epochs.

    Args:
        curve: ``loss``, and shares by name: a number for each epoch.
        labels: what the lines of the shares are called, by name; those that ``curve`` lacks are
            left out.
        axis: what the shares are.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5, 4), layout="constrained")
        loss, shares = figure.subplots(2, 1, sharex=True)
        epochs = range(1, len(curve["loss"]) + 1)
        marker = "o" if len(epochs) < 12 else None
        loss.plot(epochs, curve["loss"], color=ACCENT, marker=marker, markersize=4)
        loss.set_ylabel("loss")
        loss.set_ylim(*_choose_limits(curve["loss"]))
        for name, colour, line in zip(labels, (ACCENT, SECOND), ("-", "--"), strict=False):
            if name in curve:
                label, values = labels[name], 100 * np.array(curve[name])
                shares.plot(
                    epochs, values, line, color=colour, label=label, marker=marker, markersize=4
                )
        shares.set_ylim(0, 102)
        shares.set_ylabel(axis)
        shares.set_xlabel("epoch")
        shares.xaxis.set_major_locator(MaxNLocator(integer=True))
        ends = [curve[name][-1] for name in labels if name in curve]
        free = "lower right" if max(ends, default=0) > 0.5 else "upper right"
        shares.legend(frameon=False, loc=free, labelcolor=INK)
        return _write_svg(figure, "curve")


@dataclass(frozen=True)
class Line:
    """A line over shots: values with their intervals."""

    name: str
    shots: list[int]
    values: list[float]
    lows: list[float]
    highs: list[float]


def draw_shots(lines: Sequence[Line], label: str) -> str:
    """Return lines over the shots with their intervals, and their names below.

    Args:
        lines: at most as many as there are colours.
        label: what the values are.
    """
    with mpl.rc_context({**STYLE, "text.parse_math": False}):
        figure = Figure(figsize=(4.6, 3.6 + 0.2 * len(lines)), layout="constrained")
        axes = figure.subplots()
        for line, colour, marker, dash in zip(lines, COLOURS, MARKERS, DASHES, strict=False):
            axes.fill_between(line.shots, line.lows, line.highs, color=colour, alpha=0.12)
            axes.plot(line.shots, line.values, color=colour, marker=marker, linestyle=dash,
                      markersize=5, label=line.name)  # fmt: skip
        ticks = sorted({shots for line in lines for shots in line.shots})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("labelled images per class (shots)")
        axes.set_ylabel(label)
        figure.legend(loc="outside lower left", frameon=False, labelcolor=INK)
        return _write_svg(figure, "shots")


@dataclass(frozen=True)
class Bin:
    """The predictions of one range of confidence.

    Attributes:
        place: number of the range, from 0.
        count: how many there are.
        said: their mean confidence.
        right: the share of them that is right.
        low: of its 95 % interval.
        high: of its 95 % interval.
    """

    place: int
    count: int
    said: float
    right: float
    low: float
    high: float

    @property
    def sparse(self) -> bool:
        """Whether there are too few predictions to say much."""
        return self.count < SPARSE


def list_bins(correct: NDArray[np.bool_], confidence: NDArray[np.float64]) -> list[Bin]:
    """Return the ranges of confidence, each a tenth, that hold a prediction.

    The interval is Wilson's: https://doi.org/10.1080/01621459.1927.10502953.

    Args:
        correct: whether each prediction is right (N,).
        confidence: the probability that was given to it (N,).
    """
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    found = []
    for place in np.unique(places).tolist():
        inside = places == place
        n, share = int(inside.sum()), float(correct[inside].mean())
        middle = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
        half = math.sqrt(share * (1 - share) / n + (Z95 / (2 * n)) ** 2) * Z95 / (1 + Z95**2 / n)
        said = float(confidence[inside].mean())
        found.append(Bin(place, n, said, share, middle - half, middle + half))
    return found


def list_joined(bins: Sequence[Bin]) -> list[tuple[Bin, Bin]]:
    """Return the neighbours that a line may join: nothing between them, and neither sparse."""
    return [
        (a, b)
        for a, b in itertools.pairwise(bins)
        if b.place == a.place + 1 and not a.sparse and not b.sparse
    ]


def draw_reliability(correct: NDArray[np.bool_], confidence: NDArray[np.float64]) -> str:
    """Return how often predictions of a confidence are right, and how many there are.

    Args:
        correct: whether each prediction is right (N,).
        confidence: the probability that was given to it (N,).
    """
    bins = list_bins(correct, confidence)
    most = max(b.count for b in bins)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5, 4), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
        above.plot([0, 100], [0, 100], "--", color=MUTED, linewidth=1)
        above.text(4, 13, "as sure as right", color=MUTED, fontsize=9, rotation=32)
        for a, b in list_joined(bins):
            above.plot([100 * a.said, 100 * b.said], [100 * a.right, 100 * b.right], color=ACCENT)
        for b in bins:
            above.vlines(100 * b.said, 100 * b.low, 100 * b.high, color=ACCENT, linewidth=0.8)
            face = "none" if b.sparse else ACCENT
            size = 3.5 + 5.5 * math.sqrt(b.count / most)
            place = 100 * b.said, 100 * b.right
            above.plot(*place, "o", color=ACCENT, markerfacecolor=face, markersize=size)
        above.set_ylim(-2, 102)
        above.set_ylabel("right, in %")
        edges = [100 * b.place / BINS for b in bins]
        bars = below.bar(
            edges, [b.count for b in bins], 100 / BINS, align="edge", color=ACCENT, alpha=0.55
        )
        below.bar_label(bars, fontsize=8, color=MUTED, padding=1)
        below.set_ylim(0, 1.35 * most)
        below.set_ylabel("images")
        below.set_xlabel("probability given to the predicted class, in %")
        below.set_xlim(0, 100)
        return _write_svg(figure, "reliability")


def _choose_limits(losses: Sequence[float]) -> tuple[float, float]:
    # From 0, or from below a negative loss; a loss that never changes is seen whole, too.
    finite = [loss for loss in losses if math.isfinite(loss)] or [1.0]
    low, high = min(0.0, *finite), max(0.0, *finite)
    room = 0.05 * ((high - low) or 1)
    return (low - room if low < 0 else low), high + room


def _write_svg(figure: Figure, salt: str) -> str:
    # Several plots stand in one page: what refers to an id must find its own.
    with mpl.rc_context({"svg.hashsalt": salt}):
        text = io.StringIO()
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href").replace("<svg", '<svg aria-hidden="true"', 1)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    numbers = itertools.count()
    fresh = {name: f"{salt}{next(numbers)}" for name in sorted(used)}

    def renamed(match: re.Match[str]) -> str:
        return f' id="{fresh[match[1]]}"' if match[1] in fresh else ""

    svg = re.sub(r' id="([^"]*)"', renamed, svg)
    svg = re.sub(r'(href="#|url\(#)([^")]+)', lambda m: m[1] + fresh[m[2]], svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r"font: ?([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    return re.sub(r"font-family: [^;\"]*;? ?", "", svg)
