"""Mutations by a seed: of bytes, and of trees as JSON and YAML hold them."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from random import Random
from typing import Any

import yaml

DEEP, DIGITS = "@deep@", "@digits@"  # become text that no tree can hold
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 7, 0.5, -0.0, 1e-320, 1e308, 2**31, 2**63, 2**64, -(2**63)),
    *(10**200, -(10**200), math.nan, math.inf, -math.inf, 1_000_000_000, 100_000),
    *("", " ", "\0", "\n", "\t", "a\nb", "\x1b[2J", "\ud800", "\ufeff", "\u202e", "é", "🙂"),
    *("../../x", "/etc/passwd", "/dev/null", "/dev/zero", ".", "..", "~", "~nobody", "a/b", "con"),
    *("x" * 300, "x" * 5000, "x" * 100_000, "x/" * 300, "{}", "{", "{0}", "${x}", "${oc.env:HOME}"),
    *("null", "true", "nan", "inf", "1e999", "0x10", "1_000", "12:30", "%s", "<b>", "=1+1", "'\""),
    *([], {}, [[]], [None], {"": None}, {"a": {"b": 1}}, ["a", "a"], [1, "a", None], {"x": []}),
    *([0] * 1000, {str(i): i for i in range(300)}, DEEP, DIGITS),
)
SNIPPETS = (b"\0", b"\n", b"\r", b'"', b",", b";", b"\t", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf",
            b"\x1b[31m", b"{", b"[", b"]", b":", b"- ", b"&a", b"*a", b"!!python/name:os.system",
            b"0" * 400, b"9" * 5000, b"NaN", b"\xed\xa0\x80", b"\x7f\xff\xff\xff")  # fmt: skip


def mutate_bytes(random: Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Return the bytes after one to four mutations; ``others`` are spliced in."""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        data = _mutate_once(random, data, others)
    return data


def _mutate_once(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    start, end = sorted(random.randrange(len(data) + 1) for _ in range(2))
    end = min(end, start + random.choice((1, 4, 64, len(data))))
    match random.choice(
        [
            "bit",
            "byte",
            "cut",
            "part",
            "twice",
            "zero",
            "random",
            "insert",
            "splice",
            "many",
            "empty",
        ]
    ):
        case "bit" if data:
            return _flip(random, data, 1)
        case "many" if data:
            return _flip(random, data, random.randrange(2, 30))
        case "byte" if data:
            at = random.randrange(len(data))
            return data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]
        case "cut":
            return data[:start]
        case "part":
            return data[:start] + data[end:]
        case "twice":
            return data[:end] + data[start:end] * random.choice((1, 2, 50)) + data[end:]
        case "zero":
            return data[:start] + b"\0" * (end - start) + data[end:]
        case "random":
            return data[:start] + random.randbytes(end - start) + data[end:]
        case "splice" if others:
            other = random.choice(others)
            return data[:start] + other[random.randrange(len(other) + 1) :]
        case "empty" if random.random() < 0.1:
            return b""
    return data[:start] + random.choice(SNIPPETS) + data[start:]


def _flip(random: Random, data: bytes, times: int) -> bytes:
    changed = bytearray(data)
    for _ in range(times):
        changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(changed)


def mutate_tree(random: Random, tree: Any, others: Sequence[Any] = HOSTILE) -> Any:
    """Return a copy of a tree of lists, maps and values in which one to three places differ."""
    holder = [copy.deepcopy(tree)]
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        _change_place(random, holder, others)
    return holder[0]


def _change_place(random: Random, holder: list[Any], others: Sequence[Any]) -> None:
    places = _list_places(holder)
    where, key = random.choice(places)
    old = where[key]
    match random.choice(
        ["value", "value", "value", "remove", "rename", "wrap", "swap", "type", "again"]
    ):
        case "remove" if where is not holder:
            del where[key]
        case "rename" if isinstance(where, dict):
            names = [
                *(k for _, k in places if isinstance(k, str)),
                "",
                "x" * 300,
                "\x1b",
                "a.b",
                "{}",
            ]
            where[random.choice(names)] = where.pop(key)
        case "wrap":
            where[key] = random.choice(([old], {"x": old}, [old, old], str(old)))
        case "swap":
            other, there = random.choice(places)
            where[key] = copy.deepcopy(other[there])
        case "type":
            where[key] = _change_type(random, old)
        case "again" if isinstance(where, list) and where is not holder:
            where.extend([old] * random.choice((1, 3, 200)))
        case _:
            where[key] = copy.deepcopy(random.choice(others))


def _change_type(random: Random, value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return random.choice((int(bool(value)), str(value), [value]))
    if isinstance(value, int | float):
        by = random.choice((-1, 0, 0.5, 2, 1000, 1e9))
        return random.choice((str(value), value * by, value + 1, [value], -value))
    if isinstance(value, str):
        return random.choice(
            ([value], {value: value}, value * 2, list(value[:50]), 5, value + "\n")
        )
    return random.choice((str(value)[:200], len(value), list(value)))


def _list_places(holder: list[Any]) -> list[tuple[Any, Any]]:
    places: list[tuple[Any, Any]] = []
    waiting: list[Any] = [holder]
    while waiting and len(places) < 3000:
        node = waiting.pop()
        keys = range(len(node)) if isinstance(node, list) else list(node)
        places += [(node, key) for key in keys]
        waiting += [node[key] for key in keys if isinstance(node[key], list | dict)]
    return places


def write_json(tree: Any) -> bytes:
    """Return a tree as JSON, with the text that stands for what no tree holds."""
    return _expand(json.dumps(tree, ensure_ascii=False), "[" * 100_000 + "]" * 100_000)


def write_yaml(tree: Any) -> bytes:
    """Return a tree as YAML, with the text that stands for what no tree holds."""
    return _expand(yaml.safe_dump(tree, allow_unicode=True, sort_keys=False), "[" * 100_000)


def _expand(text: str, deep: str) -> bytes:
    for mark, meant in ((DEEP, deep), (DIGITS, "9" * 5000)):
        for quote in ('"', "'", ""):
            text = text.replace(f"{quote}{mark}{quote}", meant)
    return text.encode("utf-8", "surrogatepass")


BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
).encode()  # 9 to the power of 10 values in 600 bytes
