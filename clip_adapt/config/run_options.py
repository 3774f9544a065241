"""The general options of a run, with their types; configs/train.yaml holds defaults and meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from clip_adapt.config.values import Between, Names

# For each former name of an option the present one.
RENAMED = {"calibration": "conformal_images"}
# What says where a run's files go and how fast it gets there, and changes no number.
NEUTRAL = frozenset({"output", "device", "cache", "cache_dir", "cache_limit", "tensorboard"}) | {
    "report",
    "checkpoint",
    "download",
}

AtLeast0 = Between(0)
Count = Annotated[int, Between(1)]
Length = Annotated[int, AtLeast0]


@dataclass(frozen=True)
class RunOptions:
    """The general options; configs/train.yaml holds their defaults and their meaning."""

    method: str
    dataset: str
    model: str
    shots: Count
    seed: Length
    sampling: Literal["coop", "natural", "all"]
    objective: str
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
    test_on: Names | None
    metrics: Names | None
    device: str
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    text_chunk: Literal["auto"] | Count
    compile: bool
    on_bad_image: Literal["error", "skip"]
    download: bool
    data_dir: str | None
    cache: bool
    cache_dir: str | None
    cache_limit: Annotated[float, Between(0, strict=True)]
    output: str | None
    checkpoint: Annotated[float, Between(0, strict=True)] | None
    tensorboard: bool
    report: bool

    @property
    def trains(self) -> bool:
        """Whether a step is made at all."""
        return bool(self.epochs_at(self.shots) if self.iterations is None else self.iterations)

    @property
    def iterations(self) -> int | None:
        """Steps in all when the recipe counts them by shots; None when it counts epochs."""
        per_shot = self.iterations_per_shot
        return None if per_shot is None else per_shot * self.shots

    def epochs_at(self, shots: int) -> int:
        """Return the number of epochs: one number, or that of the largest key up to ``shots``."""
        if isinstance(self.epochs, int):
            return self.epochs
        keys = sorted(self.epochs)
        return self.epochs[max((k for k in keys if k <= shots), default=keys[0])]
