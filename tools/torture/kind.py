"""A kind of input that is tortured: its valid examples, and how one of them is spoilt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tools.torture.judging import Call


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        name: on the command line and in the figure.
        prepare: makes the valid examples in a folder, once; what it returns is given to ``attack``.
        attack: writes one spoilt input into an empty folder and returns the call that reads it.
    """

    name: str
    prepare: Callable[[Path], Any]
    attack: Callable[[Random, Any, Path], Call]
