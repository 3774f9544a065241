"""Drawing a block of pictures into a folder: what a worker process does.

It stands in a module of its own so that a worker imports the drawing and nothing else.
"""

from __future__ import annotations

import importlib
import os

from PIL import Image


def draw_block(
    folder: str, generator: str, condition: str, start: int, count: int, size: int, seed: int
) -> int:
    """Draw pictures ``start`` to ``start + count - 1`` of a condition as PNG files.

    Args:
        folder: where; it is created.
        generator: name of a module in clip_adapt.data.synthetic.
        condition: what to draw.
        start: number of the first picture; files are named by number.
        count: how many pictures.
        size: edge of a picture in pixels.
        seed: seed of the whole set.

    Returns:
        ``count``, for a progress bar.
    """
    draw = importlib.import_module(f"clip_adapt.data.synthetic.{generator}").draw
    os.makedirs(folder, exist_ok=True)
    for offset, picture in enumerate(draw(condition, count, size, seed, start=start)):
        path = os.path.join(folder, file_name(start + offset))
        Image.fromarray(picture).save(path, compress_level=1)
    return count


def file_name(number: int) -> str:
    """Return the name of a picture's file."""
    return f"{number:07d}.png"
