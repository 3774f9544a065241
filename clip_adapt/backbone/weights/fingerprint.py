"""What tells one backbone from every other."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import nn


def compute_fingerprint(model: nn.Module, architecture: dict[str, Any], image_size: int) -> str:
    """Return the SHA-256 over architecture and weights, in hex.

    Args:
        model: its state dict, on the CPU; names, types and shapes count as the bytes do.
        architecture: whatever JSON holds.
        image_size: pixels; the same weights see another image size differently.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps([architecture, image_size], sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
