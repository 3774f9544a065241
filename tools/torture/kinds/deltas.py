"""Deltas: their bytes, and the tree in their header."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tools.torture import examples
from tools.torture.judging import Call, make_call
from tools.torture.kind import Kind
from tools.torture.mutation import mutate_bytes, mutate_tree, write_json

LENGTH = 8  # bytes that say how long the header is


@dataclass(frozen=True)
class Delta:
    """A valid delta's bytes, and a picture."""

    data: bytes
    picture: Path


def prepare(folder: Path) -> Delta:
    """Train one."""
    run = examples.write_run(folder)
    picture = folder / "pictures" / "cat" / "0.png"
    return Delta((run / "adapter" / "adapter.safetensors").read_bytes(), picture)


def attack(random: Random, valid: Delta, place: Path) -> Call:
    """Mutate the bytes, the header of safetensors, or what the delta says of itself."""
    way = random.random()
    if way < 0.4:
        data = mutate_bytes(random, valid.data)
    else:
        data = change_header(random, valid.data, inside=way > 0.55)
    (place / "adapter").mkdir()
    (place / "adapter" / "adapter.safetensors").write_bytes(data)
    return make_call("predict", str(place / "adapter"), str(valid.picture))


def change_header(random: Random, data: bytes, inside: bool) -> bytes:
    """Return a delta whose header's tree is mutated: safetensors' own, or ours inside it."""
    size = int.from_bytes(data[:LENGTH], "little")
    tree = json.loads(data[LENGTH : LENGTH + size])
    if inside:
        told = mutate_tree(random, json.loads(tree["__metadata__"]["clip_adapt"]))
        tree["__metadata__"]["clip_adapt"] = write_json(told).decode("utf-8", "replace")
        header = json.dumps(tree).encode()
    else:
        header = write_json(mutate_tree(random, tree))
    return len(header).to_bytes(LENGTH, "little") + header + data[LENGTH + size :]


DELTAS = Kind("deltas", prepare, attack)
