"""A run on captioned images: pairs > method > fit > retrieval > delta.

It writes the files of any other run; retrieval.csv stands in the place of predictions.csv, and the
delta has no classes.
"""

from __future__ import annotations

import functools
import logging
import time
from dataclasses import replace
from typing import Any

import torch

from clip_adapt.adapted.classifier import Classifier
from clip_adapt.backbone import prompts
from clip_adapt.data import scan
from clip_adapt.data.captions import Captions
from clip_adapt.data.items import Item, write_manifest
from clip_adapt.errors import InputError, listed
from clip_adapt.evaluation import retrieval
from clip_adapt.evaluation.retrieval import Retrieval
from clip_adapt.inputs import features
from clip_adapt.inputs.pixels import Pixels
from clip_adapt.inputs.views import Augment
from clip_adapt.method.contract import Method
from clip_adapt.runs import folder
from clip_adapt.runs.configuration import Config
from clip_adapt.runs.preparation import Run, recipe_of
from clip_adapt.runs.shared import Shared
from clip_adapt.system.files import sha256
from clip_adapt.training import contrastive_loop
from clip_adapt.training.contrastive_loop import CaptionLoop
from clip_adapt.training.loop import Examples, curve_of, train

log = logging.getLogger(__name__)

Curve = dict[str, list[float]]  # loss, accuracy in the batch, lr, perhaps val_recall@1, an epoch


def run(config: Config, shared: Shared) -> Classifier:
    """Train on captions, measure retrieval, write the run's files.

    Args:
        config: what to do.
        shared: what earlier runs of this process have loaded.

    Returns:
        a classifier without classes, with ``folder`` and ``metrics`` of the run.

    Raises:
        InputError: with the reason and the remedy.
    """
    start = time.perf_counter()
    this = Run.prepare(config, shared)
    method = this.make_method()
    contrastive_loop.require_trainable(method, this.config.method.name)
    notes = this.check_images() + _notes(this)
    _require_pairs(this)
    _require_short(this, method)
    for note in notes:
        log.warning(note)
    seconds: dict[str, float] = {}
    with folder.whole_or_not_at_all(this.folder):
        curve = _fit(this, method, seconds)
        begin = time.perf_counter()
        found = retrieval.measure_beside_zero_shot(method, this.dataset.test, this.cache)
        seconds["evaluate"] = time.perf_counter() - begin
        seconds["total"] = time.perf_counter() - start
        return _write(this, method, found, curve, notes, seconds)


def _notes(this: Run) -> list[str]:
    if "shots" not in this.config.given:
        return []
    return [
        f"captions have no classes, so shots={this.options.shots} draws nothing: all "
        f"{len(this.dataset.train)} training images are used"
    ]


def _require_pairs(this: Run) -> None:
    if len(this.dataset.train) < 2:
        raise InputError(
            f"{this.dataset.name} has {len(this.dataset.train)} training images with captions: "
            "expected at least two, because each is told from the others"
        )


def _require_short(this: Run, method: Method) -> None:
    backbone, room = this.backbone, this.backbone.context_length
    texts = [c for items in this.dataset.parts().values() for i in items for c in i.captions]
    lengths = prompts.lengths(backbone.tokenizer, list(map(str, texts)), room)
    pairs = list(zip(texts, lengths, strict=True))
    long = [(text, length) for text, length in pairs if length > room]
    if long:
        lines = listed(f"{_line(text)}{length} tokens: {text[:60]!r}" for text, length in long)
        raise InputError(
            f"{len(long)} captions are longer than the {room} tokens that the text tower of "
            f"{backbone.card.name} takes, start and end included:\n{lines}\nShorten them."
        )
    longest = max(pairs, key=lambda pair: pair[1])[0]
    try:
        with torch.no_grad():  # a method may put tokens of its own before a text
            method.encode_text([str(longest)])
    except InputError as error:
        raise InputError(f"{_line(longest)}{error}") from error


def _line(caption: str) -> str:
    line = getattr(caption, "line", None)
    return "" if line is None else f"line {line}: "


def _fit(this: Run, method: Method, seconds: dict[str, float]) -> Curve:
    begin, o = time.perf_counter(), this.options
    train_on, captions = _examples(this, method, this.dataset.train, o.augment, o.views)
    chosen_by = this.dataset.val if o.select == "val" else []
    val, val_captions = _examples(this, method, chosen_by, "none", 1)
    seconds["features"] = time.perf_counter() - begin
    begin = time.perf_counter()
    for old in this.folder.glob("events.out.tfevents.*"):
        old.unlink()
    loop = functools.partial(
        CaptionLoop, captions=captions, val_captions=val_captions, dedup=o.dedup
    )
    log_dir = this.folder if o.tensorboard else None
    rows = train(method, train_on, recipe_of(o), val=val, log_dir=log_dir, loop=loop)
    seconds["fit"] = time.perf_counter() - begin
    return curve_of(rows)


def _examples(
    this: Run, method: Method, items: list[Item], augment: Augment, views: int
) -> tuple[Examples, Captions]:
    paths = [item.path for item in items]
    captions = Captions.of(items, scan.digests(paths, this.cache.memory))
    labels = torch.arange(len(items))
    if method.tunes_image_tower:
        numbered = [replace(item, label=i) for i, item in enumerate(items)]
        return Examples(Pixels(this.backbone, numbered, augment), labels), captions
    z = features.extract(
        this.backbone, paths, this.cache, views=views, augment=augment, label="features"
    )
    return Examples(z, labels), captions


def _write(
    this: Run,
    method: Method,
    found: Retrieval,
    curve: Curve,
    notes: list[str],
    seconds: dict[str, float],
) -> Classifier:
    return folder.write(
        this,
        method,
        manifest=write_manifest(_manifest(this)),
        measured={"objective": "contrastive", **found.facts()},
        facts={"n_support": len(this.dataset.train), "notes": notes, "curve": curve},
        seconds=seconds,
        files={"retrieval.csv": retrieval.write_table(found.z, found.t, found.texts, found.items)},
    )


def _manifest(this: Run) -> list[dict[str, Any]]:
    splits = {"train": this.dataset.train}
    if this.options.select == "val":
        splits["val"] = this.dataset.val
    return [
        {"path": i.path, "sha256": sha256(i.path), "captions": list(i.captions), "split": split}
        for split, items in splits.items()
        for i in items
    ]
