"""A batch of images shared among the processes of a run, with the gradients of the whole batch.

Every process takes an equal part of the batch through what is costly, then all parts are put
together, and each computes the loss of the whole batch. So any loss is that of one process: of
classes in balance, of pairs that are told from all others of the batch, of penalties. What flows
back to a part comes from the losses of all W processes, W times its gradient; the mean over
processes, which is taken of every parameter, is then the gradient of the whole batch. A parameter
that acts behind the gathering has the whole gradient in every process, and so in the mean.

    dL/dp = 1/W sum_r [ sum_(rows i of r) W dL/dx_i dx_i/dp ]        x_i gathered, p in front of it
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader

from clip_adapt.system.launch.processes import (
    broadcast,
    count_processes,
    find_channel,
    read_rank,
    watch_others,
)


def prepare_order(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Let Accelerate know where an epoch ends: there gradients that are added up make a step.

    The numbers of rows stay on the CPU, and are the same in every process, which takes its part.
    """
    from accelerate.data_loader import prepare_data_loader

    return prepare_data_loader(loader, num_processes=1, process_index=0, put_on_device=False)


def take_part(rows: Tensor) -> Tensor:
    """Return this process's part of the rows (n,): ceil(n / W) of them.

    The last row is repeated where there are not enough: every process does equally much, and none
    is without a row. ``gather_rows`` leaves the repeated ones out.
    """
    count = count_processes()
    if count == 1:
        return rows
    size = -(-len(rows) // count)
    start = size * read_rank()
    return rows[torch.arange(start, start + size).clamp(max=len(rows) - 1)]


def gather_rows(part: Tensor, total: int) -> Tensor:
    """Return the rows (n, ...) of all parts (ceil(n / W), ...); gradients flow to each.

    Args:
        part: what came of the rows of ``take_part``.
        total: n, the number of rows of the whole batch.
    """
    return part if count_processes() == 1 else _Gather.apply(part)[:total]


def average_gradients(parameters: Iterable[nn.Parameter], *, asked: bool = False) -> bool:
    """Put the mean over processes in place of every gradient.

    Args:
        parameters: of which some may have none.
        asked: whether this process was asked to stop.

    Returns:
        whether any process was; it travels with the gradients.
    """
    if count_processes() == 1:
        return asked
    gradients = [p.grad for p in parameters if p.grad is not None]
    mark = torch.zeros_like if not asked else torch.ones_like
    flat = torch.cat([mark(gradients[0].flatten()[:1]), *(g.flatten() for g in gradients)])
    with watch_others():
        dist.all_reduce(flat, group=find_channel(flat.device))
    flat /= count_processes()
    means = flat[1:].split([gradient.numel() for gradient in gradients])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view_as(gradient))
    return bool(flat[0] > 0)


def align_state(module: nn.Module) -> None:
    """Give the module of every process the state of the main process's."""
    if count_processes() > 1:
        module.load_state_dict(broadcast({k: v.cpu() for k, v in module.state_dict().items()}))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        # Kept for the way back, which a GPU takes in a thread that knows of no other process.
        ctx.channel, ctx.start = find_channel(part.device), read_rank() * len(part)
        ctx.rows = len(part)
        parts = [torch.empty_like(part) for _ in range(count_processes())]
        with watch_others():
            dist.all_gather(parts, part.contiguous(), group=ctx.channel)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].clone(memory_format=torch.contiguous_format)
        with watch_others():
            dist.all_reduce(summed, group=ctx.channel)
        return summed[ctx.start : ctx.start + ctx.rows]
