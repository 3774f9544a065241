"""Smooth random fields and soft strokes on a square canvas, with numpy alone.

Both are built from cubic B-spline weights. The random numbers a picture consumes are the knots of
its splines, so their count does not depend on the picture's size and an eye keeps its face when it
is drawn larger.
"""

import itertools
from functools import lru_cache

import numpy as np

Array = np.ndarray
Rng = np.random.Generator
Window = tuple[slice, slice]

# A cubic B-spline averages unit normal knots down to a variance of 0.479 along each axis.
_SPLINE_VARIANCE = 0.479


@lru_cache(maxsize=512)
def spline(count: int, cells: int) -> Array:
    """Return the weights that turn knots into ``count`` evenly spaced samples.

    Args:
        count: Number of samples.
        cells: Number of spline segments that the samples span.

    Returns:
        Cubic B-spline weights of shape (count, cells + 3), float32; every row adds up to one.
    """
    position = (np.arange(count) + 0.5) * cells / count
    left = np.minimum(position.astype(int), cells - 1)
    f = position - left
    taps = [(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3]
    weights = np.zeros((count, cells + 3), np.float32)
    for tap, value in enumerate(taps):
        weights[np.arange(count), left + tap] = value / 6
    return weights


def noise(rng: Rng, side: int, window: Window, cells: float, stretch: float = 1.0) -> Array:
    """Return part of a smooth random field of mean 0 and deviation about 1.

    Args:
        rng: Source of the knots.
        side: Edge of the whole field in samples.
        window: Rows and columns of the part that is returned.
        cells: Bumps along a row of the whole field.
        stretch: How many times longer than wide the bumps are, along rows.
    """
    down, across = max(1, round(cells)), max(1, round(cells / stretch))
    knots = rng.standard_normal((down + 3, across + 3), dtype=np.float32) / _SPLINE_VARIANCE
    return spline(side, down)[window[0]] @ knots @ spline(side, across)[window[1]].T


def fibres(rng: Rng, angle: Array, depth: Array, spokes: int, rings: int) -> Array:
    """Return noise in polar coordinates, seamless around the circle.

    Args:
        rng: Source of the values.
        angle: Angles in radians, any shape.
        depth: Radial position between 0 and 1, the same shape.
        spokes: Bumps around the circle.
        rings: Bumps from depth 0 to depth 1.

    Returns:
        Values of mean 0 and deviation about 0.7, the shape of ``angle``.
    """
    knots = rng.standard_normal((spokes, rings + 2), dtype=np.float32)
    a = np.mod(angle / (2 * np.pi), 1.0) * spokes
    r = np.clip(depth, 0, 1) * rings
    i, j = a.astype(np.intp), r.astype(np.intp)
    fa, fr = smooth(a - np.floor(a)), smooth(r - np.floor(r))
    i, after = i % spokes, (i + 1) % spokes
    near = knots[i, j] * (1 - fa) + knots[after, j] * fa
    return near * (1 - fr) + (knots[i, j + 1] * (1 - fa) + knots[after, j + 1] * fa) * fr


def smooth(x: Array, low: float = 0.0, high: float = 1.0) -> Array:
    """Return the smooth step from 0 at ``low`` to 1 at ``high``, elementwise."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def strokes(side: int, columns: Array, rows: Array, radius: Array) -> Array:
    """Return how much of each pixel a set of curved strokes covers.

    Args:
        side: Edge of the canvas in pixels.
        columns: Spline knots of the strokes across the canvas, shape (strokes, knots >= 4), pixels.
        rows: The same, down the canvas.
        radius: Half width at the knots in pixels, the same shape.

    Returns:
        Coverage between 0 and 1, shape (side, side).
    """
    canvas = np.zeros(side * side, np.float32)
    if not columns.size:
        return canvas.reshape(side, side)
    x, y, r = (_dense(knots, columns, rows) for knots in (columns, rows, radius))
    kept = (x > -9) & (x < side + 9) & (y > -9) & (y < side + 9)
    x, y, r = x[kept], y[kept], r[kept]
    reach = int(np.ceil(radius.max() + 0.5))
    span = range(-reach, reach + 1)
    for dx, dy in itertools.product(span, span):
        _dab(canvas, side, (x, y, r), dx, dy)
    return canvas.reshape(side, side)


def _dense(knots: Array, columns: Array, rows: Array) -> Array:
    """Return samples along the splines, no further than a pixel apart."""
    steps = np.hypot(np.diff(columns, axis=1), np.diff(rows, axis=1)).sum(axis=1)
    count = int(np.ceil(steps.max() / 8) + 1) * 8
    return knots.astype(np.float32) @ spline(count, knots.shape[1] - 3).T


def _dab(canvas: Array, side: int, samples: tuple[Array, Array, Array], dx: int, dy: int) -> None:
    """Raise the pixel at an offset from every sample to the sample's coverage there."""
    x, y, r = samples
    column, row = np.floor(x) + dx, np.floor(y) + dy
    distance = np.hypot(column + 0.5 - x, row + 0.5 - y)
    # A stroke thinner than a pixel is as faint as it is thin.
    cover = np.clip(r + 0.5 - distance, 0, np.minimum(1, 2 * r))
    inside = (cover > 0) & (column >= 0) & (column < side) & (row >= 0) & (row < side)
    place = row[inside].astype(np.intp) * side + column[inside].astype(np.intp)
    np.maximum.at(canvas, place, cover[inside])
