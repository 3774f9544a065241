"""The image transform that a model's files ask for, checked before an image meets it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from clip_adapt.config import options
from clip_adapt.config.values import Between
from clip_adapt.errors import InputError

Json = dict[str, Any]
Level = Annotated[list[float], Between(-10, 10)]
Spread = Annotated[list[float], Between(1e-6, 100)]


@dataclass(frozen=True)
class _Transform:
    """What may stand in a ``preprocess_cfg``; ``size`` is the tower's and is not read."""

    mean: Level
    std: Spread
    interpolation: Literal["bicubic", "bilinear", "random"]
    resize_mode: Literal["shortest", "longest", "squash"]
    mode: Literal["RGB"]
    fill_color: Annotated[int, Between(0, 255)]


def read_preprocessing(given: Any, image_size: Any) -> Json:
    """Return the transform of a configuration; what it leaves out is open_clip's default.

    Args:
        given: the configuration's ``preprocess_cfg``; keys that are no part of one are left out.
        image_size: of the tower, in pixels.

    Raises:
        InputError: with one line for each value that cannot be used.
    """
    if not isinstance(given, dict):
        raise InputError(f"preprocess_cfg={given!r}: expected a map such as {{mean: [...]}}")
    merged = {**merge_preprocess_dict(PreprocessCfg(), given), "size": image_size}
    values = {key: value for key, value in merged.items() if key != "size"}
    for key in ("mean", "std"):  # one number stands for the three colours
        value = values[key]
        values[key] = list(value) if isinstance(value, list | tuple) else [value] * 3
    checked, problems = options.validate(values, options.read_fields(_Transform), "preprocess_cfg.")
    problems += [
        f"preprocess_cfg.{key}={values[key]}: expected a number for each of the 3 colours"
        for key in ("mean", "std")
        if not problems and len(checked[key]) != 3
    ]
    if problems:
        raise InputError("; ".join(problems))
    # What was a list or a tuple stays one: it is part of the key of cached features.
    scalars = [key for key in ("mean", "std") if not isinstance(merged[key], list | tuple)]
    return {**merged, **{key: checked[key] for key in scalars}}
