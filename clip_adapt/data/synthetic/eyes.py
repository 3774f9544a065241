"""Drawn photographs of eyes with one of thirteen conditions: synthetic, no basis for medicine.

The pictures exist so that examples, tests and comparisons of adaptation methods run without a
download. They follow textbook descriptions of each condition and say nothing about real patients.
"""

import difflib

import numpy as np

from clip_adapt.data.synthetic import tissue
from clip_adapt.data.synthetic.anatomy import sample_eye
from clip_adapt.data.synthetic.camera import photograph
from clip_adapt.data.synthetic.conditions import TABLE, Condition
from clip_adapt.data.synthetic.fields import Array
from clip_adapt.data.synthetic.scene import Scene

CONDITIONS: tuple[str, ...] = tuple(TABLE)
_SMALLEST, _LARGEST = 32, 1024
# Each pixel of the photograph is the mean of about this many squared samples of the scene.
_SUPERSAMPLING = 2


def draw(condition: str, n: int, size: int = 160, seed: int = 0, start: int = 0) -> Array:
    """Draw eyes with a condition.

    Picture i depends on the condition, i, the seed and the size alone, so a range of pictures can
    be drawn in several pieces, in any order.

    Args:
        condition: One of ``CONDITIONS``.
        n: Number of pictures, 0 or more.
        size: Edge of a picture in pixels, 32 to 1024.
        seed: Seed of the whole set, 0 or more.
        start: Index of the first picture, 0 or more.

    Returns:
        Pictures start to start + n - 1, RGB, uint8, shape (n, size, size, 3).

    Raises:
        ValueError: If the condition is unknown or a number is outside its range.
    """
    _check(condition, n, size, seed, start)
    pictures = np.empty((n, size, size, 3), np.uint8)
    for row in range(n):
        scene = _scene(condition, start + row, size, seed)
        pictures[row] = photograph(scene.rgb, size, _streams(condition, start + row, seed)[-1])
    return pictures


def _streams(condition: str, index: int, seed: int) -> list[np.random.Generator]:
    """Return the sources of a picture: anatomy, lesion, globe, lids and camera.

    Each part of the picture has its own, so that an eye keeps its face with and without disease.
    """
    sequence = np.random.SeedSequence((seed, CONDITIONS.index(condition), index))
    return [np.random.default_rng(child) for child in sequence.spawn(5)]


def _scene(condition: str, index: int, size: int, seed: int, healthy: bool = False) -> Scene:
    """Return the painted scene of a picture; ``healthy`` leaves the condition out."""
    anatomy, lesion, globe, lids, _ = _streams(condition, index, seed)
    case = Condition() if healthy else TABLE[condition]
    eye = case.adjust(sample_eye(anatomy), lesion)
    scene = Scene(eye, size * _SUPERSAMPLING)
    tissue.paint_sclera(scene, globe)
    tissue.paint_caruncle(scene, globe)
    cornea = scene.near(*eye.gaze, eye.iris + 0.5)
    tissue.paint_iris(cornea, globe)
    case.cornea(cornea, lesion)
    case.globe(scene, lesion)
    tissue.shade_globe(scene)
    tissue.paint_tears(scene, lids)
    tissue.paint_lids(scene, lids)
    tissue.paint_lashes(scene, lids)
    return scene


def _check(condition: str, n: int, size: int, seed: int, start: int) -> None:
    """Raise ValueError for an unknown condition or a number outside its range."""
    if condition not in TABLE:
        near = difflib.get_close_matches(condition, CONDITIONS, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"unknown condition {condition!r}; did you mean {near!r}? "
            f"There are: {', '.join(CONDITIONS)}"
        )
    if not _SMALLEST <= size <= _LARGEST:
        raise ValueError(f"size is {size}; it must lie between {_SMALLEST} and {_LARGEST} pixels")
    for name, value in (("n", n), ("seed", seed), ("start", start)):
        if value < 0:
            raise ValueError(f"{name} is {value}; it must be 0 or more")
