"""Which run a checkpoint is of: what decides what a training comes to, as digests."""

from __future__ import annotations

import hashlib
import inspect
import json
from typing import Any

from clip_adapt.adapted.delta import list_versions
from clip_adapt.config.run_options import NEUTRAL
from clip_adapt.runs.preparation import Prepared
from clip_adapt.system.files import hash_file
from clip_adapt.system.run_files import CHECKPOINT
from clip_adapt.training.checkpoint import TrainingCheckpoint


def open_checkpoint(prepared: Prepared, manifest: str) -> TrainingCheckpoint | None:
    """Return the checkpoint of a run; None when none is wanted.

    Args:
        prepared: the run.
        manifest: of its support set, with the digest of every image.
    """
    every = prepared.config.options.checkpoint
    if every is None:
        return None
    return TrainingCheckpoint(
        prepared.run.folder / CHECKPOINT, _describe(prepared, manifest), every
    )


def _describe(prepared: Prepared, manifest: str) -> dict[str, str]:
    backbone, config = prepared.run.backbone, prepared.config.resolved()
    source = inspect.getsourcefile(type(prepared.method))
    return {
        "configuration": _digest({k: v for k, v in config.items() if k not in NEUTRAL}),
        "draw of images": _digest(manifest),
        "backbone": _digest([backbone.fingerprint, str(backbone.dtype), backbone.device.type]),
        "version of the code": _digest([list_versions(), source and hash_file(source)]),
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
