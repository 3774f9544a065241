"""The camera: optical blur, sampling, exposure, white balance, sensor noise and JPEG."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image

from clip_adapt.data.synthetic.fields import Array, Rng

# Blur is a property of the photograph, so it is stated for this width and grows with the picture.
_WIDTH = 160


def photograph(rgb: Array, size: int, rng: Rng) -> Array:
    """Return the photograph of a scene.

    Args:
        rgb: The scene, values about 0..1, shape (3, side, side) with side >= size.
        size: Edge of the photograph in pixels.
        rng: Source of the camera's settings and noise.

    Returns:
        The photograph, RGB, uint8, shape (size, size, 3).
    """
    blur = rng.uniform(0.2, 0.8) * size / _WIDTH
    image = _sample(rgb, size, round(blur, 2))
    image = _expose(image, rng)
    grain = rng.uniform(0.003, 0.016)
    image = image + grain * rng.standard_normal(image.shape, dtype=np.float32)
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    return _compress(pixels, int(rng.integers(60, 96)))


def _expose(image: Array, rng: Rng) -> Array:
    """Return the image under a random exposure, contrast, white balance and vignette."""
    # Automatic exposure goes part of the way from the scene's own brightness to a middle grey.
    automatic = (0.5 / float(image.mean())) ** 0.4
    gain = automatic * rng.normal(1, 0.09) * rng.normal(1, 0.035, 3) * np.array([1, 0.99, 0.97])
    contrast = rng.uniform(0.85, 1.15)
    image = (image * gain[:, None, None].astype(np.float32) - 0.5) * contrast + 0.5
    axis = np.linspace(-1, 1, image.shape[1], dtype=np.float32)
    corner = axis[:, None] ** 2 + axis[None, :] ** 2
    return image * (1 - rng.uniform(0, 0.14) * corner)


def _sample(rgb: Array, size: int, blur: float) -> Array:
    """Return the blurred scene at the photograph's size; one matrix does both, per axis."""
    lens = _lens(rgb.shape[1], size, blur)
    return lens @ rgb @ lens.T


@lru_cache(maxsize=256)
def _lens(side: int, size: int, blur: float) -> Array:
    """Return Gaussian weights, (size, side), of the scene's pixels in the photograph's."""
    step = side / size
    centres = (np.arange(size) + 0.5) * step
    offset = np.arange(side)[None, :] + 0.5 - centres[:, None]
    # The pixel's own width adds to the blur: a box of one step has deviation step / sqrt(12).
    spread = step * np.hypot(blur, 12**-0.5)
    weights = np.exp(-0.5 * (offset / spread) ** 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _compress(pixels: Array, quality: int) -> Array:
    """Return the pixels after JPEG compression."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as image:
        return np.asarray(image.convert("RGB"))
