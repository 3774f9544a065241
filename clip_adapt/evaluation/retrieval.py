"""Retrieval between images and captions: recall at 1, 5 and 10 both ways, with intervals.

    image to text    an image is right at k when one of its captions is among the k nearest texts
    text to image    a caption is right at k when one of its images is among the k nearest images;
                     the mean over all captions of all images

Each different caption is in the pool once, and belongs to every image that has it. Wrong answers
that are exactly as near as the right one count as nearer, so that features which are all the same
score nothing. Intervals draw images (or their groups) and leave the pool as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clip_adapt.adapted.classifier import Classifier
from clip_adapt.data import scan
from clip_adapt.data.captions import Captions
from clip_adapt.data.items import Item
from clip_adapt.evaluation.classification import compute_rows, list_groups
from clip_adapt.evaluation.measuring import Measured, compare
from clip_adapt.evaluation.predictions import Floats
from clip_adapt.evaluation.quantities import RECALL_AT, RECALLS
from clip_adapt.evaluation.resampling import (
    count_resamples,
    describe_bootstrap,
    draw_resamples,
    make_estimate,
)
from clip_adapt.inputs.features import FeatureCache, extract
from clip_adapt.method.contract import Method
from clip_adapt.method.encoding import encode_texts
from clip_adapt.system.text.csv_text import write_table
from clip_adapt.system.text.showing import write_json

SHOWN = 5  # captions of an image in retrieval.csv
BLOCK = 1024  # rows of similarities at a time


@dataclass(frozen=True)
class Ranks:
    """How many wrong answers are at least as near as the best right one.

    Attributes:
        of_images: (N,) for every image among the texts.
        of_pairs: (P,) for every caption of every image among the images.
        image: (P,) the image of each of these.
    """

    of_images: Tensor
    of_pairs: Tensor
    image: Tensor

    def recall(self, k: int) -> float:
        """Return the mean of both directions' recall at k."""
        both = [float((ranks < k).double().mean()) for ranks in (self.of_images, self.of_pairs)]
        return sum(both) / 2


def rank_pairs(z: Tensor, t: Tensor, own: Sequence[Sequence[int]]) -> Ranks:
    """Rank texts for images and images for texts.

    Args:
        z: unit features of N images (N, D).
        t: unit features of M different texts (M, D).
        own: for every image the indices of its texts, at least one.
    """
    image = torch.tensor([i for i, texts in enumerate(own) for _ in texts])
    text = torch.tensor([j for texts in own for j in texts])
    of_texts = _rank_answers(t, z, text, image)
    return Ranks(_rank_answers(z, t, image, text), of_texts[text], image)


def _rank_answers(queries: Tensor, pool: Tensor, query: Tensor, answer: Tensor) -> Tensor:
    # The rank (Q,) of the best right answer of every query; (query, answer) lists what is right.
    found = []
    for start in range(0, len(queries), BLOCK):
        similar = queries[start : start + BLOCK] @ pool.T
        here = (query >= start) & (query < start + len(similar))
        right = torch.zeros_like(similar, dtype=torch.bool)
        right[query[here] - start, answer[here]] = True
        best = similar.masked_fill(~right, float("-inf")).amax(1, keepdim=True)
        found.append(((similar >= best) & ~right).sum(1))
    return torch.cat(found)


def measure(found: Ranks, groups: Sequence[str | None] | None = None, seed: int = 0) -> Measured:
    """Return the recalls with their 95 % intervals; ``groups`` are drawn whole."""
    n = len(found.of_images)
    image = found.image.numpy()
    of_image = {k: (found.of_images < k).numpy().astype(np.float64) for k in RECALL_AT}
    # For every image how many of its captions are right, and how many it has.
    of_text = {k: np.bincount(image, (found.of_pairs < k).numpy(), minlength=n) for k in RECALL_AT}
    count = np.bincount(image, minlength=n).astype(np.float64)
    ways = {
        **{f"image_to_text_recall@{k}": (of_image[k], np.ones(n)) for k in RECALL_AT},
        **{f"text_to_image_recall@{k}": (of_text[k], count) for k in RECALL_AT},
    }
    drawn = list(draw_resamples(n, groups, count_resamples(n, 1), seed))
    samples = {q.name: _resample(*ways[q.name], drawn) for q in RECALLS}
    values = {name: float(top.sum() / bottom.sum()) for name, (top, bottom) in ways.items()}
    table = {q.name: make_estimate(values[q.name], samples[q.name], q.low, q.high) for q in RECALLS}
    return Measured(table, {}, [], samples)


def _resample(top: NDArray[Any], bottom: NDArray[Any], drawn: Sequence[Floats]) -> Floats:
    return np.concatenate([(top @ weights) / (bottom @ weights) for weights in drawn])


@dataclass(frozen=True)
class Retrieval:
    """A method on the captioned images of a test split, and the frozen backbone on the same.

    Attributes:
        items: the test images.
        texts: their captions, each different one once.
        own: for every image the indices of its texts; copies of an image share theirs.
        z: unit features of the images (N, D).
        t: unit features of the texts (M, D).
        ranks: the method's ranks.
        ours: the method's recalls.
        zero_shot: those of the backbone without training.
    """

    items: list[Item]
    texts: list[str]
    own: list[list[int]]
    z: Tensor
    t: Tensor
    ranks: Ranks
    ours: Measured
    zero_shot: Measured

    def facts(self) -> dict[str, Any]:
        """Return what metrics.json says of it; every value can be written as JSON."""
        return {
            "test": self.ours.table,
            "zero_shot": self.zero_shot.table,
            "difference": compare(self.ours, self.zero_shot),
            "n_test": len(self.items),
            "n_captions": sum(len(item.captions) for item in self.items),
            "n_texts": len(self.texts),
            "bootstrap": describe_bootstrap(len(self.items), 1, list_groups(self.items)),
        }


def measure_beside_zero_shot(
    method: Method, items: list[Item], cache: FeatureCache, seed: int = 0
) -> Retrieval:
    """Measure a method on captioned images, and the frozen backbone on the same.

    ``seed`` is that of the bootstrap; both draw the same resamples.
    """
    captions = Captions.of(items, scan.hash_images([i.path for i in items], cache.memory))
    frozen = Method(method.backbone, method.task).eval()
    groups = list_groups(items)

    def measure_one(one: Method) -> tuple[Tensor, Tensor, Ranks, Measured]:
        z, t = _encode_images(one, items, cache), _encode_texts(one, captions.texts)
        found = rank_pairs(z, t, captions.own)
        return z, t, found, measure(found, groups, seed)

    return Retrieval(
        items,
        captions.texts,
        captions.own,
        *measure_one(method.eval()),
        measure_one(frozen)[-1],
    )


def _encode_images(method: Method, items: list[Item], cache: FeatureCache) -> Tensor:
    paths = [item.path for item in items]
    if not method.tunes_image_tower:
        z = extract(method.backbone, paths, cache, label="test features")[:, 0]
        with torch.no_grad():
            return method.image_features(z.to(method.backbone.device)).float().cpu()
    classifier = Classifier(method)
    return compute_rows(classifier, classifier.encode_image, paths).float()


def _encode_texts(method: Method, texts: Sequence[str]) -> Tensor:
    with torch.no_grad():
        return method.text_features(encode_texts(method, texts)).float().cpu()


def write_csv(found: Retrieval) -> str:
    """Return retrieval.csv: for every test image what is right, what is near, and the ranks.

    captions        a JSON list of the texts that are right for the image
    text1, cos1     the nearest text and its cosine, and so on
    rank            of the best right text among all texts; 1 is the first
    right, wrong    the nearest right and the nearest wrong text, and their cosines; ``wrong`` is
                    empty when every text is right
    image_ranks     a JSON list: for each of the captions, the rank of its best image among all
    """
    k = min(SHOWN, len(found.texts))
    near = [f"{what}{i}" for i in range(1, k + 1) for what in ("text", "cos")]
    best = ["right", "right_cos", "wrong", "wrong_cos"]
    table: list[list[object]] = [["path", "captions", *near, "rank", *best, "image_ranks"]]
    image_ranks = (found.ranks.of_pairs + 1).split([len(own) for own in found.own])
    for row, cosines in enumerate(_similarities(found.z, found.t)):
        own = found.own[row]
        captions = write_json([found.texts[i] for i in own])
        near = _list_nearest(found.texts, cosines, k)
        rank = int(found.ranks.of_images[row]) + 1
        best = _list_best(found.texts, cosines, own)
        ranks_of_captions = write_json(image_ranks[row].tolist())
        table.append([found.items[row].path, captions, *near, rank, *best, ranks_of_captions])
    return write_table(table)


def _similarities(z: Tensor, t: Tensor) -> Iterator[Tensor]:
    # The cosines of every image with all texts (M,), in the blocks that are ranked, so that no
    # rounding puts a text elsewhere than its rank.
    for start in range(0, len(z), BLOCK):
        yield from z[start : start + BLOCK] @ t.T


def _list_nearest(texts: Sequence[str], cosines: Tensor, k: int) -> list[str]:
    values, indices = cosines.topk(k)
    pairs = zip(indices.tolist(), values.tolist(), strict=True)
    return [cell for i, cosine in pairs for cell in (texts[i], f"{cosine:.4f}")]


def _list_best(texts: Sequence[str], cosines: Tensor, own: Sequence[int]) -> list[str]:
    # The nearest right and the nearest wrong text; six digits, because a hit can be that narrow.
    right = torch.zeros_like(cosines, dtype=torch.bool)
    right[own] = True
    cells = []
    for kind in (right, ~right):
        value, index = cosines.masked_fill(~kind, float("-inf")).max(0)
        cells += [texts[int(index)], f"{float(value):.6f}"] if kind.any() else ["", ""]
    return cells
