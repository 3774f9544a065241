"""Image features: decoding and the tower apart, and a second run that finds them on disk.

Plain decodes with Pillow and transforms with torchvision's first transforms, one image after the
other, and sends batches of 32 through the tower as a training step does. Ours is
``features.extract``; for decoding alone it runs with a tower that does nothing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks import common
from benchmarks.common import Row
from benchmarks.published import towers
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.inputs import features
from clip_adapt.inputs.features import FeatureCache

SIZES = {"6 megapixels": (3000, 2000), "500 x 375": (500, 375)}


def measure(args: Any) -> list[Row]:
    """Return the table's rows."""
    model, backbone = towers(args.architecture, args.device)
    with tempfile.TemporaryDirectory() as folder:
        rows = [_decode(args, backbone, name, Path(folder) / name) for name in SIZES]
        rows.append(_tower(args, model, backbone))
        rows.append(_second_run(args, backbone, Path(folder)))
    return rows


def photographs(folder: Path, size: tuple[int, int], count: int) -> list[str]:
    """Write JPEGs that compress about as photographs do; return their paths."""
    folder.mkdir(parents=True)
    stream = np.random.default_rng(0)
    paths = []
    for index in range(count):
        coarse = stream.integers(0, 256, (24, 36, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
        grain = stream.integers(-12, 13, smooth.shape)
        picture = (smooth + grain).clip(0, 255).astype(np.uint8)
        paths.append(str(folder / f"{index}.jpg"))
        Image.fromarray(picture).save(paths[-1], quality=90)
    return paths


def _decode(args: Any, backbone: Backbone, name: str, folder: Path) -> Row:
    count = 2 if args.tiny else 8 if name == "6 megapixels" else 64
    paths = photographs(folder, (60, 40) if args.tiny else SIZES[name], count)

    def plain() -> None:
        for path in paths:
            with Image.open(path) as image:
                backbone.preprocess(image.convert("RGB"))

    def nothing(pixels: Tensor) -> Tensor:
        return pixels.new_ones(len(pixels), backbone.embed_dim)

    def ours() -> None:
        features.extract(backbone, paths, FeatureCache(None))

    whole, backbone.encode_image = backbone.encode_image, nothing
    try:
        times = common.in_turn(plain, ours, budget=1 if args.tiny else 10)
    finally:
        backbone.encode_image = whole
    return Row(f"decode and transform, {name}", "images/s", *(count / t for t in times))


def _tower(args: Any, model: Any, backbone: Backbone) -> Row:
    count = features.choose_batch_size(backbone.device)
    size = backbone.image_size
    pixels = torch.randn(2 if args.tiny else count, 3, size, size, device=args.device)

    def plain() -> None:
        for part in pixels.split(32):
            model.visual(part)

    @torch.inference_mode()
    def ours() -> None:
        backbone.encode_image(pixels)

    budget = 1 if args.tiny else 20
    times = common.in_turn(plain, ours, device=args.device, budget=budget)
    return Row("image tower", "images/s", *(len(pixels) / t for t in times))


def _second_run(args: Any, backbone: Backbone, folder: Path) -> Row:
    paths = photographs(folder / "run", SIZES["500 x 375"], 2 if args.tiny else 32)
    cache = FeatureCache(folder / "cache")

    def extract() -> None:
        features.extract(backbone, paths, cache)

    cold = common.seconds(extract, args.device)
    with _untouched(backbone):
        warm = common.best(extract, budget=2)
    note = "plain: first run, ours: second run, which touches no tower"
    return Row(f"features of {len(paths)} images", "s", cold, warm, note)


class _untouched:
    """While the block runs, the image tower must not be called."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone, self.whole = backbone, backbone.encode_image

    def __enter__(self) -> None:
        self.backbone.encode_image = self._refuse

    def __exit__(self, *_: object) -> None:
        self.backbone.encode_image = self.whole

    def _refuse(self, pixels: Tensor) -> Tensor:
        raise AssertionError("a warm run does no image work")


if __name__ == "__main__":
    common.run("features", common.parser(__doc__), measure)
