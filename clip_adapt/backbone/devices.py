"""Where the towers compute and in what precision."""

from __future__ import annotations

from typing import Any

import torch

from clip_adapt.errors import InputError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(device: str) -> torch.device:
    """Return the device, ``auto`` being the best there is.

    Raises:
        InputError: when it does not exist here.
    """
    if device == "auto":
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device={device} cannot be used here: {reason} Use device=auto or device=cpu."
        ) from error
    return chosen


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of the frozen towers; ``auto`` is bf16 on a GPU that has it, else fp32.

    Raises:
        InputError: when the name is not known.
    """
    if precision == "auto":
        half = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if half else torch.float32
    if precision not in DTYPES:
        raise InputError(f"precision={precision}: expected one of auto, {', '.join(DTYPES)}")
    return DTYPES[precision]


def cast_towers(model: Any, dtype: torch.dtype) -> None:
    """Bring the towers of a model to a dtype, in place.

    The scale and the bias of the logits are not part of a tower and stay as they are: in bf16 a
    scale of 100 would be 98.9.
    """
    both = (getattr(model, name) for name in ("logit_scale", "logit_bias"))
    scalars = [parameter for parameter in both if parameter is not None]
    kept = [parameter.detach().clone() for parameter in scalars]
    model.to(dtype=dtype)
    for parameter, value in zip(scalars, kept, strict=True):
        parameter.data = value
