"""The checkpoint of a training: a file from which the same run goes on after it was killed.

It holds everything that the steps to come depend on, so that a run which goes on ends with the
delta of a run that was never interrupted. It says of which run it is: any other one starts anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from clip_adapt.errors import InputError
from clip_adapt.system.files import write_atomically
from clip_adapt.system.launch import stopping
from clip_adapt.system.launch.processes import is_main, run_on_main
from clip_adapt.system.structures import join_tensors, split_tensors
from clip_adapt.system.temporaries import sweep

log = logging.getLogger(__name__)

FILE = "checkpoint.safetensors"
_KEY = "clip_adapt_checkpoint"
# What JSON of another form raises when it is used.
MALFORMED = (LookupError, ValueError, TypeError, AttributeError, RecursionError)


class Resumable(Protocol):
    """What a checkpoint is made of.

    Attributes:
        done: steps that are made.
        steps: all there are.
    """

    done: int
    steps: int

    def take_state(self) -> dict[str, Any]:
        """Return all that the steps to come depend on, in plain values."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""


class TrainingCheckpoint:
    """The checkpoint of one run.

    Args:
        folder: where its file lies; nothing else of ours does.
        key: of which run it is: a digest of each thing that decides what is trained, by a name that
            stands in "another ...".
        every: seconds between two of them.

    Attributes:
        seconds: that the training took before this start.
    """

    def __init__(self, folder: Path, key: Mapping[str, str], every: float) -> None:
        self.file, self.key, self.every = folder / FILE, dict(key), every
        self.seconds = 0.0
        self._begin = self._last = time.monotonic()

    def restore(self, loop: Resumable) -> None:
        """Let a training go on where it was when its checkpoint was written, if there is one."""
        self._begin = self._last = time.monotonic()
        state = run_on_main(self._find)
        if state is None:
            return
        self.seconds = state["seconds"]
        loop.load_state(state["loop"])
        log.info("going on from step %d of %d", loop.done, loop.steps)

    def save_if_due(self, loop: Resumable, *, asked: bool) -> None:
        """Write a checkpoint when the last one is old enough, or when the run is asked to stop.

        Of several processes the main one writes: their steps depend on nothing else.

        Raises:
            Stopped: when it is asked.
        """
        if asked or time.monotonic() - self._last >= self.every:
            is_kept = is_main() and self.write(loop)
            self._last = time.monotonic()
            if asked:
                where = f"step {loop.done} of {loop.steps}"
                stopping.stop(f"the same command goes on from {where}" if is_kept else "")

    def write(self, loop: Resumable) -> bool:
        """Write a checkpoint; return whether it could be."""
        tensors: dict[str, Tensor] = {}
        seconds = self.seconds + time.monotonic() - self._begin
        state = split_tensors({"seconds": seconds, "loop": loop.take_state()}, tensors)
        text = json.dumps({"key": self.key, "state": state})
        try:
            with write_atomically(self.file) as temporary:
                said = {_KEY: text, "sha256": _compute_digest(text, tensors)}
                save_file(tensors, temporary, said)
        except (InputError, SafetensorError) as error:  # the training itself needs none
            log.warning("no checkpoint is kept: %s", error)
            return False
        return True

    def drop(self) -> None:
        """Take the checkpoint away."""
        self.file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.file.parent.rmdir()

    def _find(self) -> dict[str, Any] | None:
        sweep(self.file.parent)  # what a killed process has half written
        state = self._read()
        if state is None:
            self.drop()
        return state

    def _read(self) -> dict[str, Any] | None:
        if not self.file.is_file():
            return None
        try:
            with safe_open(self.file, "pt") as opened:
                said = opened.metadata() or {}
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            if said["sha256"] != _compute_digest(said[_KEY], tensors):
                raise ValueError("its bytes are not those that were written")
            kept = json.loads(said[_KEY])
            other = [name for name in self.key if kept["key"].get(name) != self.key[name]]
        except (
            SafetensorError,
            OSError,
            LookupError,
            ValueError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            log.warning("%s is damaged (%s): the run starts anew", self.file, error)
            return None
        if other:
            log.info("%s is of another %s: the run starts anew", self.file, " and ".join(other))
            return None
        state: dict[str, Any] = join_tensors(kept["state"], tensors)
        return state


def _compute_digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
