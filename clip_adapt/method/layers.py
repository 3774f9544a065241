"""Small layers that methods learn, with start values that a method's own generator draws."""

from __future__ import annotations

import math

import torch
from torch import nn


def make_linear(inputs: int, outputs: int, *, bias: bool, generator: torch.Generator) -> nn.Linear:
    """Return a linear layer with PyTorch's usual start, U(-1/sqrt(inputs), 1/sqrt(inputs)).

    Drawn from the generator, the start depends on the seed of the task and on nothing else.
    """
    layer = nn.Linear(inputs, outputs, bias=bias)
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer
