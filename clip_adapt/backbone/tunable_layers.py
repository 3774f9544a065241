"""Which layers of a tower a tuner can sit on, and which of them were asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

from clip_adapt.backbone.blocks import Side, find_blocks
from clip_adapt.errors import InputError

Role = Literal["q", "k", "v", "out"]
Group = dict[str, str]  # what a layer does (q, k, v, out, or its own name) -> its name in the tower

# What attention calls its projections: open_clip's after separation, and Hugging Face's.
_NAMES: dict[Role, tuple[str, ...]] = {
    "q": ("q_proj", "query"),
    "k": ("k_proj", "key"),
    "v": ("v_proj", "value"),
    "out": ("out_proj", "c_proj", "proj"),
}


@dataclass(frozen=True)
class TunableLayers:
    """The layers of a tower that a tuner can sit on, from the input to the output.

    Attributes:
        kind: ``attention``: a group is an attention, with its q, k, v and out projections;
            ``convolution``: a group is what one module holds of 1x1 convolutions and linear layers,
            under their own names.
        groups: what ``layers`` counts: one per residual block of a transformer, and one for the
            attention that pools its tokens, where there is one.
    """

    kind: Literal["attention", "convolution"]
    groups: list[Group]


def find_layers(tower: nn.Module) -> TunableLayers:
    """Return what can be tuned in a tower.

    A tower without attention, or with more 1x1 convolutions than attentions, counts as
    convolutional: ResNet's attention pooling does not make it a transformer.
    """
    attentions = list(_find_attentions(tower))
    pointwise = [n for n, m in tower.named_modules() if _is_pointwise(m)]
    if attentions and len(pointwise) <= len(attentions):
        return TunableLayers("attention", attentions)
    groups: dict[str, Group] = {}
    for name, module in tower.named_modules():
        if _is_pointwise(module) or isinstance(module, nn.Linear):
            parent, _, own = name.rpartition(".")
            groups.setdefault(parent, {})[own] = name
    return TunableLayers("convolution", list(groups.values()))


def choose_layers(
    tower: nn.Module, side: Side, target: Iterable[Role], layers: str | list[int]
) -> list[str]:
    """Return the names of the layers to tune.

    Args:
        tower: where they are.
        side: which tower it is, for messages.
        target: projections of an attention; in a convolutional tower every layer counts.
        layers: ``all``, ``top:N`` (the last N groups), or indices from 0.

    Raises:
        InputError: when there is no such layer.
    """
    found = find_layers(tower)
    if not found.groups:
        raise InputError(
            f"the {side} tower has neither attention, 1x1 convolutions nor linear layers to tune"
        )
    chosen = [found.groups[i] for i in choose_indices(layers, len(found.groups), side)]
    if found.kind == "convolution":
        return [layer for group in chosen for layer in group.values()]
    missing = [role for role in target if any(role not in group for group in chosen)]
    if missing:
        raise InputError(
            f"method.target: the attention of the {side} tower has no projection "
            f"{', '.join(missing)}; it has {', '.join(chosen[0])}"
        )
    return [group[role] for group in chosen for role in target]


def choose_norms(tower: nn.Module, side: Side, layers: str | list[int]) -> list[str]:
    """Return the names of the layer normalisations to tune.

    Args:
        tower: where they are.
        side: which tower it is, for messages.
        layers: ``all``, those before and behind the blocks too; ``top:N``, those inside the last N
            blocks; or indices of blocks from 0.

    Raises:
        InputError: when there is no such block, or no such layer in them.
    """
    roots = [""]
    if layers != "all":
        blocks = find_blocks(tower)
        roots = [f"{blocks[i].name}." for i in choose_indices(layers, len(blocks), side)]
    names = [name for name, module in tower.named_modules() if isinstance(module, nn.LayerNorm)]
    chosen = [name for name in names if name.startswith(tuple(roots))]
    if not chosen:
        raise InputError(
            f"method.layers={layers}: the {side} tower has no layer normalisation there"
        )
    return chosen


def choose_indices(layers: str | list[int], count: int, side: Side) -> list[int]:
    """Return the indices from 0, in order, that ``layers`` stands for among ``count`` blocks.

    Raises:
        InputError: when it stands for none, or for one that is not there.
    """
    if layers == "all":
        return list(range(count))
    if isinstance(layers, list) and layers and all(0 <= i < count for i in layers):
        return sorted(set(layers))
    head, _, number = layers.partition(":") if isinstance(layers, str) else ("", "", "")
    if head == "top" and number.isdecimal() and 1 <= int(number) <= count:
        return list(range(count - int(number), count))
    raise InputError(
        f"method.layers={layers}: the {side} tower has {count} blocks; "
        f"expected all, top:1 to top:{count}, or a list of 0 to {count - 1}"
    )


def _find_attentions(tower: nn.Module) -> Iterator[Group]:
    modules = dict(tower.named_modules())
    for name, module in modules.items():
        group: Group = {}
        for role, spellings in _NAMES.items():
            own = next((s for s in spellings if _has_linear(module, s)), None)
            if own is not None:
                group[role] = f"{name}.{own}"
        if not {"q", "k", "v"} <= group.keys():
            continue
        behind = f"{name.rpartition('.')[0]}.output.dense"  # BERT keeps it beside the attention
        if "out" not in group and isinstance(modules.get(behind), nn.Linear):
            group["out"] = behind
        yield group


def _has_linear(module: nn.Module, name: str) -> bool:
    return isinstance(module._modules.get(name), nn.Linear)


def _is_pointwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
