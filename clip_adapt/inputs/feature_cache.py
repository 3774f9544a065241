"""Features on disk, and what is not believed of them.

A file of features holds their digest. One that is damaged is taken away and made anew; one that
cannot be read, or belongs to somebody else, is left as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clip_adapt.errors import InputError
from clip_adapt.system.files import write_atomically
from clip_adapt.system.tensor_files import DIGEST, DamagedError, read_tensors, write_tensors

log = logging.getLogger(__name__)

SUFFIX = ".safetensors"
TOLERANCE = 1e-3  # of a length that is 1; float32 of 1,000 numbers keeps it within 1e-6


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
        wanted = set(keys)
        for shard in self._list_shards(group):
            here = self._read_shard(shard, group, wanted)
            found |= here
            wanted -= here.keys()
        return found

    def write(self, group: str, features: dict[str, Tensor]) -> None:
        """Keep unit features by image key, in one new shard; then make room."""
        if self.folder is None or not features:
            return
        keys = sorted(features)
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:24]
        tensor = torch.stack([features[k] for k in keys])
        metadata = {"keys": json.dumps(keys), "group": group}
        try:
            with write_atomically(self.folder / group / f"{name}{SUFFIX}") as path:
                write_tensors(path, {"features": tensor}, metadata)
            self._make_room()
        except InputError as error:
            log.warning("features are not kept for the next run: %s", error)

    def _list_shards(self, group: str) -> list[Path]:
        if self.folder is None:
            return []
        try:
            return sorted((self.folder / group).glob(f"*{SUFFIX}"))
        except OSError:  # its name is too long, or it may not be looked into; writing says so
            return []

    def _read_shard(self, shard: Path, group: str, wanted: set[str]) -> dict[str, Tensor]:
        if not _may_hold(shard, wanted):
            return {}
        try:
            keys, features = _read_features(shard, group)
        except DamagedError as error:
            log.warning("a damaged feature file is left aside and made anew: %s (%s)", shard, error)
            with contextlib.suppress(OSError):
                shard.unlink()
            return {}
        except FileNotFoundError:  # another process has made room
            return {}
        except OSError as error:
            log.warning("a feature file cannot be read, and is left as it is: %s", error)
            return {}
        found = {key: features[row] for row, key in enumerate(keys) if key in wanted}
        if found:
            with contextlib.suppress(OSError):  # of somebody else, or on a read-only disk
                os.utime(shard)
        return found

    def _make_room(self) -> None:
        assert self.folder is not None, "a cache without a folder writes nothing"
        files = sorted(_list_sizes(self.folder))
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= self.limit:
                return
            if path.suffix == SUFFIX:  # the others are being written
                with contextlib.suppress(OSError):
                    path.unlink()
                    total -= size


def _may_hold(shard: Path, wanted: set[str]) -> bool:
    # Of many files few hold what is wanted, and only these are read as a whole.
    if not wanted:
        return False
    try:
        with safe_open(shard, "pt") as file:
            return not wanted.isdisjoint(json.loads(file.metadata()["keys"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return True  # reading it says what is wrong


def _read_features(shard: Path, group: str) -> tuple[list[str], Tensor]:
    # The keys of n images, and their features (n, D). What training takes for granted is looked
    # at: it would fail without a word.
    tensors, metadata = read_tensors(shard)
    if DIGEST not in metadata:
        raise DamagedError("it has no digest")
    try:
        keys, features = list(json.loads(metadata["keys"])), tensors["features"]
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"it holds no features: {error!r}") from error
    if metadata.get("group") != group:
        raise DamagedError(f"it belongs to {metadata.get('group')}")
    if features.dtype != torch.float32 or features.ndim != 2 or len(features) != len(keys):
        raise DamagedError(f"{features.dtype} {tuple(features.shape)} for {len(keys)} images")
    length = torch.linalg.vector_norm(features, dim=1)
    if not bool(((length - 1).abs() < TOLERANCE).all()):  # false for NaN, too
        raise DamagedError("its features do not have the length 1")
    return keys, features


def _list_sizes(folder: Path) -> Iterator[tuple[int, int, Path]]:
    # Time of the last use, size and path of all files; some may go meanwhile.
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            with contextlib.suppress(OSError):
                stat = path.stat()
                yield stat.st_mtime_ns, stat.st_size, path
