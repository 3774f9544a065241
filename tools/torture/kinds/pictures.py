"""Image files of every format, through each door: prediction, the scan, and the fast JPEG way."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from clip_adapt.adapted.classifier import Classifier
from clip_adapt.adapted.loading import make_zero_shot
from clip_adapt.data import decoding, scan
from tools.torture import examples
from tools.torture.judging import Call
from tools.torture.kind import Kind
from tools.torture.mutation import mutate_bytes

ORIENTATION = 0x0112


@dataclass(frozen=True)
class Pictures:
    """Valid files by suffix, and a classifier that they are given to."""

    files: list[tuple[str, bytes]]
    classifier: Classifier


def prepare(folder: Path) -> Pictures:
    """Write one small picture in every format and mode that is common."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    turned[0x010F] = "maker"
    written = [(".jpg", {"exif": turned}), (".jpg", {"progressive": True}), (".png", {}),
               (".gif", {}), (".bmp", {}), (".webp", {"exif": turned}),
               (".tif", {"compression": "tiff_lzw"}), (".tif", {"exif": turned})]  # fmt: skip
    files = [(suffix, _save(image, suffix, **how)) for suffix, how in written]
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    files += [(suffix, _save(deep, suffix)) for suffix in (".png", ".tif")]
    files += [(".png", _save(image.convert(mode), ".png")) for mode in ("P", "L", "RGBA", "1")]
    files += [(".jpg", _save(image.convert("CMYK"), ".jpg"))]
    frames = {"save_all": True, "append_images": [image, image]}
    files += [(suffix, _save(image, suffix, **frames)) for suffix in (".gif", ".tif", ".webp")]
    model = str(examples.write_model(folder / "model"))
    return Pictures(files, make_zero_shot(examples.CLASSES, ["a {}."], model))


def attack(random: Random, valid: Pictures, place: Path) -> Call:
    """Mutate one file; sometimes it is named as another format."""
    suffix, data = random.choice(valid.files)
    others = [bytes_ for _, bytes_ in valid.files]
    named = random.choice(valid.files)[0] if random.random() < 0.1 else suffix
    path = str(place / f"a{named}")
    Path(path).write_bytes(mutate_bytes(random, data, others))

    def call() -> int:
        scan.survey_images([path], place / "cache")
        decoding.refuse_broken(decoding.find_broken([path]))
        valid.classifier.predict(path)
        return 0

    return call


def _save(image: Image.Image, suffix: str, **how: object) -> bytes:
    held = io.BytesIO()
    image.save(held, {".jpg": "JPEG", ".tif": "TIFF"}.get(suffix, suffix[1:].upper()), **how)
    return held.getvalue()


IMAGES = Kind("images", prepare, attack)
