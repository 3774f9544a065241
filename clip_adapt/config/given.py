"""What is given of a configuration: nested or dotted, from Python, files or a command line.

``method={"name": "coop", "n_ctx": 4}`` is ``method=coop method.n_ctx=4``. A map for ``dataset``
that has a ``source`` is a whole card, which is looked up nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clip_adapt.config.plain_yaml import TypedText
from clip_adapt.config.typed import make_plain, parse_words
from clip_adapt.errors import InputError
from clip_adapt.system.text.showing import write_json

GROUPS = ("method", "dataset", "model")


class CardName(str):
    """The name of a data set whose card is given with it."""


def flatten(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is given with dotted keys and values of Python's own types.

    Raises:
        InputError: when a card is given without a name.
    """
    flat: dict[str, Any] = {}
    for key, value in given.items():
        value = make_plain(value)
        if key in GROUPS and isinstance(value, TypedText) and value.strip().startswith("{"):
            value = parse_words(value)
        if key in GROUPS and isinstance(value, dict):
            flat |= {k: v for k, v in _spread(key, value).items() if k not in given or k == key}
        else:
            flat[str(key)] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a map for each group, and ``general`` for all other options.

    {"shots": "4", "method": "coop", "method.n_ctx": "8"} becomes
    {"general": {"shots": "4"}, "method": {"": "coop", "n_ctx": "8"}, ...}
    """
    tree: dict[str, dict[str, Any]] = {"general": {}, **{group: {} for group in GROUPS}}
    for key, value in flat.items():
        group, _, rest = key.partition(".")
        if group in GROUPS:
            _set(tree[group], rest, value)
        else:
            _set(tree["general"], key, value)
    return tree


def write_values(flat: Mapping[str, Any]) -> dict[str, str]:
    """Return values as a command line has them: text as it is, the rest as YAML on one line.

    The first line of config.yaml has to be one. YAML takes some characters only as their codes.

    Raises:
        InputError: when one holds a number that is not finite, or has thousands of digits.
    """
    if isinstance(flat.get("dataset"), CardName):
        own = {k.partition(".")[2]: v for k, v in flat.items() if k.startswith("dataset.")}
        rest = {k: v for k, v in flat.items() if not k.startswith("dataset.")}
        flat = {**rest, "dataset": {"name": str(flat["dataset"]), **own}}
    return {key: _write_value(key, value) for key, value in flat.items()}


def _spread(group: str, own: dict[Any, Any]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    whole = group == "dataset" and "source" in own
    if "name" in own:
        named[group] = CardName(own["name"]) if whole else own["name"]
    elif whole:
        raise InputError(f'dataset={own} is a card without a name: add one, "name"')
    return named | {f"{group}.{key}": value for key, value in own.items() if key != "name"}


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    head, dot, rest = key.partition(".")
    if dot:
        nested = tree.setdefault(head, {})
        if isinstance(nested, dict):
            _set(nested, rest, value)
            return
    tree[key] = value


def _write_value(key: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return _write_flow(value)
    except ValueError as error:
        raise InputError(f"{key} holds a number that cannot be written down: {error}") from error


def _write_flow(value: Any) -> str:
    if isinstance(value, dict):
        pairs = (f"{_write_flow(k)}: {_write_flow(v)}" for k, v in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_write_flow, value))}]"
    return str(value) if isinstance(value, TypedText) else write_json(value)
