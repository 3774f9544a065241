"""A folder or a repository of the hub that holds a model's configuration together with its weights.

open_clip's layout (``open_clip_config.json``), or CLIP and SigLIP of transformers (``config.json``)
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip

from clip_adapt.backbone.weights import checkpoint, hub, transformers_images, transformers_names
from clip_adapt.backbone.weights.checkpoint import Checkpoint
from clip_adapt.errors import InputError
from clip_adapt.system import reading
from clip_adapt.system.reading import list_folder, make_path

log = logging.getLogger(__name__)

Json = dict[str, Any]
CONFIG = "open_clip_config.json"
OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
TRANSFORMERS_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class ModelPlan:
    """What a card comes to.

    Attributes:
        name: for messages.
        config: open_clip's model configuration.
        preprocess: of images, where it is not open_clip's default.
        folder: where the files that the configuration names may lie.
        read: gives the weights; None leaves them random.
        source: of the weights, for messages.
    """

    name: str
    config: Json
    preprocess: Json
    folder: Path | None = None
    read: Callable[[], Checkpoint] | None = None
    source: str = ""


def find_plan(text: str) -> Callable[[], ModelPlan] | None:
    """Return what reads the folder or repository that a text names, None when it names neither."""
    if text.startswith("hf-hub:"):
        return functools.partial(_plan_repository, text.removeprefix("hf-hub:"))
    path = make_path(text.removeprefix("local-dir:"))
    known = text in open_clip.list_models()
    if text.startswith("local-dir:") or (os.path.isdir(path) and not known):
        return functools.partial(_plan_folder, path)
    return None


def _plan_folder(folder: Path) -> ModelPlan:
    if os.path.isfile(folder / CONFIG):
        held = read_json(folder / CONFIG)
        plan = _make_open_clip_plan(str(folder), held, folder)
        return replace(
            plan, read=lambda: checkpoint.read_checkpoint(_find_weights(folder, OPEN_CLIP_FILES))
        )
    if os.path.isfile(folder / "config.json"):

        def read() -> Checkpoint:
            index = folder / INDEX
            if index.is_file():
                return checkpoint.read_shards(index, read_json(index)["weight_map"])
            return checkpoint.read_checkpoint(_find_weights(folder, TRANSFORMERS_FILES))

        files = [folder / name for name in transformers_images.FILES]
        pre = [read_json(file) if file.is_file() else None for file in files]
        held = read_json(folder / "config.json")
        return _make_transformers_plan(str(folder), held, pre, read)
    raise InputError(
        f"{folder} is not a model's folder: expected {CONFIG} (open_clip) or config.json "
        "(transformers) beside the weights"
    )


def _plan_repository(repository: str) -> ModelPlan:
    remedy = f"model=DIR in place of hf-hub:{repository}"
    found = hub.fetch(repository, (CONFIG, "config.json"), remedy)
    if found.name == CONFIG:
        plan = _make_open_clip_plan(f"hf-hub:{repository}", read_json(found), found.parent)
        return replace(
            plan,
            read=lambda: checkpoint.read_checkpoint(hub.fetch(repository, OPEN_CLIP_FILES, remedy)),
        )
    pre = [_try_fetch(repository, name, remedy) for name in transformers_images.FILES]

    def read() -> Checkpoint:
        file = hub.fetch(repository, (*TRANSFORMERS_FILES, INDEX), remedy)
        if file.name != INDEX:
            return checkpoint.read_checkpoint(file)
        parts = read_json(file)["weight_map"]
        for name in set(parts.values()):
            hub.fetch(repository, (name,), remedy)
        return checkpoint.read_shards(file, parts)

    return _make_transformers_plan(repository, read_json(found), pre, read)


def _make_open_clip_plan(name: str, held: Json, folder: Path) -> ModelPlan:
    config = held.get("model_cfg", held)
    return ModelPlan(name, config, held.get("preprocess_cfg") or {}, folder, source=name)


def _make_transformers_plan(
    name: str, held: Json, pre: list[Json | None], read: Callable[[], Checkpoint]
) -> ModelPlan:
    config = transformers_names.convert_configuration(held, name)
    preprocess = transformers_images.convert_preprocessing(
        transformers_images.choose_processor(*pre),
        held["model_type"],
        config["vision_cfg"]["image_size"],
    )

    def convert() -> Checkpoint:
        return Checkpoint(transformers_names.convert_tensors(held, read().tensors))

    return ModelPlan(name, config, preprocess, Path(name), convert, source=name)


def _try_fetch(repository: str, name: str, remedy: str) -> Json | None:
    # Not every repository has either; transformers' default is that of its kind.
    try:
        return read_json(hub.fetch(repository, (name,), remedy))
    except hub.AbsentFileError:
        return None
    except InputError:
        log.warning(
            "whether hf-hub:%s has a %s is not known without a network: without one, the image "
            "transform is the usual one of its kind",
            repository,
            name,
        )
        return None


def _find_weights(folder: Path, preferred: tuple[str, ...]) -> Path:
    for name in preferred:
        if (folder / name).is_file():
            return folder / name
    found = [p for p in list_folder(folder) if p.suffix in checkpoint.SUFFIXES]
    if len(found) == 1:
        return found[0]
    raise InputError(
        f"{folder} holds {len(found) or 'no'} files of weights, expected {' or '.join(preferred)}: "
        "name the file with model.pretrained=FILE"
    )


def read_json(path: Path) -> Json:
    """Return the object that a JSON file holds.

    Raises:
        InputError: when it holds none.
    """
    held = reading.read_json(path)
    if not isinstance(held, dict):
        raise InputError(f"{path} holds no configuration: expected a JSON object")
    return held
