"""Features of many texts, some at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clip_adapt.method.contract import Method

TEXT_BATCH = 256


def encode_texts(method: Method, texts: Sequence[str]) -> Tensor:
    """Return the features (M, D) that ``encode_text`` gives, without gradients."""
    with torch.no_grad():
        parts = range(0, len(texts), TEXT_BATCH)
        return torch.cat([method.encode_text(list(texts[i : i + TEXT_BATCH])) for i in parts])
