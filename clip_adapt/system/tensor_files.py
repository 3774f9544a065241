"""Tensors in a safetensors file that notices when a bit of it has changed.

safetensors has no checksum. The entry ``sha256`` of its metadata is the digest over all the rest:
names, types, shapes and bytes of the tensors, and every other entry of the metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

DIGEST = "sha256"


class DamagedError(Exception):
    """A file's contents are not what was written; the message says what is wrong with them."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and texts with the digest over both; equal ones give equal bytes.

    Raises:
        OSError: when the disk is full, or the file cannot be written.
    """
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save(ready, {**metadata, DIGEST: compute_digest(ready, metadata)})
    end = _find_header_end(data)
    # safetensors writes the metadata in an order that is another each time.
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(memoryview(data)[end:])


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file and its metadata, which hold together if there is a digest.

    The bytes are read once: what is checked is what is used, whatever happens to the file.

    Raises:
        DamagedError: when it is no safetensors file, or its contents do not have its digest.
        OSError: when it cannot be read.
    """
    data = path.read_bytes()
    try:
        tensors = load(data)
        header = json.loads(data[8 : _find_header_end(data)])
    except (SafetensorError, ValueError, KeyError, AssertionError, RecursionError) as error:
        raise DamagedError(str(error) or type(error).__name__) from error
    metadata = header.get("__metadata__") or {}
    if DIGEST in metadata and metadata[DIGEST] != compute_digest(tensors, metadata):
        raise DamagedError("its contents do not have the digest that was written with them")
    return tensors, metadata


def compute_digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256, in hex, over tensors on the CPU and all metadata but the digest."""
    texts = sorted((key, text) for key, text in metadata.items() if key != DIGEST)
    forms = [(name, str(t.dtype), tuple(t.shape)) for name, t in sorted(tensors.items())]
    digest = hashlib.sha256(json.dumps([texts, forms]).encode())
    for _, tensor in sorted(tensors.items()):
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _find_header_end(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")
