"""Several runs of one method side by side: seeds and learning rates in one batched computation.

A step of a feature method is so small that its cost is the number of calls, not the arithmetic. R
runs that differ in their seed, their images and some numbers of their recipe, but in no shape, make
their steps together: parameters, features and labels get a leading run axis (torch.func.vmap), and
one pass forward and one back serve all. A run ends where it ends alone, up to rounding.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.method.state import list_tensors
from clip_adapt.system.machine import measure_total_memory
from clip_adapt.training.examples import Examples
from clip_adapt.training.fitting import Trained, Training
from clip_adapt.training.loop import train
from clip_adapt.training.side_by_side_loop import TogetherLoop, keep_untouched

log = logging.getLogger(__name__)

# What may differ between runs: it enters no shape and no order of computation.
OWN = ("seed", "lr", "momentum", "weight_decay", "eps", "warmup_lr", "min_lr", "clip_norm")
# What draws while it learns, or mixes the images of a batch by itself.
ALIVE = (nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.modules.batchnorm._BatchNorm)
MOST = 16  # runs; beyond that a CPU gains nothing more, and a killed group would lose much
SHARE_OF_MEMORY = 0.25
# Bytes that a step keeps for its way back. A larger one is arithmetic, not calls: on two cores 8
# runs of CoOp with 10, 30 and 100 classes (14, 38 and 120 MB) took 0.8, 0.95 and 1.1 times as long.
SMALL = 64 * 2**20


def train_together(trainings: Sequence[Training]) -> list[Trained | Exception]:
    """Train one method several times over; runs that cannot share their steps go in turn.

    Args:
        trainings: of one class, with the same options and classes, on one backbone;
            ``reason_against`` says what else must be equal, ``most`` how many the memory holds.

    Returns:
        for each run what ``Training.alone`` gives, or what it raises: InputError when its loss is
        not finite. Such a run disturbs no other.
    """
    for t in trainings:
        t.method.set_criterion(t.support.labels, t.recipe.class_balanced, t.recipe.label_smoothing)
    begin = time.perf_counter()
    reason = find_obstacle(trainings)
    if reason is None:
        loop = TogetherLoop(trainings)
        reason = loop.find_disagreement()
    if reason is None:
        curves = loop.run()
        share = (time.perf_counter() - begin) / len(trainings)
        return [
            c if isinstance(c, Exception) else _finish_method(t, Trained(c, share, len(trainings)))
            for t, c in zip(trainings, curves, strict=True)
        ]
    if len(trainings) > 1:
        log.info("%d runs are trained one after the other: %s", len(trainings), reason)
    return [_train_alone(training) for training in trainings]


def find_obstacle(trainings: Sequence[Training]) -> str | None:
    """Return in words why runs cannot be trained side by side; None when they can."""
    first = trainings[0]
    methods, supports = [t.method for t in trainings], [t.support for t in trainings]
    method, recipe, labels = first.method, first.recipe, first.support.labels
    shapes = [{k: (t.shape, t.requires_grad) for k, t in list_tensors(m).items()} for m in methods]
    common = [{k: v for k, v in asdict(t.recipe).items() if k not in OWN} for t in trainings]
    alike = all(
        type(m) is type(method)
        and m.backbone is method.backbone
        and m.task.classes == method.task.classes
        for m in methods
    )
    reasons = {
        "there is one run": len(methods) == 1,
        "the methods differ": not alike or any(s != shapes[0] for s in shapes),
        "nothing is trained": not method.trainable() or not recipe.epochs,
        "the method tunes the image tower": method.tunes_image_tower,
        "the method draws while it learns": any(isinstance(m, ALIVE) for m in method.modules()),
        "the inputs are no features": not all(isinstance(s.inputs, Tensor) for s in supports),
        "the number of images differs": len({len(s.labels) for s in supports}) > 1,
        "there are no images": not len(labels),
        f"the recipes differ in more than {', '.join(OWN)}": any(c != common[0] for c in common),
        "the length is counted in steps": recipe.iterations is not None,
        "class_balanced weights each run's classes by itself": recipe.class_balanced,
        "select=val looks at each run by itself": recipe.select == "val",
        "accumulate is above 1": recipe.accumulate > 1,
        "text_chunk asks for little memory": method.backbone.text_chunk != "auto",
        "fp16 scales the loss of each run by itself": method.backbone.dtype == torch.float16,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def count_room(training: Training) -> int:
    """Return how many runs like this one are to be trained side by side; 1 when none are.

    R runs take R times the memory of one. As many go together as a quarter of all memory holds of
    the device, 16 at most. All memory counts, not what is free now: the same runs share their steps
    every time. On a CPU only small steps are shared, which is where it is quicker.
    """
    if find_obstacle([training] * 2) is not None:
        return 1
    method, inputs = training.method, training.support.inputs
    assert isinstance(inputs, Tensor), "reason_against has looked"
    device, kept = method.backbone.device, _measure_step(training)
    if kept is None:
        return 1
    if device.type == "cpu" and kept > SMALL:
        return 1
    # Of each parameter a gradient, two moments, a stacked copy; features lie on two devices.
    size = kept + 4 * sum(map(_count_bytes, method.trainable())) + 2 * _count_bytes(inputs)
    return max(1, min(MOST, int(SHARE_OF_MEMORY * measure_total_memory(device) / size)))


def _measure_step(training: Training) -> int | None:
    # What the graph of a step keeps for its way back, in bytes; the frozen towers' own set aside.
    # None when its batches cannot be stacked.
    method, step, kept = training.method, training.step(), 0
    if not step.is_stackable:
        return None
    frozen = {p.untyped_storage().data_ptr() for p in method.backbone.model.parameters()}

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        if tensor.untyped_storage().data_ptr() not in frozen:
            kept += _count_bytes(tensor)
        return tensor.new_empty(0)  # there is no way back, so nothing is kept

    numbers = torch.arange(len(training.support.labels))[: training.recipe.batch_size]
    batch = step.batch(numbers, 0)
    with (
        _keep_in_one_piece(method.backbone),
        sdpa_kernel(SDPBackend.MATH),
        saved_tensors_hooks(count, lambda nothing: nothing),
        keep_untouched([method]),
    ):
        step(*batch)
    return kept


def _count_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@contextlib.contextmanager
def _keep_in_one_piece(backbone: Backbone) -> Iterator[None]:
    # Texts that pass in parts keep nothing, but each run would take its own quarter of the memory.
    before = backbone.text_chunk
    backbone.text_chunk = sys.maxsize
    try:
        yield
    finally:
        backbone.text_chunk = before


def _finish_method(training: Training, trained: Trained) -> Trained | Exception:
    # As ``train`` leaves a method: in eval mode, finished. A fault of one run is its own.
    nothing: Any = torch.empty(0)
    begin = time.perf_counter()
    try:
        train(training.method, Examples(nothing, nothing), replace(training.recipe, epochs=0))
    except Exception as error:
        return error
    return replace(trained, seconds=trained.seconds + time.perf_counter() - begin)


def _train_alone(training: Training) -> Trained | Exception:
    try:
        return training.alone()
    except Exception as error:
        return error
