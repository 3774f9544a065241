"""What a scan of many images costs: seconds, and bytes of memory an image.

    python -m tools.measure_scan [images=100000] [folder=DIR]

Writes small PNG files in ten class folders into a temporary folder (or DIR, which is kept), loads
them as a data set, checks them, draws from them, and does the same again with what is remembered.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from clip_adapt.data import scan
from clip_adapt.data.dataset import Dataset

CLASSES, SIZE = 10, 32


def main(images: int, folder: Path) -> None:
    """Measure once cold and once warm, and print a line each."""
    root = folder / "images"
    if not root.exists():
        write(root, images)
    scan.survey_images(
        [str(next(root.rglob("*.png")))]
    )  # libraries are loaded before memory is read
    imagehash.phash(Image.new("RGB", (SIZE, SIZE)))
    for name in ("cold", "warm"):
        before, start = peak(), time.perf_counter()
        dataset = Dataset.load(root, cache_dir=str(folder / "cache"))
        loaded = time.perf_counter()
        survey = dataset.survey(cache_dir=str(folder / "cache"))
        checked = time.perf_counter()
        notes, twins = dataset.check(survey)
        dataset.few_shot(16)
        end = time.perf_counter()
        print(
            f"{name}: {len(survey.paths)} images; load {loaded - start:.1f} s, survey "
            f"{checked - loaded:.1f} s, leaks {end - checked:.1f} s; memory "
            f"{(peak() - before) / len(survey.paths):.0f} bytes an image; {len(twins)} "
            f"near-duplicates, {len(notes)} notes",
            flush=True,
        )


def write(root: Path, images: int) -> None:
    """Write pictures of smooth noise, all different."""
    stream = np.random.default_rng(0)
    for index in range(images):
        folder = root / f"class {index % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(stream.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        picture = coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        picture.save(folder / f"{index:06d}.png", compress_level=1)


def peak() -> int:
    """Return the largest memory that this process has held, in bytes (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    count = int(given.get("images", 100_000))
    if "folder" in given:
        main(count, Path(given["folder"]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(count, Path(temporary))
