"""``config=FILE.yaml``: options out of a file, below those of the command line.

A run's own config.yaml is such a file. What a file says of a method, a data set or a model goes
when the command line names another one. No code is run because a file names it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from clip_adapt.config import yamls
from clip_adapt.config.given import GROUPS, flatten
from clip_adapt.errors import InputError, nearest
from clip_adapt.system.reading import make_path
from clip_adapt.system.run_files import CONFIG

KEY = "config"
RECORDED = ("others", "code")  # what a run notes beside its options


def add_config(given: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return what is given, with what stands in the file of ``config=`` below it.

    Args:
        given: the options of a command line.
        known: the options that there are; with GROUPS among them those of a group as well.

    Raises:
        InputError: when the file cannot be read, holds an unknown option, or names code.
    """
    own = {key: value for key, value in given.items() if key != KEY}
    if KEY not in given:
        return own
    path = make_path(given[KEY])
    file = path / CONFIG if os.path.isdir(path) else path
    held = yamls.read_words(file)
    recorded = {key: held.pop(key, None) for key in RECORDED}
    _require_known(held, known, file)
    below = _drop_replaced(flatten(held), own)
    _refuse_code(below, recorded["code"], own, file)
    return {**below, **own}


def _require_known(held: Mapping[str, Any], known: Collection[str], file: Path) -> None:
    heads = {key: key.partition(".")[0] for key in held}
    wrong = [k for k, head in heads.items() if k not in known and head not in {*known} & {*GROUPS}]
    if wrong:
        lines = [f"unknown option {key!r} in {file}{nearest(key, known)}" for key in wrong]
        raise InputError("\n".join(lines))


def _drop_replaced(below: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    named = [g for g in GROUPS if g in own and g in below]
    replaced = [g for g in named if Path(own[g]).stem != Path(str(below[g])).stem]
    return {k: v for k, v in below.items() if k.partition(".")[0] not in replaced}


def _refuse_code(below: dict[str, Any], code: Any, own: Mapping[str, Any], file: Path) -> None:
    named = [
        (key, text)
        for key, value in below.items()
        if key not in own
        for text in (value if isinstance(value, list) else [value])
        if isinstance(text, str) and text.endswith(".py")
    ]
    if isinstance(code, dict) and "method" not in own:  # a run's method goes by its file's stem
        method = str(below.get("method"))
        named += [("method", str(place)) for place in code if Path(str(place)).stem == method]
    for key, text in named:
        raise InputError(
            f"{file}: {key} names the Python file {text}, which would be run. If you trust it, say "
            f"so yourself: {key}={text}"
        )
