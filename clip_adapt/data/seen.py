"""Which images a delta has seen: beside it lie their digests, so that none counts as a test image.

``images_seen.safetensors`` holds a row for every image that trained, validated or calibrated the
delta, or stood there without a label: the SHA-256 of its file (32 bytes) and the digest of its
pixels (16), which a copy in another format without loss has as well. Rows are sorted; there is no
path, no name and no label in it. The delta's header has the digest of the list, so that a list is
one of this delta or is refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from clip_adapt.data.scan import Survey
from clip_adapt.errors import InputError, explain_unknown
from clip_adapt.system.files import write_atomically
from clip_adapt.system.reading import refuse_devices
from clip_adapt.system.tensor_files import (
    DIGEST,
    DamagedError,
    compute_digest,
    read_tensors,
    write_tensors,
)

if TYPE_CHECKING:
    from clip_adapt.data.items import Item

SEEN = "images_seen.safetensors"
ROLES = {  # of an image, the first that fits, and how it is said
    "train": "trained on",
    "val": "validated on",
    "calibration": "calibrated on",
    "unlabelled": "seen without a label",
}
SHA, PIXELS, WIDTH = slice(0, 32), slice(32, 48), 48
LARGEST = 1 << 30  # bytes: 20 million images

Rows = NDArray[np.uint8]


@dataclass(frozen=True)
class SeenImages:
    """The digests (N, 48) of the images that a delta has seen, by their role."""

    rows: Mapping[str, Rows] = field(default_factory=dict)

    @classmethod
    def of(cls, drawn: Mapping[str, Sequence[Item]], survey: Survey) -> SeenImages:
        """Return those of images by role; a survey that knows them has their digests."""
        row = {path: index for index, path in enumerate(survey.paths)}
        digests = np.hstack([survey.sha256, survey.pixels])
        kept = {role: digests[[row[i.path] for i in items]] for role, items in drawn.items()}
        return cls({r: np.unique(found, axis=0) for r, found in kept.items() if len(found)})

    @property
    def sha256(self) -> str:
        """The digest of the whole list, in hex."""
        return compute_digest(self._to_tensors(), {})

    def find(self, survey: Survey) -> dict[str, str]:
        """Return the role of each image of a survey that is among these, by its path."""
        found: dict[str, str] = {}
        good = np.array([path not in survey.broken for path in survey.paths], dtype=bool)
        for role in reversed(ROLES):
            rows = self.rows.get(role, np.zeros((0, WIDTH), np.uint8))
            same = _is_among(survey.sha256, rows[:, SHA]) | _is_among(
                survey.pixels, rows[:, PIXELS]
            )
            found |= {survey.paths[i]: role for i in np.flatnonzero(same & good)}
        return found

    def write(self, folder: Path) -> None:
        """Write the list into the folder of its delta.

        Raises:
            InputError: when the folder cannot be written.
        """
        with write_atomically(folder / SEEN) as temporary:
            write_tensors(temporary, self._to_tensors(), {})

    def _to_tensors(self) -> dict[str, torch.Tensor]:
        return {role: torch.from_numpy(rows) for role, rows in self.rows.items()}


def read_seen(delta: Path, sha256: str) -> SeenImages | None:
    """Return the list that lies beside a delta; None when there is none.

    Args:
        delta: its file.
        sha256: the digest of the list, as the delta's header has it.

    Raises:
        InputError: when the list is damaged, too large, or that of another delta.
    """
    file = delta.with_name(SEEN)
    if not os.path.lexists(file):
        return None
    refuse_devices(file)
    try:
        if os.path.getsize(file) > LARGEST:
            raise InputError(f"{file} is larger than any list of images: {LARGEST >> 20} MB")
        tensors, metadata = read_tensors(file)
    except DamagedError as error:
        raise InputError(f"{file} is damaged ({error}). Copy the delta's folder again.") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    if metadata.get(DIGEST) != sha256:
        raise InputError(
            f"{file} is not the list of the images that {delta} has seen: its digest is another. "
            "Copy the delta's folder again, as a whole."
        )
    for role, rows in tensors.items():
        if role not in ROLES:
            raise InputError(f"{file}: {explain_unknown('role', role, ROLES)}")
        if rows.dtype != torch.uint8 or rows.ndim != 2 or rows.shape[1] != WIDTH:
            raise InputError(f"{file}: {role} holds no digests of images")
    return SeenImages({role: rows.numpy() for role, rows in tensors.items()})


def _is_among(digests: Rows, known: Rows) -> NDArray[np.bool_]:
    # (N,): the first eight bytes tell nearly all apart, so few are compared as a whole.
    heads, others = (np.ascontiguousarray(d[:, :8]).view(np.uint64)[:, 0] for d in (digests, known))
    near = {row.tobytes() for row in known[np.isin(others, heads)]}
    return np.array([row.tobytes() in near for row in digests], dtype=bool)
