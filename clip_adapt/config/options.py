"""Typed options: what a value may be is read off a signature or a dataclass, and checked.

A value from a command line is text, a value from YAML is typed; both are checked against the
annotation of the parameter that receives them, so each option's type is written down once.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from clip_adapt.config.values import check, describe
from clip_adapt.errors import nearest


@dataclass(frozen=True)
class Option:
    """One option of a method, a card or the command line: its type and its default."""

    annotation: Any
    default: Any


def read_signature(function: Callable[..., Any]) -> dict[str, Option]:
    """Return the keyword-only parameters of a function or class as options.

    A class whose constructor passes ``**options`` on has those of the next class up as well.
    """
    found: dict[str, Option] = {}
    for target in _list_constructors(function):
        hints = typing.get_type_hints(target, include_extras=True)
        found |= {p.name: Option(hints.get(p.name, Any), p.default) for p in _list_keywords(target)}
    return found


def read_defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the defaults of the options that ``of_signature`` gives, by name."""
    parameters = [p for target in _list_constructors(function) for p in _list_keywords(target)]
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def read_fields(cls: type) -> dict[str, Option]:
    """Return the fields of a dataclass as options; a field without a default must be given."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        f.name: Option(
            hints[f.name],
            f.default_factory()
            if f.default_factory is not dataclasses.MISSING
            else _read_default(f),
        )
        for f in dataclasses.fields(cls)
    }


def validate(
    values: Mapping[str, Any],
    schema: Mapping[str, Option],
    prefix: str = "",
    where: str = "",
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> tuple[dict[str, Any], list[str]]:
    """Check every value against its option.

    Args:
        values: what was given.
        schema: what may be given.
        prefix: put before a key in messages (``method.``).
        where: the file that the values stand in, for messages.
        renamed: for each former name of an option the present one, which its use is refused with.

    Returns:
        the checked values, defaults filled in, and one line a problem.
    """
    at = f" in {where}" if where else ""
    former = [key for key in values if key in renamed and key not in schema]
    problems = [f"{prefix}{key} is now {prefix}{renamed[key]}" for key in former]
    problems += [
        f"unknown option {prefix + key!r}{at}{nearest(key, schema, prefix)} "
        f"There is: {', '.join(prefix + k for k in schema) or 'no option here'}."
        for key in values
        if key not in schema and key not in former
    ]
    checked: dict[str, Any] = {}
    for key, option in schema.items():
        if key not in values and option.default is inspect.Parameter.empty:
            problems.append(f"{prefix}{key}{at} is missing: it is {describe(option.annotation)}")
            continue
        value = values.get(key, option.default)
        try:
            checked[key] = check(value, option.annotation)
        except ValueError as expected:
            problems.append(f"{prefix}{key}={show_value(value)}{at}: expected {expected}")
    return checked, problems


def rename(values: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """Return options under their present names, for what was written when they had others."""
    return {renamed.get(key, key): value for key, value in values.items()}


def show_value(value: Any) -> str:
    """Return a value for a message."""
    try:
        return str(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        return "..."


def _list_constructors(function: Callable[..., Any]) -> list[Callable[..., Any]]:
    # What takes the options, the last word last: a function, or the constructors of a class.
    if not inspect.isclass(function):
        return [function]
    found: list[Callable[..., Any]] = []
    for constructor in (vars(c)["__init__"] for c in function.__mro__ if "__init__" in vars(c)):
        found.insert(0, constructor)
        kinds = [p.kind for p in inspect.signature(constructor).parameters.values()]
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return found


def _list_keywords(function: Callable[..., Any]) -> list[inspect.Parameter]:
    parameters = inspect.signature(function).parameters.values()
    return [p for p in parameters if p.kind is p.KEYWORD_ONLY]


def _read_default(field: dataclasses.Field[Any]) -> Any:
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
