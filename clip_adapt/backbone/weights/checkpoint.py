"""Weights from a file of someone else's, without running anything that the file says.

safetensors, a state dict or a training checkpoint of torch (``weights_only=True``), and OpenAI's
TorchScript archives. Anything that would need unpickling is refused with the reason.
"""

from __future__ import annotations

import pickle  # noqa: TID251 - for the name of torch's error only
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from open_clip.convert import convert_state_dict
from open_clip.model import (
    convert_to_custom_text_state_dict,
    resize_pos_embed,
    resize_text_pos_embed,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from clip_adapt.backbone.weights import torchscript
from clip_adapt.errors import InputError, list_lines

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
KNOWN_HEADS = ("visual", "text", "transformer")  # of open_clip's names
OPENAI = ("input_resolution", "context_length", "vocab_size")


@dataclass(frozen=True)
class Checkpoint:
    """What a file held: tensors by name; ``openai`` when it is an archive published by OpenAI."""

    tensors: dict[str, Tensor]
    openai: bool = False


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the tensors of a file of weights, on the CPU; a prefix of all names is taken off.

    Raises:
        InputError: when the file is damaged, or holds more than tensors.
    """
    read = _read_file(path)
    return replace(read, tensors=_drop_shared_prefix(read.tensors))


def read_shards(index: Path, names: dict[str, str]) -> Checkpoint:
    """Return the tensors of weights that lie in several files beside their index."""
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(names.values())):
        if Path(name).name != name:
            raise InputError(f"{index} names {name!r}, which is not a file beside it")
        tensors |= _read_file(index.parent / name).tensors  # one may hold a single tower
    return Checkpoint(_drop_shared_prefix(tensors))


def _read_file(path: Path) -> Checkpoint:
    if path.suffix == ".safetensors":
        return Checkpoint(_read_safetensors(path))
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"{path} is not a known file of weights: expected one of {', '.join(SUFFIXES)}"
        )
    if torchscript.is_archive(path):
        tensors = torchscript.read_archive(path)
        openai = all(name in tensors for name in OPENAI)
        unused = (*OPENAI, "attn_mask")  # sizes, and the causal mask, which is not a weight
        return Checkpoint({k: v for k, v in tensors.items() if k not in unused}, openai)
    held = _read_torch(path)
    return Checkpoint(held if _is_state_dict(held) else _find_state_dict(held, path))


def load_tensors(model: Any, tensors: dict[str, Tensor], source: str) -> None:
    """Load tensors into a model of separate towers, strictly.

    Older names, scalars of another shape and positions of another image size or context length are
    brought to the model's form, by open_clip's own functions.

    Raises:
        InputError: listing every tensor that is missing, left over, or of another shape.
    """
    state = convert_to_custom_text_state_dict(convert_state_dict(model, dict(tensors)))
    for name in ("logit_scale", "logit_bias"):
        own = getattr(model, name, None)
        if own is not None and name in state:
            state[name] = state[name].reshape(own.shape)
    if "text.transformer.embeddings.position_ids" not in model.state_dict():
        state.pop("text.transformer.embeddings.position_ids", None)  # transformers before 4.31
    resize_pos_embed(state, model)
    resize_text_pos_embed(state, model)
    _require_same(model, state, source)
    model.load_state_dict(state)


def require_finite(model: nn.Module, source: str) -> None:
    """Refuse weights that nothing can be computed with.

    Raises:
        InputError: listing every tensor with a value that is NaN or infinite.
    """
    # The bounds of a tensor are a hundred times quicker to have than isfinite() of all of it.
    bounds = {n: torch.stack(torch.aminmax(p)) for n, p in model.named_parameters() if p.numel()}
    names = [name for name, both in bounds.items() if not bool(both.isfinite().all())]
    # A buffer may be a mask, which holds infinities.
    names += [name for name, buffer in model.named_buffers() if bool(buffer.isnan().any())]
    if names:
        raise InputError(
            f"{source} holds values that are not finite (NaN or infinite), as after a training "
            "that diverged, and nothing can be computed with them: take weights from before it "
            f"({len(names)} tensors)\n{list_lines(sorted(names), 5)}"
        )


def _require_same(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    expected = model.state_dict()
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{name} does not belong here" for name in state if name not in expected]
    problems += [
        f"{name} is {tuple(state[name].shape)} where {tuple(expected[name].shape)} is expected"
        for name in expected.keys() & state.keys()
        if state[name].shape != expected[name].shape
    ]
    if problems:
        raise InputError(
            f"{source} does not fit this architecture: {_guess_reason(state)} "
            f"({len(problems)} differences)\n{list_lines(sorted(problems), 5)}"
        )


def _guess_reason(state: dict[str, Tensor]) -> str:
    # The architecture may be right, and the names those of another library.
    heads = Counter(name.partition(".")[0] for name in state)
    if any(".lora_" in name or ".lora." in name for name in state):
        return "it holds LoRA weights that are not merged: merge them into the model first"
    if {"vision_model", "text_model"} & heads.keys() or any(".vision_model." in n for n in state):
        return (
            "its tensors have the names of transformers: give the folder that holds it and its "
            "config.json, model=DIR"
        )
    head, count = heads.most_common(1)[0] if heads else ("", 0)
    if head not in KNOWN_HEADS and count > len(state) / 2:
        return (
            f"{count} of its {len(state)} names begin with the prefix {head!r} and others do not: "
            "save the part that is the CLIP"
        )
    return "choose the one that it was trained with"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        # safetensors says of a file without permission that it is not there.
        path.open("rb").close()
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged or not a safetensors file ({error})") from error


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"Unsupported global: GLOBAL (\S+)|GLOBAL (\S+) was not", str(error))
        if named is None:
            raise InputError(f"{path} is damaged or not a file of torch ({error})") from error
        raise InputError(
            f"{path} holds more than tensors, and reading it would run code that it names: "
            f"{named[1] or named[2]}. Ask for the weights as .safetensors, or, where you trust its "
            "author, write its state dict to one yourself."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is damaged or not a file of torch ({reason})") from error


def _is_state_dict(held: Any) -> bool:
    return (
        isinstance(held, dict)
        and bool(held)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in held.items())
    )


def _find_state_dict(held: Any, path: Path) -> dict[str, Tensor]:
    # A training checkpoint has it under a key of its own, beside the epoch and the optimizer's.
    found = {k: v for k, v in held.items() if _is_state_dict(v)} if isinstance(held, dict) else {}
    if "state_dict" in found:
        return found["state_dict"]
    if len(found) > 1:
        raise InputError(
            f"{path} holds several state dicts, {', '.join(map(str, found))}: save the one that is "
            "meant in a file of its own"
        )
    if not found:
        raise InputError(f"{path} holds no state dict: expected names with tensors")
    return next(iter(found.values()))


def _drop_shared_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # Of a model that trained in parallel (module.), was compiled (_orig_mod.), or was an attribute
    # of a class of one's own (model., clip.). No CLIP has all its tensors inside one module.
    while len(heads := {name.partition(".")[0] for name in tensors}) == 1:
        (head,) = heads
        if not all(name.startswith(f"{head}.") for name in tensors):
            break
        tensors = {name.removeprefix(f"{head}."): tensor for name, tensor in tensors.items()}
    return tensors
