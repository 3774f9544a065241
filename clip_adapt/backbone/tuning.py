"""PEFT tuners inside the towers, and how they stay apart from the frozen weights.

A tuner is put into a twin of the towers, other modules around the same frozen tensors. The backbone
itself is never touched, so several deltas share one, and what a tuner added is what a delta holds.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from clip_adapt.errors import InputError, nearest

_ADAPTER = "default"


def is_named(given: str, name: str) -> bool:
    """Tell whether a configuration class is meant, whatever its case, with or without Config."""
    return given.lower().removesuffix("config") == name.lower().removesuffix("config")


def make_config(name: str, given: dict[str, Any], targets: list[str]) -> peft.PeftConfig:
    """Return a PEFT configuration.

    Args:
        name: a configuration class of PEFT, with or without ``Config``.
        given: its options; ``target_modules`` defaults to ``targets``.
        targets: names of layers.

    Raises:
        InputError: when there is no such class or option, or the class refuses a value.
    """
    known = _find_configs()
    full = next((spelt for spelt in known if is_named(name, spelt)), None)
    if full is None:
        short = [spelt.removesuffix("Config") for spelt in known]
        raise InputError(
            f"method.peft={name}: PEFT has no such tuner of a model's layers"
            f"{nearest(name, short)} There is: {', '.join(sorted(short))}."
        )
    fields = known[full].__dataclass_fields__
    unknown = [key for key in given if key not in fields]
    if unknown:
        raise InputError(
            f"{full} of PEFT has no option {unknown[0]!r}{nearest(unknown[0], fields)} "
            f"There is: {', '.join(fields)}."
        )
    values = {"target_modules": targets, "feedforward_modules": [], **given}
    try:
        return known[full](**{k: v for k, v in values.items() if k in fields})
    except (ValueError, TypeError) as error:
        raise InputError(f"{full} of PEFT refuses its options: {error}") from error


def inject_tuner(model: nn.Module, settings: peft.PeftConfig) -> dict[str, Tensor]:
    """Put a tuner into a model whose tensors are frozen; return the tensors that it added.

    Trainable ones come out in float32, whatever the model computes in. Names are PEFT's without
    the adapter's own name: ``visual...q_proj.lora_A.weight``.

    Raises:
        InputError: when PEFT refuses, or the tuner would change or train the frozen weights.
    """
    before = model.state_dict().keys()
    copies = {
        n: t.detach().clone() for n, t in model.state_dict().items() if _may_change(settings, n)
    }
    try:
        # The tuner itself: inject_adapter_in_model refuses those with shared tensors, such as VeRA.
        kind = peft.PeftType(settings.peft_type)
        peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING[kind](model, settings, _ADAPTER)
    except (ValueError, TypeError, NotImplementedError, AttributeError, KeyError) as error:
        raise InputError(f"PEFT refuses {type(settings).__name__}: {error}") from error
    added: dict[str, Tensor] = {}
    seen: set[int] = set()  # VeRA's layers share their projections; one of them stands for all
    changed = []
    for name, tensor in model.state_dict(keep_vars=True).items():
        plain = name.replace(".base_layer.", ".")
        if plain not in before:
            if id(tensor) not in seen:
                added[_drop_adapter_name(name)] = tensor
            seen.add(id(tensor))
        elif tensor.requires_grad or (plain in copies and not torch.equal(tensor, copies[plain])):
            changed.append(plain)
            tensor.requires_grad_(False)
            if plain in copies:
                tensor.data.copy_(copies[plain])
    if changed:
        raise InputError(
            f"{type(settings).__name__} would change frozen weights ({changed[0]} and "
            f"{len(changed) - 1} more): choose options that only add (no bias=, "
            "no init_lora_weights that rewrites the base)"
        )
    for tensor in added.values():
        if tensor.requires_grad:
            tensor.data = tensor.data.to(torch.promote_types(tensor.dtype, torch.float32))
    return added


def find_tuners(model: nn.Module) -> Iterator[BaseTunerLayer]:
    """Yield the layers that a tuner sits on."""
    yield from (m for m in model.modules() if isinstance(m, BaseTunerLayer))


def set_training(model: nn.Module, mode: bool) -> None:
    """Switch what a tuner added to train or eval mode (its dropout); the base stays in eval."""
    for layer in find_tuners(model):
        assert isinstance(layer, nn.Module), "PEFT's layers are modules"
        layer.training = mode
        for name, child in layer.named_children():
            if name != "base_layer":
                child.train(mode)


def merge_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's tensors under their original names, with the tuner's part added in.

    Raises:
        InputError: when this tuner cannot be merged.
    """
    merged = copy.deepcopy(model)
    try:
        for layer in find_tuners(merged):
            layer.merge()
    except (NotImplementedError, AttributeError, ValueError) as error:
        raise InputError(f"this tuner cannot be merged into the weights: {error}") from error
    state = {}
    for name, tensor in merged.state_dict().items():
        own = name.replace(".base_layer.", ".")
        if own != name or not _is_added(merged, name):
            state[own] = tensor
    return state


def register_tensor(root: nn.Module, name: str, tensor: Tensor) -> None:
    """Register a tensor under a dotted name, as a parameter when it is one."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        child = root._modules[part]
        assert child is not None, "it was there, or was added above"
        root = child
    if isinstance(tensor, nn.Parameter):
        root.register_parameter(leaf, tensor)
    else:
        root.register_buffer(leaf, tensor)


def _may_change(settings: peft.PeftConfig, name: str) -> bool:
    # Some ways to start a tuner (PiSSA, OLoRA) rewrite the layers that it sits on.
    targets = getattr(settings, "target_modules", None)
    layer = name.rpartition(".")[0]
    return isinstance(targets, str) or any(layer.endswith(t) for t in targets or ())


def _find_configs() -> dict[str, type[peft.PeftConfig]]:
    mapping = peft.mapping
    return {
        cls.__name__: cls
        for kind, cls in mapping.PEFT_TYPE_TO_CONFIG_MAPPING.items()
        if kind in mapping.PEFT_TYPE_TO_TUNER_MAPPING
        and "target_modules" in cls.__dataclass_fields__
        and not issubclass(cls, peft.PromptLearningConfig)
    }


def _drop_adapter_name(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != _ADAPTER)


def _is_added(model: nn.Module, name: str) -> bool:
    parent = name
    while parent:
        parent = parent.rpartition(".")[0]
        if isinstance(model.get_submodule(parent), BaseTunerLayer):
            return True
    return False
