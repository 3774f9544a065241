"""Plain values as JSON and tensors, and back: what can be kept in a file that runs no code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# In place of what JSON has not: {KIND: "tensor", ...}. Dictionaries are lists of pairs, since their
# keys may be numbers, so no dictionary of a user's is mistaken for one of these.
KIND = "kind"


def is_plain(value: Any) -> bool:
    """Tell whether a value is made of numbers, text, tensors, generators, lists, tuples, dicts."""
    if value is None or type(value) in (bool, int, float, str):
        return True
    if type(value) in (list, tuple):
        return all(map(is_plain, value))
    if type(value) is dict:
        return all(is_plain(k) and is_plain(v) for k, v in value.items())
    if isinstance(value, Tensor):
        return value.layout == torch.strided and not value.is_quantized
    return isinstance(value, torch.Generator)


def split_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return what JSON holds of a plain value; its tensors go to ``tensors``, on the CPU.

    Raises:
        TypeError: when it is not plain.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is list:
        return [split_tensors(one, tensors) for one in value]
    if type(value) is tuple:
        return {KIND: "tuple", "items": [split_tensors(one, tensors) for one in value]}
    if isinstance(value, dict):
        pairs = [[split_tensors(part, tensors) for part in pair] for pair in value.items()]
        return {KIND: "dict", "items": pairs}
    if isinstance(value, torch.Generator):
        return {KIND: "generator", "name": _keep(value.get_state(), tensors)}
    if isinstance(value, Tensor):
        return {KIND: "tensor", "name": _keep(value, tensors), "device": str(value.device)}
    raise TypeError(f"{type(value).__name__} cannot be kept")


def join_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the plain value that ``split_tensors`` has split; a generator lies on the CPU.

    Raises:
        KeyError, TypeError: when it is none.
    """
    if isinstance(value, list):
        return [join_tensors(one, tensors) for one in value]
    if not isinstance(value, dict):
        return value
    kind = value[KIND]
    if kind == "tensor":
        return tensors[value["name"]].to(value["device"])
    if kind == "generator":
        generator = torch.Generator()
        generator.set_state(tensors[value["name"]])
        return generator
    items = join_tensors(value["items"], tensors)
    return tuple(items) if kind == "tuple" else dict(items)


def _keep(tensor: Tensor, tensors: dict[str, Tensor]) -> str:
    name = str(len(tensors))
    tensors[name] = tensor.detach().cpu().clone().contiguous()
    return name
