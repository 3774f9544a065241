"""TensorBoard event files of a training.

They are written here and now: TensorBoard's own writer has a thread and a queue, and a run that is
stopped while it waits for them would wait for ever.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clip_adapt.system.files import refuse_unwritable

_numbers = itertools.count()


@contextlib.contextmanager
def open_event_file(folder: Path | None) -> Iterator[Any]:
    """Yield what writes (name, value, epoch) to a TensorBoard event file; None writes nothing."""
    if folder is None:
        yield lambda name, value, step: None
        return
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    def write(**content: Any) -> None:
        with refuse_unwritable(folder):
            writer.write(Event(wall_time=time.time(), **content).SerializeToString())
            writer.flush()

    def add(name: str, value: float, step: int) -> None:
        values = [Summary.Value(tag=f"train/{name}", simple_value=value)]
        write(step=step, summary=Summary(value=values))

    with refuse_unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        writer = RecordWriter((folder / _name_file()).open("wb"))
    try:
        write(file_version="brain.Event:2")
        yield add
    finally:
        with refuse_unwritable(folder):
            writer.close()


def _name_file() -> str:
    # As TensorBoard names them; the number tells apart those of one process and second.
    now = f"{int(time.time()):010d}"
    return f"events.out.tfevents.{now}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
