"""Arrays and tensors of Python as pictures: which axis is what, and what their numbers mean.

| given | what it is |
|---|---|
| (H, W), (H, W, 1), (1, H, W) | grey |
| (H, W, 3), (3, H, W) | RGB |
| (H, W, 4), (4, H, W) | RGB and transparency, which is dropped |
| uint8 | 0 to 255 |
| uint16 | scaled by the bits that are used, as a file's |
| floats | 0 to 1 |
| bool | black and white |
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

from clip_adapt.data.formats.depth import scale_integers, scale_shares
from clip_adapt.data.formats.limits import SMALLEST, Unusable, refuse_absurd

CHANNELS = (1, 3, 4)


def read_array(given: np.ndarray | Tensor) -> Image.Image:
    """Return an array or a tensor as a picture (L or RGB).

    Raises:
        Unusable: when its shape, its type or its numbers are those of no picture.
    """
    values = _read_values(given) if isinstance(given, Tensor) else np.asarray(given)
    values = _find_rows(values, f"{given.dtype} {tuple(given.shape)}".removeprefix("torch."))
    refuse_absurd(values.shape[1], values.shape[0])
    return Image.fromarray(_scale(np.ascontiguousarray(values)))


def _read_values(given: Tensor) -> np.ndarray:
    held = given.detach().cpu()
    return (held.float() if held.is_floating_point() else held).numpy()


def _find_rows(values: np.ndarray, named: str) -> np.ndarray:
    # (H, W) or (H, W, 3), the rows first.
    if values.ndim == 2:
        return values
    last = values.ndim == 3 and values.shape[2] in CHANNELS
    first = values.ndim == 3 and values.shape[0] in CHANNELS
    if first and last:  # one of the two readings has a side of 1 to 4
        fits = min(values.shape[:2]) >= SMALLEST, min(values.shape[1:]) >= SMALLEST
        if all(fits):
            raise Unusable(f"it is {named}: either axis may hold the colours. Give (H, W, 3)")
        last = fits != (False, True)
    if not first and not last:
        raise Unusable(
            f"an image is (H, W), (H, W, 3) or (3, H, W) of uint8, or of floats from 0 to 1, "
            f"not {named}"
        )
    rows = values if last else values.transpose(1, 2, 0)
    return rows[..., 0] if rows.shape[2] == 1 else rows[..., :3]


def _scale(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if values.dtype == np.uint16:
        return scale_integers(values)[0]
    if np.issubdtype(values.dtype, np.floating):
        return scale_shares(values)
    raise Unusable(
        f"an image is uint8, or floats from 0 to 1, not {values.dtype}: where its numbers go from "
        "0 to 255, give image.astype('uint8')"
    )
