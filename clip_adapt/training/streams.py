"""Where a training is: its place in the epoch, and in every stream that it draws from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class BegunEpoch:
    """An epoch that is under way.

    Attributes:
        order: state of the generator that orders the batches, before the epoch.
        streams: states of what the step draws from, before the epoch.
        sums: of loss and hits (2,) over its images so far.
        batches: that are done.
        count: images that are done.
    """

    order: Tensor
    streams: dict[str, Tensor]
    sums: Tensor
    batches: int = 0
    count: int = 0


def read_streams(step: nn.Module) -> dict[str, Tensor]:
    """Return the states of torch's generators, and of each that is an attribute of a step."""
    states = {f"step.{name}": g.get_state() for name, g in _find_generators(step).items()}
    states["cpu"] = torch.get_rng_state()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_streams(step: nn.Module, states: Mapping[str, Tensor]) -> None:
    """Set every stream to where it was."""
    for name, generator in _find_generators(step).items():
        generator.set_state(states[f"step.{name}"])
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
    if "mps" in states:
        torch.mps.set_rng_state(states["mps"])


def _find_generators(step: nn.Module) -> dict[str, torch.Generator]:
    return {k: v for k, v in vars(step).items() if isinstance(v, torch.Generator)}
