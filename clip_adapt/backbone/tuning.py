"""PEFT tuners inside the towers: which layers they sit on, and how they stay apart from the base.

A tuner is put into a twin of the towers, other modules around the same frozen tensors. The backbone
itself is never touched, so several deltas share one, and what a tuner added is what a delta holds.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from clip_adapt.errors import InputError, nearest

Role = Literal["q", "k", "v", "out"]
Block = dict[str, str]  # what a layer does (q, k, v, out, or its own name) -> its name in the tower

# What attention calls its projections: open_clip's after separation, and Hugging Face's.
_NAMES: dict[str, tuple[str, ...]] = {
    "q": ("q_proj", "query"),
    "k": ("k_proj", "key"),
    "v": ("v_proj", "value"),
    "out": ("out_proj", "c_proj", "proj"),
}
_ADAPTER = "default"


@dataclass(frozen=True)
class Tower:
    """The blocks of a tower that a tuner can sit on, from the input to the output.

    Attributes:
        kind: ``attention``: blocks are attentions and their q, k, v, out projections;
            ``convolution``: blocks hold 1x1 convolutions and linear layers, under their own names.
    """

    kind: Literal["attention", "convolution"]
    blocks: list[Block]


def blocks_of(tower: nn.Module) -> Tower:
    """Return what can be tuned in a tower.

    A tower without attention, or with more 1x1 convolutions than attentions, counts as
    convolutional: ResNet's attention pooling does not make it a transformer.
    """
    attentions = list(_attentions(tower))
    pointwise = [n for n, m in tower.named_modules() if _is_pointwise(m)]
    if attentions and len(pointwise) <= len(attentions):
        return Tower("attention", attentions)
    grouped: dict[str, Block] = {}
    for name, module in tower.named_modules():
        if _is_pointwise(module) or isinstance(module, nn.Linear):
            parent, _, own = name.rpartition(".")
            grouped.setdefault(parent, {})[own] = name
    return Tower("convolution", list(grouped.values()))


def choose(tower: Tower, name: str, target: Iterable[Role], layers: str | list[int]) -> list[str]:
    """Return the names of the layers to tune.

    Args:
        tower: its blocks.
        name: ``image`` or ``text``, for messages.
        target: projections of an attention; in a convolutional tower every layer of a block counts.
        layers: ``all``, ``top:N`` (the last N blocks), or indices from 0.

    Raises:
        InputError: when there is no such layer.
    """
    if not tower.blocks:
        raise InputError(
            f"the {name} tower has neither attention, 1x1 convolutions nor linear layers to tune"
        )
    chosen = [tower.blocks[i] for i in _indices(layers, len(tower.blocks), name)]
    if tower.kind == "convolution":
        return [layer for block in chosen for layer in block.values()]
    missing = [role for role in target if any(role not in block for block in chosen)]
    if missing:
        raise InputError(
            f"method.target: the attention of the {name} tower has no projection "
            f"{', '.join(missing)}; it has {', '.join(chosen[0])}"
        )
    return [block[role] for block in chosen for role in target]


def norms_of(tower: nn.Module) -> list[str]:
    """Return the names of a tower's layer normalisations."""
    return [name for name, module in tower.named_modules() if isinstance(module, nn.LayerNorm)]


def config(name: str, given: dict[str, Any], targets: list[str]) -> peft.PeftConfig:
    """Return a PEFT configuration.

    Args:
        name: a configuration class of PEFT, with or without ``Config``.
        given: its options; ``target_modules`` defaults to ``targets``.
        targets: names of layers.

    Raises:
        InputError: when there is no such class or option, or the class refuses a value.
    """
    known = _configs()
    spelling = {spelt.lower(): spelt for spelt in known}
    full = spelling.get(f"{name.lower().removesuffix('config')}config")
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


def inject(model: nn.Module, settings: peft.PeftConfig) -> dict[str, Tensor]:
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
                added[_without_adapter_name(name)] = tensor
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


def tuners(model: nn.Module) -> Iterator[BaseTunerLayer]:
    """Yield the layers that a tuner sits on."""
    yield from (m for m in model.modules() if isinstance(m, BaseTunerLayer))


def set_training(model: nn.Module, mode: bool) -> None:
    """Switch what a tuner added to train or eval mode (its dropout); the base stays in eval."""
    for layer in tuners(model):
        assert isinstance(layer, nn.Module), "PEFT's layers are modules"
        layer.training = mode
        for name, child in layer.named_children():
            if name != "base_layer":
                child.train(mode)


def merged(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's tensors under their original names, with the tuner's part added in.

    Raises:
        InputError: when this tuner cannot be merged.
    """
    folded = copy.deepcopy(model)
    try:
        for layer in tuners(folded):
            layer.merge()
    except (NotImplementedError, AttributeError, ValueError) as error:
        raise InputError(f"this tuner cannot be merged into the weights: {error}") from error
    state = {}
    for name, tensor in folded.state_dict().items():
        own = name.replace(".base_layer.", ".")
        if own != name or not _is_added(folded, name):
            state[own] = tensor
    return state


def plant(root: nn.Module, name: str, tensor: Tensor) -> None:
    """Register a tensor under a dotted name, as a parameter when it is one."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        child = root._modules[part]
        assert child is not None, "made above"
        root = child
    if isinstance(tensor, nn.Parameter):
        root.register_parameter(leaf, tensor)
    else:
        root.register_buffer(leaf, tensor)


def _attentions(tower: nn.Module) -> Iterator[Block]:
    modules = dict(tower.named_modules())
    for name, module in modules.items():
        block = {}
        for role, spellings in _NAMES.items():
            own = next((s for s in spellings if isinstance(_child(module, s), nn.Linear)), None)
            if own is not None:
                block[role] = f"{name}.{own}"
        if not {"q", "k", "v"} <= block.keys():
            continue
        behind = f"{name.rpartition('.')[0]}.output.dense"  # BERT keeps it beside the attention
        if "out" not in block and isinstance(modules.get(behind), nn.Linear):
            block["out"] = behind
        yield block


def _child(module: nn.Module, name: str) -> nn.Module | None:
    return module._modules.get(name)


def _is_pointwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1


def _indices(layers: str | list[int], count: int, name: str) -> list[int]:
    allowed = f"expected all, top:1 to top:{count}, or a list of 0 to {count - 1}"
    if isinstance(layers, list):
        wrong = [i for i in layers if not 0 <= i < count]
        if wrong or not layers:
            raise InputError(
                f"method.layers={layers}: the {name} tower has {count} blocks; {allowed}"
            )
        return sorted(set(layers))
    if layers == "all":
        return list(range(count))
    head, _, number = layers.partition(":")
    if head != "top" or not number.isdigit() or not 1 <= int(number) <= count:
        raise InputError(f"method.layers={layers}: the {name} tower has {count} blocks; {allowed}")
    return list(range(count - int(number), count))


def _may_change(settings: peft.PeftConfig, name: str) -> bool:
    # Some ways to start a tuner (PiSSA, OLoRA) rewrite the layers that it sits on.
    targets = getattr(settings, "target_modules", None)
    layer = name.rpartition(".")[0]
    return isinstance(targets, str) or any(layer.endswith(t) for t in targets or ())


def _configs() -> dict[str, type[peft.PeftConfig]]:
    mapping = peft.mapping
    return {
        cls.__name__: cls
        for kind, cls in mapping.PEFT_TYPE_TO_CONFIG_MAPPING.items()
        if kind in mapping.PEFT_TYPE_TO_TUNER_MAPPING
        and "target_modules" in cls.__dataclass_fields__
        and not issubclass(cls, peft.PromptLearningConfig)
    }


def _without_adapter_name(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != _ADAPTER)


def _is_added(model: nn.Module, name: str) -> bool:
    parent = name
    while parent:
        parent = parent.rpartition(".")[0]
        if isinstance(model.get_submodule(parent), BaseTunerLayer):
            return True
    return False
