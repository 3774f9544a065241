"""Several runs of one method side by side: seeds and learning rates in one batched computation.

A step of a feature method is so small that its cost is the number of calls, not the arithmetic. R
runs that differ in their seed, their images and some numbers of their recipe, but in no shape, make
their steps together: parameters, features and labels get a leading run axis (torch.func.vmap), and
one pass forward and one back serve all. Each run keeps its own parameters, its own order of batches
and its own optimizer, so it ends where it ends alone, up to rounding. R runs keep R times the
memory of a step.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from tqdm import tqdm

from clip_adapt import trainer
from clip_adapt.errors import InputError
from clip_adapt.method import Method
from clip_adapt.trainer import Examples, Recipe, train

log = logging.getLogger(__name__)

Curve = list[dict[str, float]]
# What may differ between runs: it enters no shape and no order of computation.
OWN = ("seed", "lr", "momentum", "weight_decay", "eps", "warmup_lr", "min_lr", "clip_norm")
# What draws while it learns, or mixes the images of a batch by itself.
ALIVE = (nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.modules.batchnorm._BatchNorm)


def train_together(
    methods: Sequence[Method],
    supports: Sequence[Examples],
    recipes: Sequence[Recipe],
    vals: Sequence[Examples | None] | None = None,
) -> list[Curve | InputError]:
    """Train one method several times over; runs that cannot share their steps go in turn.

    Args:
        methods: of one class, with the same options and classes, on one backbone; left as
            ``train`` leaves them.
        supports: what each is trained on.
        recipes: how; ``reason_against`` says what must be equal.
        vals: as ``val`` of ``train``.

    Returns:
        for each run its learning curve, as ``train`` gives it; or the InputError of a run whose
        loss is not finite, which disturbs no other.
    """
    reason = reason_against(methods, supports, recipes)
    for method, support, recipe in zip(methods, supports, recipes, strict=True):
        smoothing = recipe.label_smoothing
        method.set_criterion(support.labels, recipe.class_balanced, smoothing)
    if reason is None:
        return _Together(methods, supports, recipes).run()
    if len(methods) > 1:
        log.info("%d runs are trained one after the other: %s", len(methods), reason)
    looked_at = vals or [None] * len(methods)
    return [_alone(*run) for run in zip(methods, supports, recipes, looked_at, strict=True)]


def reason_against(
    methods: Sequence[Method], supports: Sequence[Examples], recipes: Sequence[Recipe]
) -> str | None:
    """Return in words why runs cannot be trained side by side; None when they can."""
    first, recipe = methods[0], recipes[0]
    shapes = [{k: (t.shape, t.requires_grad) for k, t in _state(m).items()} for m in methods]
    common = [{k: v for k, v in asdict(r).items() if k not in OWN} for r in recipes]
    alike = all(
        type(m) is type(first) and m.backbone is first.backbone and m.task.classes == names
        for m, names in zip(methods, [first.task.classes] * len(methods), strict=True)
    )
    reasons = {
        "there is one run": len(methods) == 1,
        "the methods differ": not alike or any(s != shapes[0] for s in shapes),
        "nothing is trained": not first.trainable() or not recipe.epochs,
        "the method tunes the image tower": first.tunes_image_tower,
        "the method draws while it learns": any(isinstance(m, ALIVE) for m in first.modules()),
        "the inputs are no features": not all(isinstance(s.inputs, Tensor) for s in supports),
        "the number of images differs": len({len(s.labels) for s in supports}) > 1,
        "there are no images": not len(supports[0].labels),
        f"the recipes differ in more than {', '.join(OWN)}": any(c != common[0] for c in common),
        "the length is counted in steps": recipe.iterations is not None,
        "class_balanced weights each run's classes by itself": recipe.class_balanced,
        "select=val looks at each run by itself": recipe.select == "val",
        "accumulate is above 1": recipe.accumulate > 1,
        "text_chunk asks for little memory": first.backbone.text_chunk != "auto",
        "fp16 scales the loss of each run by itself": first.backbone.dtype == torch.float16,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


class _Together:
    """The state of R training runs; a run axis leads every tensor of a step."""

    def __init__(
        self, methods: Sequence[Method], supports: Sequence[Examples], recipes: Sequence[Recipe]
    ) -> None:
        self.methods, self.recipes = methods, recipes
        device = methods[0].backbone.device
        self.inputs = [s.inputs.to(device) for s in supports if isinstance(s.inputs, Tensor)]
        self.labels = [s.labels.to(device) for s in supports]
        self.loaders = [_indices(s, r) for s, r in zip(supports, recipes, strict=True)]
        pairs = list(zip(methods, recipes, strict=True))
        self.optimizers = [trainer.make_optimizer(*pair) for pair in pairs]
        self.schedules = [trainer.make_schedule(r, len(self.loaders[0])) for r in recipes]
        self.one_run = _OneRun(methods[0])
        self.step = 0

    def run(self) -> list[Curve | InputError]:
        for method in self.methods:
            method.train()
        epochs = range(self.recipes[0].epochs)
        title = f"training {len(self.methods)} runs"
        rows = [self._epoch(e) for e in tqdm(epochs, title, unit="epoch", disable=None)]
        for method, recipe in zip(self.methods, self.recipes, strict=True):
            _leave(method, recipe)
        return [self._curve(index, rows) for index in range(len(self.methods))]

    def _epoch(self, epoch: int) -> list[dict[str, float]]:
        # Sums stay on the device: reading a number from a GPU at every step would stall it.
        sums = torch.zeros(3, len(self.methods), device=self.labels[0].device)
        for batches in zip(*self.loaders, strict=True):
            rates = self._set_rates(epoch)
            rows = [batch.to(sums.device, non_blocking=True) for batch in batches]
            z = [x[i, epoch % x.shape[1]] for x, i in zip(self.inputs, rows, strict=True)]
            y = [labels[i] for labels, i in zip(self.labels, rows, strict=True)]
            loss, hits = self._step(torch.stack(z), torch.stack(y))
            count = torch.full_like(loss, len(rows[0]))
            sums += torch.stack([loss * count, hits, count])
            self.step += 1
        per_run = zip(*sums.tolist(), rates, strict=True)
        return [{"loss": s / n, "accuracy": hits / n, "lr": rate} for s, hits, n, rate in per_run]

    def _step(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        states = [_state(method) for method in self.methods]
        stacked = {f"method.{k}": torch.stack([s[k] for s in states]) for k in states[0]}

        def one(state: dict[str, Tensor], z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return functional_call(self.one_run, state, (z, y))

        # The fused kernels of attention know no run axis and would be called run by run.
        with sdpa_kernel(SDPBackend.MATH):
            loss, hits = vmap(one)(stacked, z, y)  # (R,), (R,)
        loss.sum().backward()
        for method, recipe, optimizer in zip(
            self.methods, self.recipes, self.optimizers, strict=True
        ):
            if recipe.clip_norm is not None:
                nn.utils.clip_grad_norm_(method.parameters(), recipe.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
        return loss.detach().float(), hits.float()

    def _set_rates(self, epoch: int) -> list[float]:
        by_epoch = self.recipes[0].schedule_unit == "epoch"
        rates = [s.at(epoch if by_epoch else self.step) for s in self.schedules]
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
        return rates

    def _curve(self, index: int, rows: list[list[dict[str, float]]]) -> Curve | InputError:
        curve = [row[index] for row in rows]
        for epoch, row in enumerate(curve):
            if not torch.isfinite(torch.tensor(row["loss"])):
                method, recipe = self.methods[index], self.recipes[index]
                return InputError(trainer.not_finite(method, recipe, epoch))
        return curve


class _OneRun(nn.Module):
    """Loss and number of hits of one batch, as a module: its state can be put in from outside."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        device, dtype = method.backbone.device.type, method.backbone.dtype
        half = device != "cpu" and dtype == torch.bfloat16
        self.cast: Any = torch.autocast(device, dtype) if half else contextlib.nullcontext()

    def forward(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with self.cast:
            logits = self.method(z)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return self.method.loss(logits, y), (logits.argmax(1) == y).sum()


def _indices(support: Examples, recipe: Recipe) -> DataLoader[Any]:
    # The batches that ``train`` takes, as row numbers: the order depends on the generator alone.
    numbers: Any = range(len(support.labels))
    generator = torch.Generator().manual_seed(recipe.seed)
    return Examples(numbers, support.labels).loader(recipe, generator)


def _state(method: Method) -> dict[str, Tensor]:
    return {**dict(method.named_parameters()), **dict(method.named_buffers())}


def _leave(method: Method, recipe: Recipe) -> None:
    nothing: Any = torch.empty(0)
    train(method, Examples(nothing, nothing), replace(recipe, epochs=0, select="last"))


def _alone(
    method: Method, support: Examples, recipe: Recipe, val: Examples | None
) -> Curve | InputError:
    try:
        return train(method, support, recipe, val=val)
    except InputError as error:
        return error
