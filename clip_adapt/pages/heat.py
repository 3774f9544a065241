"""The confusion matrix of many classes: a picture whose cells have names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from clip_adapt.pages import pictures, tables

RIGHT_RGB, WRONG_RGB = (31, 111, 235), (217, 83, 25)
NAMED = 2000  # cells that have a name, those of the largest shares
LABELS = 45  # names beside the picture at most
ORDERED = 2000  # classes that are put in order at most


@dataclass(frozen=True)
class Heat:
    """A matrix as the page shows it.

    Attributes:
        right: the diagonal as a picture (a data URI).
        wrong: all other cells, to be laid over it, so that each has a colour of its own.
        axis: of some rows, how far down they lie in per cent, and the class.
        cells: column, row and words of the cells that have a name.
    """

    right: str
    wrong: str
    axis: list[tuple[float, str]]
    cells: list[tuple[int, int, str]]


def draw_heat(confusion: NDArray[np.int64], classes: Sequence[str]) -> Heat:
    """Return the matrix (C, C) of counts, with classes that are taken for one another together."""
    order = order_classes(confusion)
    counts, names = confusion[np.ix_(order, order)], [classes[i] for i in order]
    shares = tables.divide_by_row(counts)
    right = np.diag(shares.diagonal())
    step = -(-len(names) // LABELS)
    return Heat(
        pictures.draw_heat(right, RIGHT_RGB),
        pictures.draw_heat(shares - right, WRONG_RGB),
        [(100 * (i + 0.5) / len(names), names[i]) for i in range(0, len(names), step)],
        _name_cells(counts, shares, names),
    )


def order_classes(confusion: NDArray[np.int64]) -> list[int]:
    """Return the classes in an order that puts those together that are taken for one another.

    It is the order of the leaves of a clustering (average linkage), in which two classes are the
    nearer, the larger the shares are of the one that are taken for the other.
    """
    n = len(confusion)
    shares = tables.divide_by_row(confusion)
    alike = shares + shares.T
    np.fill_diagonal(alike, 0)
    if n < 3 or n > ORDERED or not alike.any():
        return list(range(n))
    far = alike.max() - alike
    np.fill_diagonal(far, 0)
    return [int(i) for i in leaves_list(linkage(squareform(far, checks=False), "average"))]


def _name_cells(
    counts: NDArray[np.int64], shares: NDArray[np.float64], names: Sequence[str]
) -> list[tuple[int, int, str]]:
    rows, columns = np.nonzero(counts)
    first = np.argsort(-shares[rows, columns], kind="stable")[:NAMED]
    return [
        (int(j), int(i), _write_cell(names[i], names[j], int(counts[i, j]), int(counts[i].sum())))
        for i, j in zip(rows[first], columns[first], strict=True)
    ]


def _write_cell(true: str, predicted: str, count: int, images: int) -> str:
    what = "recognised" if true == predicted else f"taken for {predicted}"
    return f"{true} {what}: {count} of {images}"
