"""The law of a training that is killed: it goes on where it was."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from clip_adapt.method.contract import Method
from clip_adapt.testing.case import Case
from clip_adapt.training.checkpoint import Resumable, TrainingCheckpoint

EPOCHS, BATCH = 3, 10  # of 24 images: three steps an epoch
LAST = 5  # step of the killed process, in the middle of the second epoch


class Killed(Exception):
    """In place of the signal."""


class LastCheckpoint(TrainingCheckpoint):
    """Is written once, and then the process is killed."""

    def save_if_due(self, loop: Resumable, *, asked: bool) -> None:
        """Write it after the last step.

        Raises:
            Killed: then.
        """
        if loop.done == LAST:
            self.write(loop)
            raise Killed


def an_interrupted_training_goes_on(case: Case) -> None:
    """Killed in the middle of an epoch and begun again, a training ends as if it had not been.

    What a method holds besides parameters and buffers (an average over epochs, a counter) is kept
    where it is plain: numbers, text, tensors, generators, and lists and dicts of them. What is not
    goes through ``training_state`` and ``load_training_state``.
    """
    recipe = replace(case.recipe, epochs=EPOCHS, iterations=None, batch_size=BATCH, accumulate=1)
    case = replace(case, recipe=recipe)
    whole, curve = case.trained(case.fresh())
    if not curve:
        return
    with tempfile.TemporaryDirectory() as name:
        first = case.prepare(case.fresh())
        try:
            replace(first, checkpoint=LastCheckpoint(Path(name), {}, math.inf)).alone()
            raise AssertionError(f"there are fewer than {LAST} steps")
        except Killed:
            pass
        second = case.prepare(case.fresh())
        torch.manual_seed(0)  # nor does it depend on where the streams are now
        again = replace(second, checkpoint=TrainingCheckpoint(Path(name), {}, math.inf)).alone()
    assert again.curve == curve, "the learning curve is another one after an interruption"
    _require_equal(second.method, whole)


def _require_equal(one: Method, other: Method) -> None:
    for name, tensor in one.state_dict().items():
        same = torch.equal(tensor, other.state_dict()[name])
        assert same, f"{name} is another one after an interruption"
