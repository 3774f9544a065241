"""Frozen image features, computed once and kept on disk.

A feature depends on the backbone's weights, the transform, the view and the image file's bytes; its
key holds all four, so every method, seed and sweep shares it and nothing stale is ever read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.data import decoding, scan
from clip_adapt.errors import InputError
from clip_adapt.inputs.views import MADE_BY, Augment, make_view
from clip_adapt.system.files import write_atomically

log = logging.getLogger(__name__)

CENTRE = -1
SHARD = 1024  # images per file; an interrupted extraction goes on after the last one
KEEP_EVERY = 30.0  # seconds after which a file is written, however few images there are

Job = tuple[int, str, str]  # view, key, path


@dataclass(frozen=True)
class FeatureCache:
    """Features on disk: one folder a (backbone, transform, view), in it shards of many images.

    Attributes:
        folder: where; None keeps nothing.
        limit: largest size in bytes; what was not used longest goes first.
    """

    folder: Path | None
    limit: float = 10e9

    @property
    def memory(self) -> Path | None:
        """Where it is remembered which digest a file has: beside the features."""
        return self.folder.parent if self.folder else None

    def read(self, group: str, keys: set[str]) -> dict[str, Tensor]:
        """Return the features that are there, by image key."""
        found: dict[str, Tensor] = {}
        for shard in self._shards(group):
            found |= self._read_shard(shard, keys - found.keys())
        return found

    def write(self, group: str, features: dict[str, Tensor]) -> None:
        """Keep features by image key, in one new shard; then make room."""
        if self.folder is None or not features:
            return
        keys = sorted(features)
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:24]
        tensor = torch.stack([features[k] for k in keys]).contiguous()
        try:
            with write_atomically(self.folder / group / f"{name}.safetensors") as path:
                save_file({"features": tensor}, path, {"keys": json.dumps(keys)})
            self._make_room()
        except InputError as error:
            log.warning("features are not kept for the next run: %s", error)

    def _shards(self, group: str) -> list[Path]:
        return sorted((self.folder / group).glob("*.safetensors")) if self.folder else []

    def _read_shard(self, shard: Path, wanted: set[str]) -> dict[str, Tensor]:
        try:
            with safe_open(shard, "pt") as file:
                keys = json.loads(file.metadata()["keys"])
                rows = [i for i, key in enumerate(keys) if key in wanted]
                features = file.get_tensor("features") if rows else None
            if features is None:
                return {}
            os.utime(shard)
            return {keys[i]: features[i] for i in rows}
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            log.warning("a damaged feature file is left aside and made anew: %s (%s)", shard, error)
            shard.unlink(missing_ok=True)
            return {}

    def _make_room(self) -> None:
        assert self.folder is not None, "a cache without a folder writes nothing"
        shards = [(p.stat(), p) for p in self.folder.rglob("*.safetensors")]
        shards.sort(key=lambda pair: pair[0].st_mtime_ns)
        total = sum(stat.st_size for stat, _ in shards)
        for stat, path in shards:
            if total <= self.limit:
                return
            path.unlink(missing_ok=True)
            total -= stat.st_size


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
        InputError: listing every image that cannot be read.
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
        known = cache.read(groups[index], set(place))
        for key, feature in known.items():
            z[place[key], column] = feature
        todo += [(index, key, paths[row]) for key, row in place.items() if key not in known]
    column_of = {index: column for column, index in enumerate(indices)}
    with _Writer(cache, groups) as writer:
        for (index, key, _), feature in _compute_features(backbone, todo, augment, label):
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
    described = json.dumps(backbone.transform, sort_keys=True, default=str)
    kind = f"{described} {backbone.dtype} {backbone.device.type} {MADE_BY}"
    transform = hashlib.sha256(kind.encode()).hexdigest()[:12]
    name = "centre" if index == CENTRE else f"{augment}{index}"
    return f"{backbone.fingerprint[:16]}/{transform}/{name}"


def _compute_features(
    backbone: Backbone, todo: list[Job], augment: Augment, label: str
) -> Iterator[tuple[Job, Tensor]]:
    size = choose_batch_size(backbone.device)
    reasons: dict[str, str] = {}

    def load_view(job: Job) -> Tensor | str:
        image = decoding.try_load(job[2])
        return (
            image if isinstance(image, str) else make_view(backbone, augment, job[0], job[1], image)
        )

    progress = tqdm(total=len(todo), desc=label, unit="img", disable=None if todo else True)
    with progress as bar, decoding.open_decoders() as pool:
        for start in range(0, len(todo), size):
            jobs = todo[start : start + size]
            loaded = list(zip(jobs, pool.map(load_view, jobs), strict=True))
            reasons |= {job[2]: pixels for job, pixels in loaded if isinstance(pixels, str)}
            good = [(job, pixels) for job, pixels in loaded if isinstance(pixels, Tensor)]
            features = encode_batch(backbone, [pixels for _, pixels in good], size)
            yield from zip((job for job, _ in good), features, strict=True)
            bar.update(len(jobs))
    decoding.refuse_broken(reasons)


def encode_batch(backbone: Backbone, pixels: list[Tensor], size: int) -> Tensor:
    """Return the features (N, D), on the CPU, of at most ``size`` transformed images.

    The batch is filled up to ``size``: kernels choose their order of summation by the shape, and a
    feature must not depend, to the last bit, on how many others were computed with it.
    """
    if not pixels:
        return torch.empty(0, 0)
    batch = torch.stack(pixels + [torch.zeros_like(pixels[0])] * (size - len(pixels)))
    with torch.inference_mode():
        return backbone.encode_image(batch)[: len(pixels)].float().cpu().clone()


def choose_batch_size(device: torch.device) -> int:
    """Return how many images pass the tower at once."""
    return 32 if device.type == "cpu" else 256
