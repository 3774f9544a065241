"""Numbers of any depth as 8 bits."""

from __future__ import annotations

import numpy as np

from clip_adapt.data.formats.limits import Unusable

# What detectors give: files of 16 bits hold 8, 10, 12 or 14 of them. Few steps, so that one dark
# image among others of its kind is seldom taken for less than they are.
BITS = (8, 10, 12, 14, 16)
REMEDY = "save it with 8 or 16 bits"


def find_bits(highest: int) -> int:
    """Return how many bits a file uses whose highest value of 0 to 65535 is this."""
    return next(bits for bits in BITS if highest < 1 << bits)


def scale_integers(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Scale whole numbers by the bits that they use.

    The values of one image decide alone, so that a file is the same in every data set. Pillow
    would clip: every value above 255 would be white.

    Args:
        values: of any shape.

    Returns:
        the values as uint8, and the bits that are used.

    Raises:
        Unusable: when they go below 0 or above 65535.
    """
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise Unusable(f"its values, {low} to {high}, have no known range: {REMEDY}")
    bits = find_bits(high)
    top = (1 << bits) - 1
    return ((values.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8), bits


def scale_shares(values: np.ndarray) -> np.ndarray:
    """Return floats from 0 to 1 as uint8; what was divided by 255 comes back exactly.

    Raises:
        Unusable: when they are not from 0 to 1.
    """
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise Unusable(
            f"its values, {low:g} to {high:g}, have no known range, as floats from 0 to 1 have: "
            f"{REMEDY}"
        )
    return stretch(values, 0, 1)


def stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return values as uint8 with ``low`` at 0 and ``high`` at 255; what lies outside is cut."""
    if high <= low:
        return np.zeros(values.shape, dtype=np.uint8)
    shares = (values.astype(np.float64) - low) / (high - low)
    return np.rint(shares.clip(0, 1) * 255).astype(np.uint8)
