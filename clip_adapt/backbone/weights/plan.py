"""From a model card to two towers with their weights: what is wanted, where it is, whether it fits.

Nothing is ever replaced by random weights, and every refusal says what would work.
"""

from __future__ import annotations

import functools
import logging
import os
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
from open_clip.pretrained import download_pretrained_from_url

from clip_adapt.backbone.weights import checkpoint, hub, layouts, towers
from clip_adapt.backbone.weights.checkpoint import Checkpoint
from clip_adapt.backbone.weights.layouts import OPEN_CLIP_FILES, Json, ModelPlan, read_json
from clip_adapt.config.cards import ModelCard, list_cards
from clip_adapt.errors import InputError, nearest
from clip_adapt.system.files import locate_resource
from clip_adapt.system.launch.threads import hold_random_stream
from clip_adapt.system.reading import make_path
from clip_adapt.system.text.messages import leave_logging

log = logging.getLogger(__name__)


class UnbuildableError(InputError):
    """A configuration asks for what the libraries cannot build."""


@dataclass(frozen=True)
class LoadedModel:
    """Two towers with their weights, the tokenizer, and what the fingerprint says of both."""

    model: Any
    tokenizer: Any
    architecture: Json


@hold_random_stream()  # towers start with random weights
@leave_logging()
def load(card: ModelCard) -> LoadedModel:
    """Build what a model card describes and load its weights, on the CPU in float32.

    Raises:
        InputError: with the reason and the remedy, when that cannot be had.
    """
    plan = make_plan(card)
    with _clear_errors(card):
        if plan.read is not None and card.download is not None:
            log.info(
                "weights of %s: %s on first use, then from the cache", card.name, card.download
            )
        read = plan.read() if plan.read else None
        if read is not None and read.openai:
            _require_gelu(plan.name, plan.config, quick=True, source=plan.source)
        model = towers.build_model(plan.config, card.image_size, plan.folder)
        if read is not None:
            checkpoint.load_tensors(model, read.tensors, plan.source)
        towers.finish_model(model, plan.config, plan.preprocess, card.image_size)
        if read is not None:
            checkpoint.require_finite(model, plan.source)
        tokenizer = towers.build_tokenizer(card.name or plan.name, plan.config, plan.folder)
        described = towers.describe_architecture(plan.config, plan.folder, tokenizer)
        return LoadedModel(model, tokenizer, described)


def require_known(card: ModelCard) -> None:
    """Check that a model card names an architecture and weights that exist; load nothing.

    Raises:
        InputError: with what exists, when it does not.
    """
    if not any(text.startswith("hf-hub:") for text in (card.architecture, card.pretrained or "")):
        make_plan(card)


def list_tags(architecture: str) -> list[str]:
    """Return the tags of weights that open_clip publishes for one of its architectures."""
    return open_clip.list_pretrained_tags_by_model(architecture)


def make_plan(card: ModelCard) -> ModelPlan:
    """Return what a card comes to; only a configuration that lies on the hub is fetched.

    Raises:
        InputError: with what exists, when the architecture or the weights do not.
    """
    with _refuse_unbuildable(card):
        return _make_plan(card)


def _make_plan(card: ModelCard) -> ModelPlan:
    own = layouts.find_plan(card.architecture)
    if own is not None:
        plan = own()
        if card.pretrained in (None, "random"):
            return plan if card.pretrained is None else replace(plan, read=None)
    else:
        plan = _plan_architecture(card)
    if card.pretrained is None:
        tags = list_tags(plan.name)
        raise InputError(
            f"model {card.name!r} needs weights: give model.pretrained=TAG "
            f"({', '.join(tags) or 'none is known'}), a file, or random (untrained)"
        )
    if card.pretrained == "random":
        return plan
    return _add_weights(card, plan, card.pretrained)


def _add_weights(card: ModelCard, plan: ModelPlan, pretrained: str) -> ModelPlan:
    tags = list_tags(plan.name)
    if pretrained in tags:
        return _add_tag(plan, pretrained)
    foreign = layouts.find_plan(pretrained)
    if foreign is not None:
        return _require_same_architecture(card, plan, foreign(), pretrained)
    path = _resolve_path(pretrained)
    if not os.path.isfile(path):
        raise InputError(
            f"model.pretrained={pretrained} is neither a tag of {plan.name} nor a file "
            f"(looked at {path.absolute()}){nearest(pretrained, tags)} Tags: "
            f"{', '.join(tags) or 'none'}."
        )
    return replace(plan, read=functools.partial(checkpoint.read_checkpoint, path), source=str(path))


def _plan_architecture(card: ModelCard) -> ModelPlan:
    if card.architecture.endswith(".json"):
        path = _resolve_path(card.architecture)
        if not os.path.isfile(path):
            raise InputError(f"the architecture file {path} does not exist")
        config = read_json(path)
        return ModelPlan(path.stem, config.get("model_cfg", config), {}, path.parent)
    config = open_clip.get_model_config(card.architecture)
    if config is None:
        known = [*list_cards("model"), *open_clip.list_models()]
        name = card.name or card.architecture
        raise InputError(
            f"unknown model {name!r}{nearest(card.architecture, known)} There is: "
            f"{', '.join(list_cards('model'))}; or any of open_clip's "
            f"{len(open_clip.list_models())} architectures with model.pretrained=TAG or FILE, a "
            "folder with a configuration and weights, or hf-hub:OWNER/NAME."
        )
    return ModelPlan(card.architecture, config, {})


def _add_tag(plan: ModelPlan, tag: str) -> ModelPlan:
    facts = open_clip.get_pretrained_cfg(plan.name, tag)
    quick = bool(facts.get("quick_gelu", False))
    _require_gelu(plan.name, plan.config, quick, f"{tag} weights of {plan.name}")

    def read() -> Checkpoint:
        return checkpoint.read_checkpoint(_fetch_tag(facts))

    return replace(plan, preprocess=facts, read=read, source=f"{plan.name} {tag}")


def _fetch_tag(facts: Json) -> Path:
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


def _require_same_architecture(
    card: ModelCard, plan: ModelPlan, foreign: ModelPlan, pretrained: str
) -> ModelPlan:
    ours, theirs = _flatten_config(plan.config), _flatten_config(foreign.config)
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            raise InputError(
                f"model.pretrained={pretrained} is of another architecture than {card.name!r}: "
                f"{key} is {theirs.get(key)} there and {ours.get(key)} here. Use "
                f"model={pretrained} alone"
            )
    return foreign


def _flatten_config(config: Json) -> Json:
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
        with _refuse_unbuildable(card):
            yield
    except UnbuildableError:
        raise
    except InputError as error:
        raise InputError(f"model {card.name!r} cannot be loaded: {error}") from error


@contextmanager
def _refuse_unbuildable(card: ModelCard) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # open_clip, timm and transformers each have errors of their own
        reason = " ".join(str(error).split())[:300]
        raise UnbuildableError(
            f"model {card.name!r} cannot be loaded: its configuration asks for what open_clip "
            f"{open_clip.__version__} cannot build: {type(error).__name__}: {reason}"
        ) from error


def _resolve_path(text: str) -> Path:
    inside = text.removeprefix("package:")
    return locate_resource(*inside.split("/")) if inside != text else make_path(text)
