"""Fitting a method to a support set: what is solved first, then what is trained by steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_adapt.adapted import guard
from clip_adapt.inputs.pixels import Pixels
from clip_adapt.method.contract import Method
from clip_adapt.method.folds import hold_out
from clip_adapt.system.launch.processes import broadcast
from clip_adapt.training.checkpoint import TrainingCheckpoint
from clip_adapt.training.examples import Examples, compute_logits
from clip_adapt.training.loop import train
from clip_adapt.training.recipe import Recipe
from clip_adapt.training.step import ClassStep, MakeStep, Step

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """The images of one subset.

    Attributes:
        z: features of the frozen tower (N, V, D); (0, V, D) when nothing asks for them.
        labels: (N,).
        pixels: the images themselves, for a method that tunes the image tower.
    """

    z: Tensor
    labels: Tensor
    pixels: Pixels | None = None

    @property
    def examples(self) -> Examples:
        """What the training loop gets."""
        if self.pixels is not None:
            return Examples(self.pixels, self.labels)
        return Examples(self.z, self.labels if len(self.z) else self.labels[:0])

    def only(self, mask: Tensor) -> Part:
        """Return the images where the mask (N,) is True."""
        pixels = None if self.pixels is None else self.pixels.select(mask)
        return Part(self.z[mask] if len(self.z) else self.z, self.labels[mask], pixels)


@dataclass(frozen=True)
class Trained:
    """What training by steps gave.

    Attributes:
        curve: the learning curve, a row per epoch; empty when nothing is trained by steps.
        seconds: that it took; the run's share when several runs made their steps together.
        runs: how many did.
    """

    curve: list[dict[str, float]]
    seconds: float
    runs: int = 1


@dataclass(frozen=True)
class Training:
    """A method that is solved as far as it can be, and how it is to be trained by steps.

    Attributes:
        method: left by ``alone`` as ``loop.train`` leaves it.
        support: the labelled images.
        recipe: how.
        val: for ``select=val``.
        log_dir: where TensorBoard event files go; None writes none.
        make_step: makes what is computed at every step; an objective gives its own.
        parts: what ``support`` and ``val`` are made of; None where nothing asks for it.
        checkpoint: from which it goes on alone; runs side by side keep none.
    """

    method: Method
    support: Examples
    recipe: Recipe
    val: Examples | None = None
    log_dir: Path | None = None
    make_step: MakeStep = ClassStep
    parts: tuple[Part, Part] | None = None
    checkpoint: TrainingCheckpoint | None = None

    def step(self) -> Step:
        """Return what is computed at every step."""
        return self.make_step(self.method, self.support, self.recipe)

    def alone(self) -> Trained:
        """Train.

        Raises:
            InputError: as ``loop.train`` does.
        """
        begin = time.perf_counter()
        curve = train(
            self.method,
            self.support,
            self.recipe,
            val=self.val,
            log_dir=self.log_dir,
            make_step=self.make_step,
            checkpoint=self.checkpoint,
        )
        before = self.checkpoint.seconds if self.checkpoint is not None else 0.0
        return Trained(curve, before + time.perf_counter() - begin)


def solve(
    method: Method,
    support: Part,
    val: Part,
    recipe: Recipe,
    log_dir: Path | None = None,
    *,
    make_step: MakeStep = ClassStep,
    unlabelled: Tensor | None = None,
) -> Training:
    """Let a method solve what it solves in closed form; return what is left to be trained.

    Args:
        method: before fitting.
        support: the labelled images.
        val: the images that are chosen by.
        recipe: how it is trained.
        log_dir: where TensorBoard event files go; None writes none.
        make_step: makes what is computed at every step; an objective gives its own.
        unlabelled: features (M, D) of images without labels.

    Raises:
        InputError: when the method has a loss of its own that the recipe cannot change.
    """
    device = method.backbone.device
    method.set_criterion(support.labels, recipe.class_balanced, recipe.label_smoothing)
    if len(val.z):
        method.validation = (val.z[:, 0].to(device), val.labels.to(device))
    if unlabelled is not None:
        method.unlabelled = unlabelled.to(device)
    if method.solves:
        mean = F.normalize(support.z.mean(1), dim=-1)
        method.fit(mean.to(device), support.labels.to(device))
    parts = (support, val)
    return Training(method, support.examples, recipe, val.examples, log_dir, make_step, parts)


def fit(
    method: Method, support: Part, val: Part, recipe: Recipe, *, unlabelled: Tensor | None = None
) -> None:
    """Fit a method to classes: solve, then train; ``solve`` describes the arguments.

    Raises:
        InputError: as ``loop.train`` does.
    """
    solve(method, support, val, recipe, unlabelled=unlabelled).alone()


def guard_weight(
    method: Method,
    make: Callable[[], Method],
    support: Part,
    centre: Part,
    val: Part,
    recipe: Recipe,
) -> float:
    """Return the weight of zero-shot in the mixture, chosen on val or by stratified folds.

    Args:
        method: fitted.
        make: gives a method like it before fitting, for the folds.
        support: what it was fitted to, with features of the frozen tower.
        centre: the same images in their centre view, in which they are judged.
        val: the images to choose by; without any, every fold of the support set is predicted by a
            method fitted to the others.
        recipe: how it was trained.
    """
    if len(val.labels):
        weight = broadcast(guard.choose(*_judge(method, val), val.labels))
        log.info("guard: zero-shot has weight %.2f in the mixture, chosen on val", weight)
        return weight
    parts = []
    for held in hold_out(support.labels):
        again = make()
        fit(again, support.only(~held), val, recipe, unlabelled=method.unlabelled)
        parts.append((*_judge(again, centre.only(held)), support.labels[held]))
    if not parts:
        log.warning(
            "guard: one image a class and no val leave nothing to choose by; method and zero-shot "
            "count the same"
        )
        return guard.WITHOUT_LABELS
    ours, zero_shot, labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    weight = broadcast(guard.choose(ours, zero_shot, labels))
    log.info("guard: zero-shot has weight %.2f in the mixture, chosen by folds", weight)
    return weight


def _judge(method: Method, part: Part) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        zero_shot = method.zero_shot_logits(part.z[:, 0].to(method.backbone.device))
    return compute_logits(method, part.examples), zero_shot.float().cpu()
