"""Which images of a pool are drawn.

Every draw uses one stream of Python's ``random`` over train and then val. Where items carry a group
(patient, site), a class gives one image of each group before a second of any.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from clip_adapt.data.items import Item

Sampling = Literal["coop", "natural", "all"]
VAL_SHOTS = 4  # the CoOp protocol draws min(shots, 4) validation images a class


def draw_coop(items: Sequence[Item], shots: int, stream: random.Random) -> list[Item]:
    """Draw ``shots`` images a class, as the CoOp protocol does.

    For every label in order of its first appearance ``random.sample(items, shots)``; a class with
    fewer images gives all it has (Zhou et al. 2022, authors' data loader).
    """
    return _draw(items, lambda sizes: dict.fromkeys(sizes, shots), stream)


def draw_natural(items: Sequence[Item], shots: int, stream: random.Random) -> list[Item]:
    """Draw ``shots`` x classes images that keep the classes' proportions, at least one a class.

    The shares are rounded to whole images by the largest remainders.
    """
    return _draw(items, lambda sizes: share_out(sizes, shots * len(sizes)), stream)


def take_all(items: Sequence[Item], shots: int, stream: random.Random) -> list[Item]:
    """Take all images, in their order; ``shots`` and the stream play no part."""
    return list(items)


SAMPLERS: dict[Sampling, Callable[[Sequence[Item], int, random.Random], list[Item]]] = {
    "coop": draw_coop,
    "natural": draw_natural,
    "all": take_all,
}


def share_out(sizes: dict[int, int], total: int) -> dict[int, int]:
    """Return how many images of each label make up ``total`` in proportion to ``sizes``."""
    everyone = sum(sizes.values())
    total = min(total, everyone)
    shares = {label: total * size / everyone for label, size in sizes.items()}
    counts = {label: max(1, int(share)) for label, share in shares.items()}
    remainders = sorted(sizes, key=lambda label: (counts[label] - shares[label], label))
    for label in remainders[: max(0, total - sum(counts.values()))]:
        counts[label] += 1
    while sum(counts.values()) > total and max(counts.values()) > 1:
        counts[max(counts, key=lambda label: (counts[label], -label))] -= 1
    return counts


def _draw(
    items: Sequence[Item],
    counts: Callable[[dict[int, int]], dict[int, int]],
    stream: random.Random,
) -> list[Item]:
    by_label: dict[int, list[Item]] = defaultdict(list)
    for item in items:
        by_label[item.label].append(item)
    wanted = counts({label: len(of_class) for label, of_class in by_label.items()})
    drawn: list[Item] = []
    for label, of_class in by_label.items():
        drawn += _draw_class(of_class, wanted[label], stream)
    return drawn


def _draw_class(items: list[Item], count: int, stream: random.Random) -> list[Item]:
    if len(items) < count:
        return items
    if all(item.group is None for item in items):
        return stream.sample(items, count)
    return _draw_over_groups(items, count, stream)


def _draw_over_groups(items: list[Item], count: int, stream: random.Random) -> list[Item]:
    shuffled = stream.sample(items, len(items))
    seen: dict[str | None, int] = defaultdict(int)
    rounds = []
    for item in shuffled:
        # An image without a group stands for itself.
        rounds.append(seen[item.group] if item.group is not None else 0)
        seen[item.group] += 1
    order = sorted(range(len(shuffled)), key=rounds.__getitem__)  # stable: a random order stays
    return [shuffled[i] for i in order[:count]]
