"""The recipe of a method: the YAML of its name, or what stands in its class."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from clip_adapt.config import options, yamls
from clip_adapt.config.run_options import RunOptions
from clip_adapt.errors import InputError, nearest
from clip_adapt.method.finding import Found


def read_recipe(method: Found) -> dict[str, Any]:
    """Return the general options that a method is trained with, its own under ``method``.

    Raises:
        InputError: when it holds an unknown option, or names code that the user did not name.
    """
    if method.card is None:
        recipe, where = copy.deepcopy(dict(method.cls.recipe)), f"{method.cls.__name__}.recipe"
    else:
        recipe, where = yamls.read_words(method.card), str(method.card)
    if method.base is not None:
        del recipe["file"]
    for nested in {"cpu", "method"} & recipe.keys():  # a null, or a map
        recipe[nested] = recipe[nested] if isinstance(recipe[nested], dict) else None
    known = {*options.read_fields(RunOptions), "cpu"}
    wrong = [key for key in recipe if key not in known]
    if wrong:
        lines = [f"unknown option {key!r} in {where}{nearest(key, known)}" for key in wrong]
        raise InputError("\n".join(lines))
    _refuse_code(recipe, where)
    return recipe


def _refuse_code(recipe: Mapping[str, Any], where: str) -> None:
    # A recipe is a file of options; code is run when the user himself names its file.
    for key, value in recipe.items():
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, str) and name.endswith(".py"):
                raise InputError(
                    f"{where}: {key} names the Python file {name}, which would be run. If you "
                    f"trust it, say so yourself: {key}={name}"
                )
