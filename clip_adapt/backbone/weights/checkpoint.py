"""Weights from a file of someone else's, without running anything that the file says.

safetensors, a state dict or a training checkpoint of torch (``weights_only=True``), and OpenAI's
TorchScript archives. Anything that would need unpickling is refused with the reason.
"""

from __future__ import annotations

import pickle  # noqa: TID251 - for the name of torch's error only
import re
from dataclasses import dataclass
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
OPENAI = ("input_resolution", "context_length", "vocab_size")


@dataclass(frozen=True)
class Checkpoint:
    """What a file held: tensors by name; ``openai`` when it is an archive published by OpenAI."""

    tensors: dict[str, Tensor]
    openai: bool = False


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the tensors of a file of weights, on the CPU.

    Raises:
        InputError: when the file is damaged, or holds more than tensors.
    """
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
    return Checkpoint(_extract_state_dict(_read_torch(path), path))


def read_shards(index: Path, names: dict[str, str]) -> Checkpoint:
    """Return the tensors of weights that lie in several files beside their index."""
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(names.values())):
        if Path(name).name != name:
            raise InputError(f"{index} names {name!r}, which is not a file beside it")
        tensors |= read_checkpoint(index.parent / name).tensors
    return Checkpoint(tensors)


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
            f"{source} does not fit this architecture: choose the one that it was trained with "
            f"({len(problems)} differences)\n{list_lines(sorted(problems), 5)}"
        )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        path.open(
            "rb"
        ).close()  # safetensors says of a file without permission that it is not there
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


def _extract_state_dict(held: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(held, dict) and isinstance(held.get("state_dict"), dict):
        held = held["state_dict"]  # a training checkpoint
    if not (isinstance(held, dict) and held and all(isinstance(v, Tensor) for v in held.values())):
        raise InputError(f"{path} holds no state dict: expected names with tensors")
    if all(name.startswith("module.") for name in held):  # of a model that trained in parallel
        return {name.removeprefix("module."): tensor for name, tensor in held.items()}
    return dict(held)
