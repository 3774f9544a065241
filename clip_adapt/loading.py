"""From a model card to two towers with their weights: what is wanted, where it is, whether it fits.

Nothing is ever replaced by random weights, and every refusal says what would work.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
from open_clip.pretrained import download_pretrained_from_url

from clip_adapt import hub, towers, transformers_clip, weights
from clip_adapt.cards import ModelCard, names
from clip_adapt.errors import InputError, nearest
from clip_adapt.files import resource
from clip_adapt.weights import Checkpoint

log = logging.getLogger(__name__)

Json = dict[str, Any]
CONFIG = "open_clip_config.json"
OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
TRANSFORMERS_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Loaded:
    """Two towers with their weights, the tokenizer, and what the fingerprint says of both."""

    model: Any
    tokenizer: Any
    architecture: Json


@dataclass(frozen=True)
class _Plan:
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


def load(card: ModelCard) -> Loaded:
    """Build what a model card describes and load its weights, on the CPU in float32.

    Raises:
        InputError: with the reason and the remedy, when that cannot be had.
    """
    plan = _plan(card)
    with _clear_errors(card):
        checkpoint = plan.read() if plan.read else None
        if checkpoint is not None and checkpoint.openai:
            _require_gelu(plan.name, plan.config, quick=True, source=plan.source)
        model = towers.build(plan.config, card.image_size, plan.folder)
        if checkpoint is not None:
            weights.load(model, checkpoint.tensors, plan.source)
        towers.finish(model, plan.config, plan.preprocess, card.image_size)
        tokenizer = towers.tokenizer(card.name or plan.name, plan.config, plan.folder)
        return Loaded(model, tokenizer, towers.described(plan.config, plan.folder))


def require_known(card: ModelCard) -> None:
    """Check that a model card names an architecture and weights that exist; load nothing.

    Raises:
        InputError: with what exists, when it does not.
    """
    if not any(text.startswith("hf-hub:") for text in (card.architecture, card.pretrained or "")):
        _plan(card)


def _plan(card: ModelCard) -> _Plan:
    own = _container(card.architecture)
    if own is not None:
        plan = own()
        if card.pretrained in (None, "random"):
            return plan if card.pretrained is None else replace(plan, read=None)
    else:
        plan = _named(card)
    if card.pretrained is None:
        tags = open_clip.list_pretrained_tags_by_model(plan.name)
        raise InputError(
            f"model {card.name!r} needs weights: give model.pretrained=TAG "
            f"({', '.join(tags) or 'none is known'}), a file, or random (untrained)"
        )
    if card.pretrained == "random":
        return plan
    return _with_weights(card, plan, card.pretrained)


def _with_weights(card: ModelCard, plan: _Plan, pretrained: str) -> _Plan:
    tags = open_clip.list_pretrained_tags_by_model(plan.name)
    if pretrained in tags:
        return _with_tag(plan, pretrained)
    foreign = _container(pretrained)
    if foreign is not None:
        return _same_architecture(card, plan, foreign(), pretrained)
    path = _path(pretrained)
    if not path.is_file():
        raise InputError(
            f"model.pretrained={pretrained} is neither a tag of {plan.name} nor a file or folder "
            f"(looked at {path.absolute()}){nearest(pretrained, tags)} Tags: "
            f"{', '.join(tags) or 'none'}."
        )
    return replace(plan, read=functools.partial(weights.read, path), source=str(path))


def _named(card: ModelCard) -> _Plan:
    if card.architecture.endswith(".json"):
        path = _path(card.architecture)
        if not path.is_file():
            raise InputError(f"the architecture file {path} does not exist")
        config = _json(path)
        return _Plan(path.stem, config.get("model_cfg", config), {}, path.parent)
    config = open_clip.get_model_config(card.architecture)
    if config is None:
        known = [*names("model"), *open_clip.list_models()]
        name = card.name or card.architecture
        raise InputError(
            f"unknown model {name!r}{nearest(card.architecture, known)} There is: "
            f"{', '.join(names('model'))}; any of open_clip's {len(open_clip.list_models())} "
            "architectures with model.pretrained=TAG or FILE; a folder with its configuration and "
            "weights; or hf-hub:OWNER/NAME."
        )
    return _Plan(card.architecture, config, {})


def _with_tag(plan: _Plan, tag: str) -> _Plan:
    facts = open_clip.get_pretrained_cfg(plan.name, tag)
    quick = bool(facts.get("quick_gelu", False))
    _require_gelu(plan.name, plan.config, quick, f"{tag} weights of {plan.name}")

    def read() -> Checkpoint:
        return weights.read(_file_of_tag(facts))

    return replace(plan, preprocess=facts, read=read, source=f"{plan.name} {tag}")


def _file_of_tag(facts: Json) -> Path:
    if facts.get("hf_hub"):
        repository, _, name = facts["hf_hub"].rpartition("/")
        named = (f"{name.rpartition('.')[0]}.safetensors", name) if name else OPEN_CLIP_FILES
        return hub.fetch(repository, named, f"model.pretrained=DIR/{named[0]}")
    url = facts["url"]
    place = Path("~/.cache/clip").expanduser() / url.rpartition("/")[2]
    try:
        if os.environ.get("HF_HUB_OFFLINE", "0") in ("1", "true") and not place.is_file():
            raise urllib.error.URLError("offline by HF_HUB_OFFLINE")
        return Path(download_pretrained_from_url(url))
    except (urllib.error.URLError, OSError) as error:
        raise InputError(
            f"{place.name} is missing here and cannot be fetched ({error}): it would be put into "
            f"{place.parent}. Fetch {url} elsewhere and give model.pretrained=FILE"
        ) from error


def _container(text: str) -> Callable[[], _Plan] | None:
    # A folder or a hub repository that holds a configuration together with weights.
    if text.startswith("hf-hub:"):
        return functools.partial(_from_hub, text.removeprefix("hf-hub:"))
    path = Path(text.removeprefix("local-dir:")).expanduser()
    if text.startswith("local-dir:") or (path.is_dir() and text not in open_clip.list_models()):
        return functools.partial(_from_folder, path)
    return None


def _from_folder(folder: Path) -> _Plan:
    if (folder / CONFIG).is_file():
        held = _json(folder / CONFIG)
        plan = _open_clip_plan(str(folder), held, folder)
        return replace(plan, read=lambda: weights.read(_weights_in(folder, OPEN_CLIP_FILES)))
    if (folder / "config.json").is_file():
        pre = folder / "preprocessor_config.json"

        def read() -> Checkpoint:
            index = folder / INDEX
            if index.is_file():
                return weights.read_sharded(index, _json(index)["weight_map"])
            return weights.read(_weights_in(folder, TRANSFORMERS_FILES))

        held = _json(folder / "config.json")
        return _transformers_plan(str(folder), held, _json(pre) if pre.is_file() else None, read)
    raise InputError(
        f"{folder} is no folder of a model: expected {CONFIG} (open_clip) or config.json "
        "(transformers) beside the weights"
    )


def _from_hub(repository: str) -> _Plan:
    remedy = f"model=DIR in place of hf-hub:{repository}"
    found = hub.fetch(repository, (CONFIG, "config.json"), remedy)
    if found.name == CONFIG:
        plan = _open_clip_plan(f"hf-hub:{repository}", _json(found), found.parent)
        return replace(
            plan, read=lambda: weights.read(hub.fetch(repository, OPEN_CLIP_FILES, remedy))
        )
    try:
        pre = _json(hub.fetch(repository, ("preprocessor_config.json",), remedy))
    except InputError:  # not every repository has one; transformers' default is that of its kind
        pre = None

    def read() -> Checkpoint:
        file = hub.fetch(repository, (*TRANSFORMERS_FILES, INDEX), remedy)
        if file.name != INDEX:
            return weights.read(file)
        parts = _json(file)["weight_map"]
        for name in set(parts.values()):
            hub.fetch(repository, (name,), remedy)
        return weights.read_sharded(file, parts)

    return _transformers_plan(repository, _json(found), pre, read)


def _open_clip_plan(name: str, held: Json, folder: Path) -> _Plan:
    config = held.get("model_cfg", held)
    return _Plan(name, config, held.get("preprocess_cfg") or {}, folder, source=name)


def _transformers_plan(
    name: str, held: Json, pre: Json | None, read: Callable[[], Checkpoint]
) -> _Plan:
    config = transformers_clip.configuration(held, name)
    preprocess = transformers_clip.preprocessing(pre, held["model_type"])

    def converted() -> Checkpoint:
        return Checkpoint(transformers_clip.tensors(held, read().tensors))

    return _Plan(name, config, preprocess, Path(name), converted, source=name)


def _weights_in(folder: Path, preferred: tuple[str, ...]) -> Path:
    for name in preferred:
        if (folder / name).is_file():
            return folder / name
    found = sorted(p for p in folder.iterdir() if p.suffix in weights.SUFFIXES)
    if len(found) == 1:
        return found[0]
    raise InputError(
        f"{folder} holds {len(found) or 'no'} files of weights, expected {' or '.join(preferred)}: "
        "name the file with model.pretrained=FILE"
    )


def _same_architecture(card: ModelCard, plan: _Plan, foreign: _Plan, pretrained: str) -> _Plan:
    ours, theirs = _comparable(plan.config), _comparable(foreign.config)
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            raise InputError(
                f"model.pretrained={pretrained} is of another architecture than {card.name!r}: "
                f"{key} is {theirs.get(key)} there and {ours.get(key)} here. Use "
                f"model={pretrained} alone"
            )
    return foreign


def _comparable(config: Json) -> Json:
    flat: Json = {}
    for key, value in config.items():
        inner = value if isinstance(value, dict) else {"": value}
        flat |= {f"{key}.{k}".rstrip("."): v for k, v in inner.items()}
    ignored = ("custom_text", "text_cfg.hf_tokenizer_name", "text_cfg.hf_model_pretrained")
    return {k: v for k, v in flat.items() if k not in ignored and v not in (None, False)}


def _require_gelu(name: str, config: Json, quick: bool, source: str) -> None:
    if quick == bool(config.get("quick_gelu", False)):
        return
    right = f"{name}-quickgelu" if quick else name.removesuffix("-quickgelu")
    known = right in open_clip.list_models()
    remedy = f"use model={right}" if known else f'set "quick_gelu": {str(quick).lower()} in {name}'
    raise InputError(
        f"{source} were trained with {'Quick' if quick else ''}GELU: {remedy}, otherwise accuracy "
        "is lost without a word"
    )


@contextmanager
def _clear_errors(card: ModelCard) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"model {card.name!r} cannot be loaded: {error}") from error
    except Exception as error:  # open_clip, timm and transformers each have errors of their own
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"model {card.name!r} cannot be loaded: its configuration asks for what open_clip "
            f"{open_clip.__version__} cannot build: {type(error).__name__}: {reason}"
        ) from error


def _json(path: Path) -> Json:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}") from error
    if not isinstance(held, dict):
        raise InputError(f"{path} holds no configuration: expected a JSON object")
    return held


def _path(text: str) -> Path:
    inside = text.removeprefix("package:")
    return resource(*inside.split("/")) if inside != text else Path(text).expanduser()
