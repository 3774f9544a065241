"""method=auto: methods that adapt in seconds are compared on the support set, the best is taken.

Stratified cross-validation: a part of the labelled images is held out, every candidate adapts to
the rest and is measured on the part; each part is held out once. With one image a class there is
nothing to hold out, and the val subset decides. No test image is looked at.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config.run_options import RunOptions
from clip_adapt.data.items import Support
from clip_adapt.errors import InputError
from clip_adapt.inputs import features
from clip_adapt.inputs.features import FeatureCache
from clip_adapt.method.contract import Method
from clip_adapt.method.folds import hold_out
from clip_adapt.method.table import Table
from clip_adapt.runs.configuration import Config
from clip_adapt.system.text.messages import hide_progress
from clip_adapt.training.examples import compute_logits
from clip_adapt.training.fitting import Part, fit
from clip_adapt.training.recipe import Recipe

log = logging.getLogger(__name__)

Labelled = tuple[Tensor, Tensor]  # loss and whether it is right, of each image (N,)


@dataclass(frozen=True)
class Score:
    """How a candidate does on images that it has not seen.

    Attributes:
        method: its name.
        accuracy: the share that it gets right.
        nll: mean negative log-likelihood of the true class; breaks ties.
        images: how many images it was measured on.
        seconds: that all this took.
    """

    method: str
    accuracy: float
    nll: float
    images: int
    seconds: float


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    Attributes:
        config: of the chosen method.
        facts: for metrics.json: the name, the scores of all candidates, and a table for a person.
    """

    config: Config
    facts: dict[str, Any]


def choose(
    candidates: Sequence[Config],
    support: Support,
    backbone: Backbone,
    cache: FeatureCache,
    make: Callable[[Config], Method],
    recipe: Callable[[RunOptions], Recipe],
) -> Choice:
    """Compare the candidates on the support set.

    Args:
        candidates: a configuration a method; none of them may tune the image tower.
        support: the labelled images.
        backbone: the frozen towers.
        cache: where features are kept.
        make: gives a candidate's method before training.
        recipe: gives how it is trained.

    Raises:
        InputError: when no class has a second image and there is no val subset.
    """
    y = torch.tensor([item.label for item in support.train])
    centre = _extract(support.train, backbone, cache)
    labels = torch.tensor([item.label for item in support.val], dtype=torch.long)
    val = Part(_extract(support.val, backbone, cache), labels)
    parts = list(hold_out(y))
    if not parts and not len(labels):
        raise InputError(
            "method=auto has nothing to choose by: no class has a second labelled image, and there "
            "is no val split. Use shots=2 or more, or name a method."
        )
    scores = []
    for config in candidates:
        begin, o = time.perf_counter(), config.options
        z = features.extract(
            backbone, [i.path for i in support.train], cache, views=o.views, augment=o.augment
        )
        how, whole, looked_at = recipe(o), Part(z, y), Part(centre, y)
        with _silence():
            if parts:
                pieces = [
                    _try(make(config), how, whole.only(~held), looked_at.only(held), val)
                    for held in parts
                ]
            else:
                pieces = [_try(make(config), how, whole, val, Part(val.z[:0], labels[:0]))]
        losses, hits = (torch.cat(piece) for piece in zip(*pieces, strict=True))
        took = time.perf_counter() - begin
        scores.append(
            Score(config.method.name, float(hits.mean()), float(losses.mean()), len(hits), took)
        )
    best = max(scores, key=lambda score: (score.accuracy, -score.nll))
    chosen = candidates[scores.index(best)]
    table = _write_table(scores, best, len(parts))
    log.info("%s", table.note)
    facts = {"chosen": best.method, "scores": [asdict(s) for s in scores], "table": asdict(table)}
    return Choice(chosen, facts)


def _extract(items: Sequence[Any], backbone: Backbone, cache: FeatureCache) -> Tensor:
    return features.extract(backbone, [i.path for i in items], cache, label="support features")


def _try(method: Method, recipe: Recipe, seen: Part, unseen: Part, val: Part) -> Labelled:
    # Adapt to what is seen; the loss of each unseen image (N,) and whether it is right (N,).
    fit(method, seen, val, recipe)
    logits = compute_logits(method, unseen.examples)
    loss = F.cross_entropy(logits, unseen.labels, reduction="none")
    return loss, (logits.argmax(1) == unseen.labels).float()


def _write_table(scores: Sequence[Score], best: Score, parts: int) -> Table:
    ranked = sorted(scores, key=lambda score: (-score.accuracy, score.nll))
    how = f"by {parts}-fold cross-validation on" if parts else "on the val subset, adapted to"
    note = (
        f"{best.method} was chosen {how} the support set: {best.accuracy:.1%} of "
        f"{best.images} images that it had not seen are right"
    )
    if len(ranked) > 1:
        note += f", {ranked[1].accuracy:.1%} with {ranked[1].method}, the next best"
    note += ". A tie goes to the smaller loss. No test image was looked at."
    rows = [[s.method, f"{s.accuracy:.1%}", f"{s.nll:.3f}", f"{s.seconds:.1f}"] for s in ranked]
    columns = ["method", "accuracy", "negative log-likelihood", "seconds"]
    return Table("Candidates on images that they had not seen", note, columns, rows)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    # What a method says while it fits is of interest once, not for every part.
    logger = logging.getLogger("clip_adapt")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with hide_progress():
            yield
    finally:
        logger.setLevel(level)
