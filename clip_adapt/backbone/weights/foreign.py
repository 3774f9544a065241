"""What a model folder of somebody else's may ask for: sizes and names, no code and no downloads.

A configuration becomes arguments of open_clip, timm and transformers. Each of them has arguments
that import a Python file, open a file or fetch one; they are not a configuration's to give.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from open_clip.hf_configs import arch_dict

from clip_adapt.errors import InputError
from clip_adapt.system.reading import read_json

# The largest that is built: ten times as large as in any CLIP that there is.
SIZES = {
    "layers": 1_000,
    "image_size": 4_096,
    "patch_size": 4_096,
    "width": 100_000,
    "head_width": 100_000,
    "heads": 10_000,
    "embed_dim": 100_000,
    "context_length": 100_000,
    "vocab_size": 10_000_000,
}
# How texts are cleaned and what is done with their tokens. What else tokenizers take names files,
# or runs Python that lies beside them (``trust_remote_code``).
TOKENIZER_OPTIONS = (
    "additional_special_tokens",
    "clean",
    "language",
    "reduction_mask",
    "strip_sep_token",
)


def check_tokenizer_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``tokenizer_kwargs`` of a configuration.

    Raises:
        InputError: when there is another key than those that are known to run and open nothing.
    """
    for key in given:
        if key not in TOKENIZER_OPTIONS:
            raise InputError(
                f"its configuration gives the tokenizer {key}={given[key]!r}: expected only "
                f"{', '.join(TOKENIZER_OPTIONS)}. No code is run because a model's files ask for it"
            )
    return dict(given)


def check_sizes(config: Mapping[str, Any]) -> None:
    """Check that the sizes of a model's configuration are those of a model that can be built.

    Raises:
        InputError: when one is no whole number, or larger than that of any model.
    """
    for key, value in config.items():
        if isinstance(value, Mapping):
            check_sizes(value)
        for number in value if isinstance(value, list | tuple) else [value]:
            most = SIZES.get(key)
            if isinstance(number, float) and not math.isfinite(number):
                raise InputError(f"its configuration says {key}={number}: expected a number")
            if most is not None and number is not None and not _is_size(number, most):
                raise InputError(
                    f"its configuration says {key}={str(number)[:40]}: expected a whole number "
                    f"from 0 to {most:,}"
                )


def _is_size(number: Any, most: int) -> bool:
    return type(number) is int and 0 <= number <= most


def check_timm_tower(name: str, options: Mapping[str, Any]) -> None:
    """Check that an image tower is one of timm's own, made of sizes.

    Raises:
        InputError: when the name is an address, or an option opens or fetches a file.
    """
    if not timm.is_model(name):
        raise InputError(
            f"its configuration names the image tower {name!r}, which timm {timm.__version__} does "
            "not have. Nothing is fetched because a model's files ask for it"
        )
    taken = inspect.signature(timm.create_model).parameters
    for key in options:
        if key.startswith("pretrained") or key in taken:
            raise InputError(
                f"its configuration gives the image tower {key}={options[key]!r}: expected sizes"
            )


def check_text_configuration(file: Path) -> None:
    """Check that the ``config.json`` of a text tower is of a kind that open_clip knows.

    Of other kinds transformers would look for Python code in the folder, and an attention may be
    the address of a compiled kernel.

    Raises:
        InputError: when it is of another kind, or names a kernel.
    """
    held = read_json(file)
    if not isinstance(held, dict):
        raise InputError(f"{file} is not a configuration of transformers: expected a JSON object")
    kind = held.get("model_type")
    if not isinstance(kind, str) or kind not in arch_dict:
        own = " of its own Python code, which is not run" if "auto_map" in held else ""
        raise InputError(
            f"{file} is a text tower of the kind {kind!r}{own}: expected one of "
            f"{', '.join(arch_dict)}"
        )
    for key, value in held.items():
        if key.endswith(("_implementation", "_implementation_internal")) and "/" in str(value):
            raise InputError(
                f"{file} asks for {key}={value}, compiled code that would be fetched: remove it"
            )
