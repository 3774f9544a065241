"""Deltas: their bytes, and the tree in their header, with and without the digest of it all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random

from clip_adapt.system.tensor_files import DIGEST, read_tensors, write_tensors
from tools.torture import examples
from tools.torture.judging import Call, make_call
from tools.torture.kind import Kind
from tools.torture.mutation import mutate_bytes, mutate_tree, write_json

LENGTH = 8  # bytes that say how long the header is


@dataclass(frozen=True)
class Delta:
    """A valid delta's file and its bytes, its backbone, and a picture."""

    file: Path
    data: bytes
    model: Path
    picture: Path


def prepare(folder: Path) -> Delta:
    """Train one."""
    run = examples.write_run(folder)
    file = run / "adapter" / "adapter.safetensors"
    picture = folder / "pictures" / "cat" / "0.png"
    return Delta(file, file.read_bytes(), folder / "model", picture)


def attack(random: Random, valid: Delta, place: Path) -> Call:
    """Mutate the bytes, the header of safetensors, or what the delta says of itself."""
    way = random.random()
    (place / "adapter").mkdir()
    file = place / "adapter" / "adapter.safetensors"
    if way < 0.3:
        file.write_bytes(mutate_bytes(random, valid.data))
    elif way < 0.45:
        file.write_bytes(change_header(random, valid.data))
    else:
        rewrite_delta(random, valid.file, file)
    words = (str(place / "adapter"), str(valid.picture), f"model={valid.model}")
    return make_call("predict", *words)


def rewrite_delta(random: Random, source: Path, file: Path) -> None:
    """Write a delta as a hostile author would: its header is mutated, and its digest is right."""
    tensors, metadata = read_tensors(source)
    del metadata[DIGEST]
    told = mutate_tree(random, json.loads(metadata["clip_adapt"]))
    metadata["clip_adapt"] = write_json(told).decode("utf-8", "replace")
    write_tensors(file, tensors, metadata)


def change_header(random: Random, data: bytes) -> bytes:
    """Return a delta whose tree of safetensors' own header is mutated."""
    size = int.from_bytes(data[:LENGTH], "little")
    header = write_json(mutate_tree(random, json.loads(data[LENGTH : LENGTH + size])))
    return len(header).to_bytes(LENGTH, "little") + header + data[LENGTH + size :]


DELTAS = Kind("deltas", prepare, attack)
