"""TensorBoard event files of a training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clip_adapt.system.files import refuse_unwritable
from clip_adapt.system.quiet import ignore_warnings


@contextlib.contextmanager
def open_event_file(folder: Path | None) -> Iterator[Any]:
    """Yield what writes (name, value, epoch) to a TensorBoard event file; None writes nothing."""
    if folder is None:
        yield lambda name, value, step: None
        return
    with ignore_warnings(DeprecationWarning):
        from torch.utils.tensorboard import SummaryWriter

    with refuse_unwritable(folder):
        writer = SummaryWriter(str(folder))

    def add(name: str, value: float, step: int) -> None:
        with refuse_unwritable(folder):
            writer.add_scalar(f"train/{name}", value, step)

    try:
        yield add
    finally:
        with refuse_unwritable(folder):
            writer.close()
