"""Which images count as test images: those that can be read and that no delta has seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clip_adapt.data import decoding
from clip_adapt.data.items import Item
from clip_adapt.data.scan import Survey
from clip_adapt.data.seen import ROLES, SeenImages
from clip_adapt.errors import InputError
from clip_adapt.evaluation.reading import GROUP, OTHER_REASONS, UNREADABLE, describe_left_out


@dataclass(frozen=True)
class Tested:
    """Images that count as test images.

    Attributes:
        items: what is measured on.
        found: how many images there were.
        left_out: how many were not measured on, by the reason: a role of seen.py, ``group`` or
            ``unreadable``.
    """

    items: list[Item]
    found: int
    left_out: dict[str, int]

    def facts(self) -> dict[str, Any]:
        """Return what metrics.json says of it."""
        return {"found": self.found, "measured": len(self.items), "left_out": self.left_out}


def choose_tested(
    name: str, items: Sequence[Item], seen: Sequence[SeenImages], survey: Survey, on_bad: str
) -> Tested:
    """Leave out what cannot be read, where it may be left out, and what a delta has seen.

    An image of the same group (patient, site) as one that was seen is left out with it.

    Args:
        name: of the data set, for messages.
        items: the images that there are.
        seen: what each delta has seen.
        survey: which knows the images.
        on_bad: ``error`` refuses images that cannot be read, ``skip`` leaves them out.

    Raises:
        InputError: when an image cannot be read, or when none is left.
    """
    broken = {i.path: survey.broken[i.path] for i in items if i.path in survey.broken}
    if on_bad == "error":
        decoding.refuse_broken(broken)
    roles = dict.fromkeys(broken, UNREADABLE)
    for one in seen:
        roles = one.find(survey) | roles
    roles |= _find_kin(items, roles)
    kept = [item for item in items if item.path not in roles]
    counts = Counter(roles[item.path] for item in items if item.path in roles)
    left_out = {reason: counts[reason] for reason in (*ROLES, *OTHER_REASONS) if counts[reason]}
    made = Tested(kept, len(items), left_out)
    if not kept:
        wanted = "can be read" if left_out.keys() == {UNREADABLE} else "the delta has not seen"
        raise InputError(
            f"no image of {name} is left to measure on: of {len(items)} images "
            f"{describe_left_out(left_out)}. Give images that {wanted}."
        )
    return made


def _find_kin(items: Sequence[Item], roles: Mapping[str, str]) -> dict[str, str]:
    # Images that were not seen, of a group of which one was.
    groups = {i.group for i in items if roles.get(i.path) in ROLES} - {None}
    return {i.path: GROUP for i in items if i.group in groups and i.path not in roles}
