"""The state of a module while it is trained: its tensors, and what it holds besides them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clip_adapt.system.structures import is_plain

# Set before training, by whoever begins it again, or computed anew from what is there.
GIVEN = {*vars(nn.Module())} | {"options", "validation", "unlabelled", "_cached", "_zero_shot"}


def list_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's parameters and all its buffers by name, the tensors themselves."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def restore_tensors(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a module's tensors other values, in place: who shares one of them sees it."""
    with torch.no_grad():
        for name, tensor in list_tensors(module).items():
            if tensor.shape == state[name].shape:
                tensor.copy_(state[name])
            else:
                tensor.data = state[name].to(tensor)


def read_attributes(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the plain attributes of a module and of those in it, by their names."""
    found = {name: _list_plain(part) for name, part in module.named_modules()}
    return {name: attributes for name, attributes in found.items() if attributes}


def restore_attributes(module: nn.Module, state: Mapping[str, Mapping[str, Any]]) -> None:
    """Give a module the attributes that ``read_attributes`` returned."""
    parts = dict(module.named_modules())
    for name, attributes in state.items():
        for key, value in attributes.items():
            if not _restore_in_place(vars(parts[name]).get(key), value):
                parts[name].__dict__[key] = value


def _list_plain(module: nn.Module) -> dict[str, Any]:
    return {k: v for k, v in vars(module).items() if k not in GIVEN and is_plain(v)}


def _restore_in_place(now: Any, then: Any) -> bool:
    # A tensor may be a view of another, a generator may be held elsewhere, too.
    if isinstance(now, torch.Generator) and isinstance(then, torch.Generator):
        now.set_state(then.get_state())
        return True
    if not (isinstance(now, Tensor) and isinstance(then, Tensor)):
        return False
    same = (now.shape, now.dtype, now.device) == (then.shape, then.dtype, then.device)
    if same and not torch.equal(now, then):
        if now.is_inference() or not now.is_contiguous():
            return False
        with torch.no_grad():
            now.copy_(then)
    return same
