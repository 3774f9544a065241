"""One training loop for every method: Accelerate, a schedule, a progress bar, TensorBoard.

A method that leaves the image tower alone trains on features that are computed once; one that tunes
it gets pixels on every step. The loop is the same; what a step computes is step.py's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clip_adapt.backbone.compiling import Compiled
from clip_adapt.errors import InputError
from clip_adapt.method.contract import Method
from clip_adapt.method.state import list_tensors, restore_tensors
from clip_adapt.system.launch import stopping
from clip_adapt.system.launch.processes import broadcast, count_processes, is_main, read_rank
from clip_adapt.system.quiet import ignore_warnings
from clip_adapt.system.text.progress import make_bar
from clip_adapt.training.checkpoint import TrainingCheckpoint
from clip_adapt.training.event_files import open_event_file
from clip_adapt.training.examples import Examples
from clip_adapt.training.learning_curve import Curve, explain_not_finite, read_sums
from clip_adapt.training.recipe import Recipe, make_optimizer, make_schedule
from clip_adapt.training.sharing import align_state, average_gradients, prepare_order
from clip_adapt.training.step import ClassStep, MakeStep
from clip_adapt.training.streams import BegunEpoch, read_streams, restore_streams


def train(
    method: Method,
    support: Examples,
    recipe: Recipe,
    *,
    val: Examples | None = None,
    log_dir: Path | None = None,
    make_step: MakeStep = ClassStep,
    checkpoint: TrainingCheckpoint | None = None,
) -> Curve:
    """Train a method's own parameters, then let it ``finish``; the backbone stays as it is.

    Args:
        method: left in eval mode, holding the weights that ``recipe.select`` says.
        support: the labelled images.
        recipe: how.
        val: needed for ``select="val"`` only, and looked at for nothing else.
        log_dir: where TensorBoard event files go; None writes none.
        make_step: makes what is computed at every step of (method, support, recipe); another
            objective than that of classes gives its own.
        checkpoint: from which the training goes on, and which is kept meanwhile; None keeps none.

    Returns:
        the learning curve: for every epoch its loss, accuracy on the support set, learning rate.

    Raises:
        InputError: when the loss is not finite, val is needed and missing, or the method has a loss
            of its own that class balance and label smoothing cannot change.
    """
    if recipe.select == "val" and (val is None or not len(val.labels)):
        raise InputError(
            "select=val needs validation images and there are none: add a val split or use "
            "select=last (the published protocol)"
        )
    method.set_criterion(support.labels, recipe.class_balanced, recipe.label_smoothing)
    trains = bool(method.trainable() and not recipe.is_empty and len(support.labels))
    curve: Curve = []
    if trains:
        curve = Loop(method, support, recipe, val, log_dir, make_step, checkpoint).run()
    with torch.no_grad():
        method.eval().finish()
    return curve


class Loop:
    """The state of one training run."""

    def __init__(
        self,
        method: Method,
        support: Examples,
        recipe: Recipe,
        val: Examples | None = None,
        log_dir: Path | None = None,
        make_step: MakeStep = ClassStep,
        checkpoint: TrainingCheckpoint | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.method, self.recipe, self.val, self.log_dir = method, recipe, val, log_dir
        self.accelerator = make_accelerator(method, recipe)
        # Seeds what methods draw while they train (dropout); batches have a stream of their own.
        torch.manual_seed(recipe.seed)
        self.order = torch.Generator().manual_seed(recipe.seed)
        self.loader = prepare_order(support.order(recipe, self.order))
        align_state(method)
        optimizer = make_optimizer(method, recipe)
        self.step = make_step(method, support, recipe)
        # For training it would be wrapped, and its gradients exchanged once more.
        self.shared_step = self.accelerator.prepare_model(self.step, evaluation_mode=True)
        # Accelerate's wrapper scales the loss of fp16. It also looks for a package on the disk at
        # every step, a fifth of the time of a small one, so no other optimizer gets it.
        self.scales = self.accelerator.scaler is not None
        self.optimizer = self.accelerator.prepare(optimizer) if self.scales else optimizer
        self.compute = self._compile()
        self.epochs, self.steps = recipe.length(len(self.loader))
        self.schedule = make_schedule(recipe, len(self.loader))
        self.is_asked = False  # to stop, with one of the processes
        self.done = 0  # steps
        self.best: tuple[float, dict[str, Tensor]] | None = None
        self.curve: Curve = []
        self.begun: BegunEpoch | None = None

    def run(self) -> Curve:
        """Train; return the learning curve."""
        if self.checkpoint is not None:
            self.checkpoint.restore(self)
        main = is_main()
        with (
            open_event_file(self.log_dir if main else None) as board,
            make_bar(self.steps, "training", "step", is_shown=main) as bar,
        ):
            bar.update(self.done)
            for epoch in range(self.epochs):
                if epoch == len(self.curve):
                    self.curve.append(self._epoch(epoch, bar))
                for name, value in self.curve[epoch].items():
                    board(name, value, epoch)
        self._restore_best()
        self.method.eval()
        return self.curve

    def take_state(self) -> dict[str, Any]:
        """Return all that the steps to come depend on, in plain values; between two steps only."""
        assert self.begun is not None, "asked while an epoch is under way"
        scaler = self.accelerator.scaler
        return {
            "done": self.done,
            "curve": self.curve,
            "begun": vars(self.begun),
            "best": self.best,
            "tensors": list_tensors(self.step),
            "attributes": self.method.training_state(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "streams": read_streams(self.step),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``take_state`` returned."""
        restore_tensors(self.step, state["tensors"])
        self.method.load_training_state(state["attributes"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.done, self.curve, self.best = state["done"], state["curve"], state["best"]
        begun = self.begun = BegunEpoch(**state["begun"])
        self.order.set_state(begun.order)
        # An epoch draws at its start, perhaps; then everything drawn from is set to where it was.
        restore_streams(self.step, begun.streams)
        self.step.epoch = len(self.curve)
        self.step.start_epoch(self.step.epoch)
        restore_streams(self.step, state["streams"])

    def _epoch(self, epoch: int, bar: Any) -> dict[str, float]:
        self.shared_step.train()
        begun = self.begun = self.begun or self._begin_epoch()
        with stopping.defer_stop():  # a step is made as a whole or not at all
            for index, rows in enumerate(self.loader):
                if index < begun.batches or self.done == self.steps:
                    continue  # done before the run was interrupted
                self._set_lr(epoch)
                loss, hits = self._make_step(rows, epoch)
                begun.sums += torch.stack([loss * len(rows), hits])
                begun.count += len(rows)
                begun.batches += 1
                self.done += 1
                bar.update()
                self._keep_state()
                if self.done == self.steps:
                    break
        count = begun.count
        loss_sum, hit_sum = read_sums(begun.sums)  # of whole batches, which every process has
        if not math.isfinite(loss_sum):
            if self.checkpoint is not None and is_main():
                self.checkpoint.drop()  # it leads here again
            raise InputError(explain_not_finite(self.method, self.recipe, epoch))
        lr = self.optimizer.param_groups[0]["lr"]
        row = {"loss": loss_sum / count, "accuracy": hit_sum / count, "lr": lr}
        # Shown when the bar is drawn next: to draw it for every epoch floods a notebook.
        bar.set_postfix(loss=f"{row['loss']:.3f}", acc=f"{row['accuracy']:.1%}", refresh=False)
        self.begun = None
        with torch.no_grad():
            self.method.on_epoch_end(epoch, self.epochs)
        return row | self._look_at_val()

    def _begin_epoch(self) -> BegunEpoch:
        # Sums stay on the device: reading a number from a GPU at every step would stall it.
        sums = torch.zeros(2, device=self.accelerator.device)
        return BegunEpoch(self.order.get_state(), read_streams(self.step), sums)

    def _keep_state(self) -> None:
        if not self.accelerator.sync_gradients:
            return  # gradients that are being added up are in no checkpoint
        # Several processes stop at the same step: at the first in which one of them was asked.
        asked = self.is_asked if count_processes() > 1 else stopping.is_stop_asked()
        if self.checkpoint is not None:
            self.checkpoint.save_if_due(self, asked=asked)
        if asked:
            stopping.stop()

    def _make_step(self, rows: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        if read_rank():  # from its number and the step alone, so that no checkpoint need hold it
            torch.manual_seed((self.recipe.seed + read_rank()) * 1_000_003 + self.done)
        with self.accelerator.accumulate(self.shared_step):
            loss, hits = self.compute(*self.step.batch(rows, epoch))
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self._update()
        return loss.detach().float(), hits

    def _update(self) -> None:
        asked = stopping.is_stop_asked()
        self.is_asked = average_gradients(self.method.parameters(), asked=asked)
        if self.scales:  # once: a second time is refused
            self.accelerator.unscale_gradients()
        self.method.before_step()
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.method.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _compile(self) -> Callable[..., tuple[Tensor, Tensor]]:
        # A step in which no tower runs costs its number of calls: compiled it is one, and on a GPU
        # one graph, whose outputs the next step overwrites (hence not with accumulated gradients).
        is_alone = count_processes() == 1  # what processes exchange is no part of a graph
        if not (self.method.backbone.compiles and self.step.is_compilable and is_alone):
            return self._compute
        graphs = self.method.backbone.device.type == "cuda" and self.recipe.accumulate == 1
        return Compiled(self._compute, "the training step", graphs=graphs, dynamic=False)

    def _compute(self, *batch: Any) -> tuple[Tensor, Tensor]:
        return self.shared_step(*batch)

    def _set_lr(self, epoch: int) -> None:
        lr = self.schedule.at(epoch if self.recipe.schedule_unit == "epoch" else self.done)
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def _look_at_val(self) -> dict[str, float]:
        if self.recipe.select != "val":
            return {}
        assert self.val is not None, "train() refuses select=val without val"
        name, score = broadcast(self.step.score(self.val))
        if self.best is None or score > self.best[0]:
            state = {k: v.detach().clone() for k, v in self.method.state_dict().items()}
            self.best = (score, state)
        return {name: score}

    def _restore_best(self) -> None:
        if self.best is not None:
            self.method.load_state_dict(self.best[1])


def make_accelerator(method: Method, recipe: Recipe) -> Any:
    """Return what places, scales and shares a training; autocast is the step's own."""
    with ignore_warnings():  # it adds a filter of its own, which would stay
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import AutocastKwargs

    # One process may train several methods, each with its own precision and device.
    AcceleratorState._reset_state(reset_partial_state="LOCAL_RANK" not in os.environ)
    on_cpu = method.backbone.device.type == "cpu"
    scales = not on_cpu and method.backbone.dtype == torch.float16
    return Accelerator(
        cpu=on_cpu,
        mixed_precision="fp16" if scales else "no",
        gradient_accumulation_steps=recipe.accumulate,
        kwargs_handlers=[AutocastKwargs(enabled=False)],
    )
