"""One training loop for every method: Accelerate, a schedule, a progress bar, TensorBoard.

A method that leaves the image tower alone trains on features that are computed once; one that tunes
it gets pixels on every step. The loop is the same.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from tqdm import tqdm

from clip_adapt.backbone.compiling import Compiled
from clip_adapt.errors import InputError
from clip_adapt.inputs.batches import Batches
from clip_adapt.method.contract import Method
from clip_adapt.system.files import refuse_unwritable
from clip_adapt.training.recipe import Recipe, make_optimizer, make_schedule

log = logging.getLogger(__name__)

EVAL_BATCH, PIXEL_BATCH = 1024, 32


@dataclass(frozen=True)
class Examples:
    """What is trained on: image features (N, V, D) or a data set of pixels, and labels (N,).

    A data set of pixels yields (pixels (3, S, S), label), and has ``set_epoch(epoch)`` when its
    views change from epoch to epoch. One that has ``batch(rows)`` makes the pixels (n, 3, S, S) of
    many images at once, where the method computes.
    """

    inputs: Tensor | Dataset[Any]
    labels: Tensor

    def loader(self, recipe: Recipe, generator: torch.Generator) -> DataLoader[Any]:
        """Return batches in an order that the generator decides."""
        data = (
            TensorDataset(self.inputs, self.labels)
            if isinstance(self.inputs, Tensor)
            else self.inputs
        )
        return DataLoader(
            data,
            batch_size=recipe.batch_size,
            shuffle=True,
            generator=generator,
            drop_last=recipe.drop_last and len(self.labels) >= recipe.batch_size,
        )

    def order(self, recipe: Recipe, generator: torch.Generator) -> DataLoader[Any]:
        """Return the row numbers (n,) of the batches that ``loader`` gives."""
        numbers: Any = range(len(self.labels))
        return Examples(numbers, self.labels).loader(recipe, generator)


def train(
    method: Method,
    support: Examples,
    recipe: Recipe,
    *,
    val: Examples | None = None,
    log_dir: Path | None = None,
    loop: Callable[..., Loop] | None = None,
) -> list[dict[str, float]]:
    """Train a method's own parameters, then let it ``finish``; the backbone stays as it is.

    Args:
        method: left in eval mode, holding the weights that ``recipe.select`` says.
        support: the labelled images.
        recipe: how.
        val: needed for ``select="val"`` only, and looked at for nothing else.
        log_dir: where TensorBoard event files go; None writes none.
        loop: makes the loop, for another objective than that of classes.

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
    curve = (loop or Loop)(method, support, recipe, val, log_dir).run() if trains else []
    with torch.no_grad():
        method.eval().finish()
    return curve


class Loop:
    """The state of one training run; what a step's loss is, a subclass may say."""

    def __init__(
        self,
        method: Method,
        support: Examples,
        recipe: Recipe,
        val: Examples | None,
        log_dir: Path | None,
    ) -> None:
        self.recipe, self.support, self.val = recipe, support, val
        self.accelerator = _accelerator(method, recipe)
        # Seeds what methods draw while they train (dropout); batches have a stream of their own.
        torch.manual_seed(recipe.seed)
        generator = torch.Generator().manual_seed(recipe.seed)
        loader = support.order(recipe, generator)
        optimizer = make_optimizer(method, recipe)
        self.method = self.accelerator.prepare(self._module(method))
        # Accelerate's wrapper scales the loss of fp16. It also looks for a package on the disk at
        # every step, a fifth of the time of a small one, so no other optimizer gets it.
        scales = self.accelerator.scaler is not None
        self.optimizer = self.accelerator.prepare(optimizer) if scales else optimizer
        # Row numbers stay on the CPU; of several processes each gets its own.
        self.loader = self.accelerator.prepare_data_loader(loader, device_placement=False)
        self.batches = Batches(support.inputs, support.labels, self.accelerator.device)
        self.plain = method
        self.compute = self._compute()
        self.epochs, self.steps = recipe.length(len(loader))
        self.schedule = make_schedule(recipe, len(loader))
        self.log_dir = log_dir
        self.step = 0
        self.best: tuple[float, dict[str, Tensor]] | None = None

    def run(self) -> list[dict[str, float]]:
        """Train; return the learning curve."""
        main = self.accelerator.is_main_process
        curve = []
        with (
            event_file(self.log_dir if main else None) as board,
            _bar(self.steps, main) as bar,
        ):
            for epoch in range(self.epochs):
                curve.append(self._epoch(epoch, bar))
                for name, value in curve[-1].items():
                    board(name, value, epoch)
        self._restore_best()
        self.plain.eval()
        return curve

    def _epoch(self, epoch: int, bar: tqdm[Any]) -> dict[str, float]:
        self.method.train()
        self.batches.set_epoch(epoch)
        # Sums stay on the device: reading a number from a GPU at every step would stall it.
        sums, count = torch.zeros(2, device=self.accelerator.device), 0
        for rows in self.loader:
            lr = self._set_lr(epoch)
            loss, hits = self._step(rows, epoch)
            sums += torch.stack([loss * len(rows), hits])
            count += len(rows)
            self.step += 1
            bar.update()
            if self.step == self.steps:
                break
        totals = torch.cat([sums, sums.new_full((1,), count)])
        loss_sum, hit_sum, count = self.accelerator.reduce(totals).tolist()
        if loss_sum != loss_sum or loss_sum in (float("inf"), float("-inf")):
            raise InputError(not_finite(self.plain, self.recipe, epoch))
        row = {"loss": loss_sum / count, "accuracy": hit_sum / count, "lr": lr}
        bar.set_postfix(loss=f"{row['loss']:.3f}", acc=f"{row['accuracy']:.1%}")
        return row | self._look_at_val()

    def _step(self, rows: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        with self.accelerator.accumulate(self.method):
            loss, hits = self._loss(rows, epoch)
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                if (norm := self.recipe.clip_norm) is not None:
                    self.accelerator.clip_grad_norm_(self.method.parameters(), norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
        return loss.detach().float(), hits

    def _module(self, method: Method) -> nn.Module:
        # What is called on every step; processes that train together exchange its gradients.
        return method

    def _loss(self, rows: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        # The loss of a batch, and how many of it are right.
        return self.compute(*self.batches.at(rows))

    def _compute(self) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        # A step in which no tower runs costs its number of calls: compiled it is one, and on a GPU
        # one graph, whose outputs the next step overwrites (hence not with accumulated gradients).
        if not (self.plain.backbone.compiles and self.plain.quick):
            return self._of_batch
        _ = self.plain.zero_shot_weights  # computed once, so no part of a step
        graphs = self.plain.backbone.device.type == "cuda" and self.recipe.accumulate == 1
        return Compiled(self._of_batch, "the training step", graphs=graphs, dynamic=False)

    def _of_batch(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.method(self._features(inputs))
        return self.plain.loss(logits, labels), (logits.argmax(1) == labels).sum().float()

    def _score(self, val: Examples) -> tuple[str, float]:
        return "val_accuracy", accuracy_of(self.plain, val)

    def _features(self, inputs: Tensor) -> Tensor:
        return self.plain.encode_image(inputs) if self.plain.tunes_image_tower else inputs[:, 0]

    def _set_lr(self, epoch: int) -> float:
        lr = self.schedule.at(epoch if self.recipe.schedule_unit == "epoch" else self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _look_at_val(self) -> dict[str, float]:
        if self.recipe.select != "val":
            return {}
        assert self.val is not None, "train() refuses select=val without val"
        name, score = self._score(self.val)
        if self.best is None or score > self.best[0]:
            state = {k: v.detach().clone() for k, v in self.plain.state_dict().items()}
            self.best = (score, state)
        return {name: score}

    def _restore_best(self) -> None:
        if self.best is not None:
            self.plain.load_state_dict(self.best[1])


def not_finite(method: Method, recipe: Recipe, epoch: int) -> str:
    """Return what to tell a user whose loss is not finite any more."""
    half = "" if method.backbone.dtype == torch.float32 else ", or precision=fp32"
    clip = "" if recipe.clip_norm is not None else ", or clip_norm=1"
    of = f" of {recipe.epochs}" if recipe.iterations is None else ""
    return (
        f"the loss is not finite any more in epoch {epoch + 1}{of}. "
        f"Use a smaller learning rate (lr={recipe.lr / 10:g}; it is {recipe.lr:g})"
        f"{clip}{half}."
    )


def curve_of(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    """Return a learning curve by name, an entry an epoch, in five digits."""
    return {name: [float(f"{row[name]:.5g}") for row in rows] for name in (rows or [{}])[0]}


def accuracy_of(method: Method, examples: Examples) -> float:
    """Return the accuracy (0 to 1) of a method on examples, in eval mode, centre view."""
    hits = logits_of(method, examples).argmax(1) == examples.labels
    return float(hits.float().mean())


def logits_of(method: Method, examples: Examples) -> Tensor:
    """Return the logits (N, C) of examples, in eval mode, centre view, float32 on the CPU."""
    method.eval()
    with torch.no_grad():
        return torch.cat([method(z).float().cpu() for z in tower_features(method, examples)])


def tower_features(method: Method, examples: Examples) -> Iterator[Tensor]:
    """Yield the features (n, D) of examples, centre view, as ``encode_image`` gives them."""
    device = method.backbone.device
    if isinstance(examples.inputs, Tensor):
        yield from (part.to(device) for part in examples.inputs[:, 0].split(EVAL_BATCH))
        return
    batches = Batches(examples.inputs, examples.labels, device)
    for rows in torch.arange(len(examples.labels)).split(PIXEL_BATCH):
        yield method.encode_image(batches.inputs_at(rows))


def _accelerator(method: Method, recipe: Recipe) -> Any:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # One process may train several methods, each with its own precision and device.
    AcceleratorState._reset_state(reset_partial_state="LOCAL_RANK" not in os.environ)
    on_cpu = method.backbone.device.type == "cpu"
    precisions = {} if on_cpu else {torch.bfloat16: "bf16", torch.float16: "fp16"}
    return Accelerator(
        cpu=on_cpu,
        mixed_precision=precisions.get(method.backbone.dtype, "no"),
        gradient_accumulation_steps=recipe.accumulate,
    )


def _bar(steps: int, shown: bool) -> tqdm[Any]:
    return tqdm(total=steps, desc="training", unit="step", disable=None if shown else True)


@contextlib.contextmanager
def event_file(folder: Path | None) -> Iterator[Any]:
    """Yield what writes (name, value, epoch) to a TensorBoard event file; None writes nothing."""
    if folder is None:
        yield lambda name, value, step: None
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
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
