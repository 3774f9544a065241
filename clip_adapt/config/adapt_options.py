"""The options of ``adapt`` as an editor and a type checker see them.

They are ``RunOptions`` once more, since the types of keyword arguments must stand in the text: a
test holds the two together. Paths may be ``Path`` here, and a group may be a map of its options.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from clip_adapt.config.run_options import AtLeast0, Count, Length
from clip_adapt.config.values import Between

# Parameters of ``adapt`` itself.
NAMED = frozenset({"method", "dataset", "shots"})
PATHS = frozenset({"model", "objective", "test_on", "data_dir", "cache_dir", "output"})


class AdaptOptions(TypedDict, total=False):
    """Every option of configs/train.yaml, and ``dataset``: options of a data card by name."""

    dataset: Mapping[str, Any]
    model: str | Path | Mapping[str, Any]
    seed: Length
    sampling: Literal["coop", "natural", "all"]
    objective: str | Path
    dedup: bool
    prompts: Literal["templates", "descriptions", "both"]
    template: str | None
    templates: list[str] | None
    ensemble: bool
    epochs: Length | dict[int, int]
    iterations_per_shot: Length | None
    batch_size: Count
    drop_last: bool
    views: Count
    augment: Literal["coop", "light", "medical", "none"]
    optimizer: Literal["sgd", "adam", "adamw"]
    lr: Annotated[float, Between(0, strict=True)]
    momentum: Annotated[float, Between(0, 1)]
    weight_decay: Annotated[float, AtLeast0]
    eps: Annotated[float, Between(0, strict=True)]
    schedule: Literal["cosine", "linear", "constant"]
    schedule_unit: Literal["epoch", "step"]
    warmup: Length
    warmup_lr: Annotated[float, AtLeast0] | None
    min_lr: Annotated[float, AtLeast0]
    accumulate: Count
    clip_norm: Annotated[float, Between(0, strict=True)] | None
    class_balanced: bool
    label_smoothing: Annotated[float, Between(0, 1)]
    guard: bool
    select: Literal["last", "val"]
    calibrate: bool
    conformal: Annotated[float, Between(0, 0.5, strict=True)] | None
    conformal_images: Count | str | None
    protocol: Literal["few_shot", "base_to_new", "cross_dataset"]
    test_on: list[str] | str | Path | None
    metrics: list[str] | str | None
    device: str
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    text_chunk: Literal["auto"] | Count
    compile: bool
    on_bad_image: Literal["error", "skip"]
    download: bool
    data_dir: str | Path | None
    cache: bool
    cache_dir: str | Path | None
    cache_limit: Annotated[float, Between(0, strict=True)]
    output: str | Path | None
    checkpoint: Annotated[float, Between(0, strict=True)] | None
    tensorboard: bool
    report: bool
