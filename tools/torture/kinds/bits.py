"""One flipped bit: in a delta, which must be refused, and in the cache, which must not be used."""

from __future__ import annotations

from pathlib import Path
from random import Random

from clip_adapt import cli
from tools.torture.judging import Call, Wrong
from tools.torture.kind import Kind
from tools.torture.kinds import deltas
from tools.torture.kinds.deltas import Delta
from tools.torture.runs import Plain, prepare_run, require_same


def flip_delta(random: Random, valid: Delta, place: Path) -> Call:
    """Flip one bit of a delta."""
    (place / "adapter").mkdir()
    (place / "adapter" / "adapter.safetensors").write_bytes(_flip(random, valid.data))

    def call() -> int:
        words = [str(place / "adapter"), str(valid.picture), f"model={valid.model}"]
        code = cli.run("predict", words)
        if code == 0:
            raise Wrong("a flipped bit in a delta was not noticed")
        return code

    return call


def prepare_cache(folder: Path) -> Plain:
    """Train once; the cache that is spoilt is made anew for each bit."""
    return prepare_run(folder, "method=linear_probe")


def flip_shard(random: Random, plain: Plain, place: Path) -> Call:
    """Flip one bit of a shard of features, then train."""

    def call() -> int:
        cli.run(plain.words[0], [*plain.words[1:], "seed=2"])
        shard = random.choice(sorted((place / "cache").rglob("*.safetensors")))
        shard.write_bytes(_flip(random, shard.read_bytes()))
        code = cli.run(plain.words[0], plain.words[1:])
        require_same(plain, place / "out")
        return code

    return call


def _flip(random: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(changed)


BITS = Kind("bits", deltas.prepare, flip_delta)
SHARDS = Kind("shards", prepare_cache, flip_shard)
