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

from clip_adapt import features, fitting
from clip_adapt.backbone import Backbone
from clip_adapt.config import Config, RunOptions
from clip_adapt.data import Support
from clip_adapt.errors import InputError
from clip_adapt.features import FeatureCache
from clip_adapt.fitting import Part
from clip_adapt.method import Method
from clip_adapt.table import Table
from clip_adapt.trainer import Recipe

log = logging.getLogger(__name__)

FOLDS = 5
Labelled = tuple[Tensor, Tensor]  # unit features (N, V, D) and labels (N,)


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
    centre = _features(support.train, backbone, cache)
    val = (_features(support.val, backbone, cache), torch.tensor([i.label for i in support.val]))
    parts = list(folds(y))
    if not parts and not len(val[1]):
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
        how = recipe(o)
        with _quiet():
            if parts:
                pieces = [
                    _try(make(config), how, (z[~held], y[~held]), (centre[held], y[held]), val)
                    for held in parts
                ]
            else:
                pieces = [_try(make(config), how, (z, y), val, None)]
        losses, hits = (torch.cat(piece) for piece in zip(*pieces, strict=True))
        took = time.perf_counter() - begin
        scores.append(
            Score(config.method.name, float(hits.mean()), float(losses.mean()), len(hits), took)
        )
    best = max(scores, key=lambda score: (score.accuracy, -score.nll))
    chosen = candidates[scores.index(best)]
    table = _table(scores, best, len(parts))
    log.info("%s", table.note)
    facts = {"chosen": best.method, "scores": [asdict(s) for s in scores], "table": asdict(table)}
    return Choice(chosen, facts)


def folds(y: Tensor) -> Iterator[Tensor]:
    """Yield which images are held out (N,), in stratified parts; each part is yielded once.

    There are as many parts as the largest class has images, at most five. An image that is the only
    one of its class is never held out: without it nothing could know the class.
    """
    counts = y.bincount()
    rank = torch.zeros_like(y)
    for label in y.unique():
        of_class = (y == label).nonzero()[:, 0]
        rank[of_class] = torch.arange(len(of_class))
    alone = counts[y] < 2
    count = min(FOLDS, int(counts.max()))
    for part in range(count if count > 1 else 0):
        yield (rank % count == part) & ~alone


def _features(items: Sequence[Any], backbone: Backbone, cache: FeatureCache) -> Tensor:
    return features.extract(backbone, [i.path for i in items], cache, label="support features")


def _try(
    method: Method, recipe: Recipe, seen: Labelled, unseen: Labelled, val: Labelled | None
) -> Labelled:
    # Adapt to what is seen; the loss of each unseen image (N,) and whether it is right (N,).
    device = method.backbone.device
    z, y = seen
    other = val if val is not None else (z[:0], y[:0])
    fitting.fit(method, Part(z, y), Part(*other), recipe)
    with torch.no_grad():
        logits = method(unseen[0][:, 0].to(device)).float().cpu()
    return F.cross_entropy(logits, unseen[1], reduction="none"), (
        logits.argmax(1) == unseen[1]
    ).float()


def _table(scores: Sequence[Score], best: Score, parts: int) -> Table:
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
def _quiet() -> Iterator[None]:
    # What a method says while it fits is of interest once, not for every part.
    logger = logging.getLogger("clip_adapt")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
