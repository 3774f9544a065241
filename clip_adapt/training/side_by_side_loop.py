"""The training loop of several runs at once: a run axis leads every tensor of a step.

Each run keeps its own parameters, its own order of batches and its own optimizer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from clip_adapt.errors import InputError
from clip_adapt.method.contract import Method
from clip_adapt.method.state import list_tensors
from clip_adapt.system.text.progress import make_bar
from clip_adapt.training.event_files import open_event_file
from clip_adapt.training.fitting import Training
from clip_adapt.training.learning_curve import Curve, explain_not_finite
from clip_adapt.training.recipe import make_optimizer, make_schedule

# By how much a gradient may differ from that of a run alone, relative to it: rounding, no more.
TOLERANCE, TOLERANCE_IN_HALF = 1e-3, 5e-2
CACHES = ("_zero_shot", "_cached")  # of a method, which a trial may fill


class TogetherLoop:
    """The state of R training runs that make their steps together."""

    def __init__(self, trainings: Sequence[Training]) -> None:
        self.trainings = trainings
        self.methods = [t.method for t in trainings]
        self.recipes = [t.recipe for t in trainings]
        self.steps = [t.step() for t in trainings]
        # The batches that ``train`` takes: their order depends on the generator alone.
        self.loaders = [
            t.support.order(r, torch.Generator().manual_seed(r.seed))
            for t, r in zip(trainings, self.recipes, strict=True)
        ]
        pairs = list(zip(self.methods, self.recipes, strict=True))
        self.optimizers = [make_optimizer(*pair) for pair in pairs]
        self.schedules = [make_schedule(r, len(self.loaders[0])) for r in self.recipes]
        self.states = [list_tensors(method) for method in self.methods]
        self.done = 0  # steps

    def run(self) -> list[Curve | InputError]:
        """Train; return for each run its learning curve, or that its loss is not finite."""
        curves: list[Curve] = [[] for _ in self.trainings]
        title = f"training {len(self.methods)} runs"
        for method in self.methods:
            method.train()
        with contextlib.ExitStack() as stack:
            boards = [stack.enter_context(open_event_file(t.log_dir)) for t in self.trainings]
            epochs = self.recipes[0].epochs
            bar = stack.enter_context(make_bar(epochs, title, "epoch"))
            for epoch in range(epochs):
                for board, curve, row in zip(boards, curves, self._epoch(epoch), strict=True):
                    curve.append(row)
                    for name, value in row.items():
                        board(name, value, epoch)
                bar.update()
        return [self._check_curve(index, curve) for index, curve in enumerate(curves)]

    def find_disagreement(self) -> str | None:
        """Say how a step side by side differs from that of each run alone; None when it does not.

        A method may hold something of its own run where the run axis does not reach it, draw
        numbers, or branch on a value; that shows here, on the first images. Nothing is changed.
        """
        if not all(step.is_stackable for step in self.steps):
            return "what is learned from is not features"
        for method in self.methods:
            method.train()
        with keep_untouched(self.methods) as is_changed:
            try:
                reason = self._compare()
            except Exception as error:  # what vmap cannot follow, or what fails alone as well
                reason = f"a step of the method fails ({str(error).partition(chr(10))[0]})"
            if is_changed():
                return "the method changes more than what the optimizer changes"
        return reason

    def _compare(self) -> str | None:
        size = self.recipes[0].batch_size
        first = torch.arange(len(self.trainings[0].support.labels))[:size]
        batches = [step.batch(first, 0) for step in self.steps]
        ours = [method.trainable() for method in self.methods]
        losses, _ = self._compute_losses(batches)
        gradients = iter(_compute_gradients(losses.sum(), [p for run in ours for p in run]))
        # All of them before the first step alone, which may leave what before_step looks at.
        beside = [_is_changed(m, [next(gradients) for _ in m.trainable()]) for m in self.methods]
        for step, parameters, batch, other in zip(self.steps, ours, batches, beside, strict=True):
            loss, _ = step(*batch)
            alone = _is_changed(step.method, _compute_gradients(loss, parameters))
            limit = TOLERANCE_IN_HALF if step.is_half else TOLERANCE
            if not (other - alone).norm() <= limit * alone.norm():
                return "a step of the method is another one side by side"
        return None

    def _epoch(self, epoch: int) -> list[dict[str, float]]:
        # Sums stay on the device: reading a number from a GPU at every step would stall it.
        sums = torch.zeros(3, len(self.methods), device=self.methods[0].backbone.device)
        for rows in zip(*self.loaders, strict=True):
            rates = self._set_rates(epoch)
            loss, hits = self._make_step(rows, epoch)
            count = torch.full_like(loss, len(rows[0]))
            sums += torch.stack([loss * count, hits, count])
            self.done += 1
        with torch.no_grad():
            for method in self.methods:
                method.on_epoch_end(epoch, self.recipes[0].epochs)
        per_run = zip(*sums.tolist(), rates, strict=True)
        return [{"loss": s / n, "accuracy": hits / n, "lr": rate} for s, hits, n, rate in per_run]

    def _make_step(self, rows: Sequence[Tensor], epoch: int) -> tuple[Tensor, Tensor]:
        # Loss and hits (R,) of each run's row numbers (n,).
        pairs = zip(self.steps, rows, strict=True)
        loss, hits = self._compute_losses([step.batch(numbers, epoch) for step, numbers in pairs])
        loss.sum().backward()
        for method, recipe, optimizer in zip(
            self.methods, self.recipes, self.optimizers, strict=True
        ):
            method.before_step()
            if recipe.clip_norm is not None:
                nn.utils.clip_grad_norm_(method.parameters(), recipe.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
        return loss.detach().float(), hits.float()

    def _compute_losses(self, batches: Sequence[tuple[Any, ...]]) -> tuple[Tensor, Tensor]:
        # Losses and numbers of hits (R,) of a batch per run; what is None of one is so of all.
        states = {f"method.{k}": torch.stack([s[k] for s in self.states]) for k in self.states[0]}
        parts = [None if p[0] is None else torch.stack(p) for p in zip(*batches, strict=True)]
        axes = [None if part is None else 0 for part in parts]

        def one(state: dict[str, Tensor], *batch: Any) -> tuple[Tensor, Tensor]:
            return functional_call(self.steps[0], state, batch)

        # The fused kernels of attention know no run axis and would be called run by run.
        with sdpa_kernel(SDPBackend.MATH):
            return vmap(one, in_dims=(0, *axes))(states, *parts)

    def _set_rates(self, epoch: int) -> list[float]:
        by_epoch = self.recipes[0].schedule_unit == "epoch"
        rates = [s.at(epoch if by_epoch else self.done) for s in self.schedules]
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
        return rates

    def _check_curve(self, index: int, curve: Curve) -> Curve | InputError:
        for epoch, row in enumerate(curve):
            if not torch.isfinite(torch.tensor(row["loss"])):
                method, recipe = self.methods[index], self.recipes[index]
                return InputError(explain_not_finite(method, recipe, epoch))
        return curve


@contextlib.contextmanager
def keep_untouched(methods: Sequence[Method]) -> Iterator[Callable[[], bool]]:
    """Undo what the block does to the methods' tensors and generators; yield whether it did."""
    before = [_take_snapshot(method) for method in methods]
    plain = [dict(vars(method)) for method in methods]

    def is_changed() -> bool:
        return any(
            not torch.equal(tensor, old[name])
            for method, old in zip(methods, before, strict=True)
            for name, tensor in _take_snapshot(method).items()
        )

    try:
        yield is_changed
    finally:
        for method, old, attributes in zip(methods, before, plain, strict=True):
            # What a hook noted of a trial is not part of the training; features of texts stay.
            caches = {name: vars(method)[name] for name in CACHES}
            vars(method).clear()
            vars(method).update(attributes | caches)
            method.zero_grad()
            method.generator.set_state(old[""])
            with torch.no_grad():
                for name, tensor in list_tensors(method).items():
                    tensor.copy_(old[name])


def _compute_gradients(loss: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]


def _is_changed(method: Method, gradients: list[Tensor]) -> Tensor:
    # What before_step makes of gradients, in one row.
    if method.changes_gradients:
        parameters = method.trainable()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        method.before_step()
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    return torch.cat([gradient.flatten() for gradient in gradients])


def _take_snapshot(method: Method) -> dict[str, Tensor]:
    tensors = {name: tensor.detach().clone() for name, tensor in list_tensors(method).items()}
    return {**tensors, "": method.generator.get_state()}
