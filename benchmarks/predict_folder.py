"""Predictions of a folder beside the extraction of its features alone, and the memory of both.

Plain is ``features.extract``, which every way to a prediction needs; ours is all that ``predict``
does with a folder, the CSV with every probability included. A ratio of 0.77x is a time 1.3 times
as long. In the first row the tower does nothing, so that all else is seen.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks import common
from benchmarks.common import Row
from benchmarks.published import class_names, towers
from clip_adapt.adapted.classifier import Classifier
from clip_adapt.adapted.image_words import find_images
from clip_adapt.adapted.predicting import predict_paths
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.data.task import Task
from clip_adapt.inputs import features
from clip_adapt.inputs.feature_cache import FeatureCache
from clip_adapt.method.contract import Method

OPTIONS = {"top_k": 5, "score": "lac", "every": None}
SIDE = 64  # pixels


def measure(args: Any) -> list[Row]:
    """Return the table's rows."""
    _, backbone = towers(args.architecture, args.device)
    many, some = (4, 2) if args.tiny else (10_000, 64)
    model = Classifier(Method(backbone, Task(tuple(class_names(10)))))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "many", many)
        write_images(folder / "some", some)
        whole, backbone.encode_image = backbone.encode_image, _make_nothing(backbone)
        try:
            rows = [_compare(args, model, folder / "many", f"{many:,} images, no tower")]
        finally:
            backbone.encode_image = whole
        rows.append(_compare(args, model, folder / "some", f"{some} images"))
        words = [folder / "many", "--architecture", args.architecture, "--device", args.device]
        tenth = max(1, many // 10)
        memory = [
            common.in_process("benchmarks.predict_folder", "--memory", count, *words)
            for count in (tenth, many)
        ]
    note = f"plain: {tenth:,} images, ours: {many:,}, both by predict"
    return [*rows, Row("memory beyond the backbone's", "MB", *memory, note)]


def write_images(folder: Path, count: int) -> None:
    """Write small JPEGs of noise."""
    folder.mkdir()
    stream = np.random.default_rng(0)
    for index in range(count):
        pixels = stream.integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((SIDE, SIDE)).save(folder / f"{index:05}.jpg")


def _make_nothing(backbone: Backbone) -> Any:
    def encode_nothing(pixels: Tensor) -> Tensor:
        return pixels.new_full((len(pixels), backbone.embed_dim), backbone.embed_dim**-0.5)

    return encode_nothing


def _compare(args: Any, model: Classifier, folder: Path, case: str) -> Row:
    def plain() -> None:
        features.extract(model.backbone, find_images([str(folder)]).paths, FeatureCache(None))

    def ours() -> None:
        predict(model, folder)

    budget = 1 if args.tiny else 20
    times = common.in_turn(plain, ours, device=args.device, budget=budget)
    return Row(case, "s", *times)


def predict(model: Classifier, folder: Path, count: int | None = None) -> None:
    """Do what ``predict FOLDER output=p.csv`` does, with some of the images."""
    paths = find_images([str(folder)]).paths[:count]
    predict_paths(model, paths, folder.parent / "p.csv", lambda prediction: None, False, OPTIONS)


def print_memory(words: list[str]) -> None:
    """Print the memory that so many images need beyond the backbone's, as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--architecture")
    parser.add_argument("--device")
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    _, backbone = towers(args.architecture, args.device)
    backbone.encode_image = _make_nothing(backbone)
    model = Classifier(Method(backbone, Task(tuple(class_names(10)))))
    print(json.dumps(common.peak_memory(lambda: predict(model, args.folder, args.count))))


def main() -> list[Row]:
    """Measure all, or with ``--memory`` one thing for a process of its own."""
    if "--memory" in sys.argv[1:2]:
        print_memory(sys.argv[2:])
        return []
    return common.run("predict_folder", common.parser(__doc__), measure)


if __name__ == "__main__":
    main()
