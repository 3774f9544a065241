"""Frozen image features, computed once and kept on disk (feature_cache.py).

A feature depends on the backbone's weights, the transform, the view and the image file's bytes; its
key holds all four, so every method, seed and sweep shares it and nothing stale is ever read.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path

import torch
from torch import Tensor

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.data import decoding, scan
from clip_adapt.errors import InputError
from clip_adapt.inputs.feature_cache import FeatureCache
from clip_adapt.inputs.views import MADE_BY, Augment, make_view
from clip_adapt.system.launch import processes
from clip_adapt.system.tensor_files import DIGEST
from clip_adapt.system.text.progress import make_bar

CENTRE = -1
SHARD = 1024  # images per file; an interrupted extraction goes on after the last one
BATCHES = 4  # that each of several processes makes between two exchanges
KEEP_EVERY = 30.0  # seconds after which a file is written, however few images there are

Job = tuple[int, str, str]  # view, key, path


def extract(
    backbone: Backbone,
    paths: Sequence[str],
    cache: FeatureCache,
    *,
    views: int = 1,
    augment: Augment = "coop",
    label: str = "features",
) -> Tensor:
    """Return the unit features of images, from the cache where they are there.

    Args:
        backbone: the frozen towers.
        paths: image files; unreadable ones are refused.
        cache: where features are kept.
        views: 1 gives the centre view; more give that many random views.
        augment: how random views are made.
        label: what the progress bar says.

    Returns:
        (N, views, D), float32, on the CPU.

    Raises:
        InputError: listing every image that cannot be read, or is not the one that was looked at.
    """
    keys = scan.hash_images(paths, cache.memory)
    indices = [CENTRE] if views == 1 or augment == "none" else list(range(views))
    place: dict[str, int] = {}  # the first row of each image
    for row, key in enumerate(keys):
        place.setdefault(key, row)
    z = torch.empty(len(keys), len(indices), backbone.embed_dim)
    groups = {index: _name_group(backbone, index, augment) for index in indices}
    todo: list[Job] = []
    for column, index in enumerate(indices):
        known = cache.read(groups[index], set(place)) if processes.is_main() else {}
        for key, feature in known.items():
            z[place[key], column] = feature
        todo += [(index, key, paths[row]) for key, row in place.items() if key not in known]
    z, todo = processes.broadcast((z, todo))
    column_of = {index: column for column, index in enumerate(indices)}
    with _Writer(cache if processes.is_main() else FeatureCache(None), groups) as writer:
        for (index, key, _), feature in _compute_features(
            backbone, todo, augment, label, cache.memory
        ):
            z[place[key], column_of[index]] = feature
            writer.add(index, key, feature)
    return z if len(place) == len(keys) else z[[place[key] for key in keys]]


class _Writer:
    """Writes a shard of a view when it is full or old, and what is left at the end or on a stop."""

    def __init__(self, cache: FeatureCache, groups: dict[int, str]) -> None:
        self.cache, self.groups = cache, groups
        self.waiting: dict[int, dict[str, Tensor]] = {index: {} for index in groups}
        self.written = time.monotonic()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *error: object) -> None:
        self._flush_all()

    def add(self, index: int, key: str, feature: Tensor) -> None:
        """Take one feature (D,)."""
        self.waiting[index][key] = feature
        if len(self.waiting[index]) >= SHARD:
            self._flush(index)
        if time.monotonic() - self.written >= KEEP_EVERY:
            self._flush_all()

    def _flush_all(self) -> None:
        for index in self.groups:
            self._flush(index)
        self.written = time.monotonic()

    def _flush(self, index: int) -> None:
        self.cache.write(self.groups[index], self.waiting[index])
        self.waiting[index] = {}


def _name_group(backbone: Backbone, index: int, augment: Augment) -> str:
    # What earlier versions kept has no digest, and is not among this.
    described = json.dumps([backbone.transform, DIGEST], sort_keys=True, default=str)
    kind = f"{described} {backbone.dtype} {backbone.device.type} {MADE_BY}"
    transform = hashlib.sha256(kind.encode()).hexdigest()[:12]
    name = "centre" if index == CENTRE else f"{augment}{index}"
    return f"{backbone.fingerprint[:16]}/{transform}/{name}"


def _compute_features(
    backbone: Backbone, todo: list[Job], augment: Augment, label: str, memory: Path | None
) -> Iterator[tuple[Job, Tensor]]:
    count = processes.count_processes()
    block = choose_batch_size(backbone.device) * (count * BATCHES if count > 1 else 1)
    reasons: dict[str, str] = {}
    progress = make_bar(len(todo), label, is_shown=bool(todo) and processes.is_main())
    with progress as bar, decoding.open_decoders() as pool:
        for start in range(0, len(todo), block):
            jobs = todo[start : start + block]
            found = processes.share_work(
                lambda part: _encode_jobs(backbone, part, augment, pool), jobs
            )
            for job, feature in zip(jobs, found, strict=True):
                if isinstance(feature, str):
                    reasons[job[2]] = feature
                else:
                    yield job, feature
            bar.update(len(jobs))
    if processes.is_main():
        changed = [path for path, reason in reasons.items() if reason == decoding.CHANGED]
        scan.forget(changed, memory)
    decoding.refuse_broken(reasons)


def _encode_jobs(
    backbone: Backbone, jobs: Sequence[Job], augment: Augment, pool: Executor
) -> list[Tensor | str]:
    # The feature (D,) of each, or why its file cannot be read.
    def load_view(job: Job) -> Tensor | str:
        image = decoding.try_load(job[2], job[1])
        return (
            image if isinstance(image, str) else make_view(backbone, augment, job[0], job[1], image)
        )

    size, found = choose_batch_size(backbone.device), list[Tensor | str]()
    for start in range(0, len(jobs), size):
        loaded = list(pool.map(load_view, jobs[start : start + size]))
        good = [pixels for pixels in loaded if isinstance(pixels, Tensor)]
        features = iter(encode_batch(backbone, good, size))
        # A row of its own memory: what goes to another process takes all of it along.
        found += [x if isinstance(x, str) else next(features).clone() for x in loaded]
    return found


def encode_batch(backbone: Backbone, pixels: list[Tensor], size: int) -> Tensor:
    """Return the features (N, D), on the CPU, of at most ``size`` transformed images.

    The batch is filled up to ``size``: kernels choose their order of summation by the shape, and a
    feature must not depend, to the last bit, on how many others were computed with it.

    Raises:
        InputError: when a feature is not finite, as in fp16 where a tower needs larger numbers.
    """
    if not pixels:
        return torch.empty(0, 0)
    batch = torch.stack(pixels + [torch.zeros_like(pixels[0])] * (size - len(pixels)))
    with torch.inference_mode():
        z = backbone.encode_image(batch)[: len(pixels)].float().cpu().clone()
    if not bool(z.isfinite().all()):
        raise InputError(
            f"the image tower of {backbone.card.name} gives features that are not finite in "
            f"{str(backbone.dtype).removeprefix('torch.')}: use precision=fp32"
        )
    return z


def choose_batch_size(device: torch.device) -> int:
    """Return how many images pass the tower at once."""
    return 32 if device.type == "cpu" else 256
