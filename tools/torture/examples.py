"""Small valid things: a CLIP of two tiny towers, pictures, a finished run. All drawn from seeds."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file

from clip_adapt import cli
from clip_adapt.backbone.weights import towers
from clip_adapt.evaluation import resampling

SIZES: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 8,
        "heads": 1,
        "layers": 1,
    },
}
PREPROCESS = {
    "size": 32,
    "mode": "RGB",
    "mean": [0.48, 0.46, 0.41],
    "std": [0.27, 0.26, 0.28],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}
CLASSES = ("cat", "dog", "eel")
QUICK = ("tensorboard=false", "report=false")  # a page takes longer than all the rest


def hurry() -> None:
    """Leave out what takes long and is not looked at: 1000 resamples, CLIP's vocabulary anew."""
    resampling.RESAMPLES = 20
    towers.SimpleTokenizer = _find_tokenizer
    torch.set_num_threads(1)


def _find_tokenizer(**options: Any) -> Any:
    # Reading CLIP's vocabulary takes as long as the rest of a short run; it is the same each time.
    if options != {"context_length": 77}:
        return open_clip.SimpleTokenizer(**options)
    return _make_tokenizer()


@functools.cache
def _make_tokenizer() -> Any:
    return open_clip.SimpleTokenizer(context_length=77)


def write_model(folder: Path) -> Path:
    """Write open_clip's folder of a tiny CLIP with random weights; return the folder."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(**SIZES)
    config = {"model_cfg": SIZES, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    os.chmod(folder / "open_clip_model.safetensors", 0o644)
    return folder


def write_pictures(folder: Path, per_class: int = 4, size: int = 24) -> list[str]:
    """Write pictures of every class, ``cat/0.png``; return their names."""
    stream = np.random.default_rng(0)
    names = []
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for index in range(per_class):
            pixels = stream.integers(0, 120, (size, size, 3))
            pixels[..., label] += 120
            names.append(f"{name}/{index}.png")
            Image.fromarray(pixels.astype(np.uint8)).save(folder / names[-1])
    return names


def run_quietly(*words: str) -> None:
    """Run a command line that must end well.

    Raises:
        RuntimeError: when it does not.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = cli.run(words[0], list(words[1:]))
    if code:
        raise RuntimeError(f"{' '.join(words)} ended with {code}: {said.getvalue()}")


def write_run(folder: Path, *more: str) -> Path:
    """Write pictures, a model and a finished run; return the run's folder."""
    write_pictures(folder / "pictures", per_class=6)
    model = write_model(folder / "model")
    words = (f"dataset={folder / 'pictures'}", f"model={model}", "shots=2", "method=linear_probe")
    words += (f"cache_dir={folder / 'cache'}", f"output={folder / 'run'}", *QUICK)
    run_quietly("train", *words, *more)
    return folder / "run"


def warm_up(folder: Path) -> None:
    """Run every verb once: what is imported late may change filters of warnings, once."""
    run = write_run(folder)
    picture = str(folder / "pictures" / "cat" / "0.png")
    run_quietly("train", f"dataset={folder / 'pictures'}", f"model={folder / 'model'}",
                "method=zero_shot", f"output={folder / 'more'}",
                f"cache_dir={folder / 'c'}")  # fmt: skip
    model = f"model={folder / 'model'}"
    run_quietly("predict", str(run / "adapter"), picture, model)
    run_quietly("evaluate", str(run / "adapter"), f"dataset={folder / 'pictures'}", model)
    run_quietly("report", str(folder))
    run_quietly("predict", picture, "classes=[cat, dog]")
