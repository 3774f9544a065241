"""What a value may be: annotations with bounds, checked and described in words.

A value from a command line is text, a value from YAML is typed; both are checked against the
annotation of what receives them.
"""

from __future__ import annotations

import math
import os
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from clip_adapt.config.plain_yaml import TypedText
from clip_adapt.config.typed import (
    is_bracketed,
    make_plain,
    parse,
    parse_list,
    parse_words,
    resolve,
)
from clip_adapt.system.reading import make_path


@dataclass(frozen=True)
class Between:
    """A bound for ``Annotated`` numbers; None leaves a side open.

    ``strict`` excludes the lower bound itself.
    """

    low: float | None = None
    high: float | None = None
    strict: bool = False

    def problem(self, value: float) -> str | None:
        """Return what is expected when the value lies outside, else None."""
        below = self.low is not None and (value <= self.low if self.strict else value < self.low)
        above = self.high is not None and value > self.high
        return str(self) if below or above else None

    def __str__(self) -> str:
        low = None if self.low is None else f"{'above' if self.strict else 'at least'} {self.low:g}"
        high = None if self.high is None else f"at most {self.high:g}"
        return " and ".join(part for part in (low, high) if part)


@dataclass(frozen=True)
class IsPath:
    """Marks ``Annotated`` text as the path of a file or a folder.

    ``or_name`` says that it may also be a name, which it is unless such a path exists.
    """

    or_name: bool = False

    def make_absolute(self, value: str, folder: Path) -> str:
        """Return the path, relative to the folder, as an absolute one; a name as it is."""
        path = (folder / make_path(value)).absolute()
        return value if self.or_name and not os.path.exists(path) else str(path)

    def __str__(self) -> str:
        return "a name or a path" if self.or_name else "a path"


FilePath = Annotated[str, IsPath()]
NameOrPath = Annotated[str, IsPath(or_name=True)]


AUTO = "auto"  # the default of an option for which null says something of its own: none
LARGEST = 2**63 - 1  # whole numbers beyond it fit into no seed, size or count


class TooLargeError(ValueError):
    """A whole number that nothing can be made with; the message says so whatever is expected."""


class NotQuotedError(ValueError):
    """A text that YAML has read as something else; the message says to quote it."""


@dataclass(frozen=True)
class ByCommas:
    """Marks ``Annotated`` names, of which several may be typed without brackets: ``a,b``."""


Names = Annotated[list[str] | str, ByCommas()]


def check(value: Any, annotation: Any) -> Any:
    """Return the value as the annotation wants it.

    Raises:
        ValueError: with what was expected, when the value does not fit.
    """
    origin = get_origin(annotation)
    value = make_plain(value)
    if origin is Annotated:
        return _check_bounds(value, annotation)
    if origin in (Union, types.UnionType):
        return _check_union(value, get_args(annotation))
    if isinstance(value, TypedText):
        value = _read_typed(value, annotation)
    if annotation is Any:
        return resolve(value)
    if origin is Literal:
        return _check_choice(value, get_args(annotation))
    if origin in (list, tuple):
        return _check_sequence(value, annotation)
    if origin is dict:
        return _check_mapping(value, annotation)
    return _check_scalar(value, annotation)


def make_paths_absolute(value: Any, annotation: Any, folder: Path) -> Any:
    """Return a checked value in which what is annotated as a path (``IsPath``) is absolute.

    Args:
        value: what ``check`` gave.
        annotation: that of its option.
        folder: what relative paths are relative to.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        mark = _find_path_mark(annotation)
        if mark is not None and isinstance(value, str):
            return mark.make_absolute(value, folder)
        return make_paths_absolute(value, args[0], folder)
    if origin in (Union, types.UnionType):
        for member in args:
            value = make_paths_absolute(value, member, folder)
        return value
    if origin is list and isinstance(value, list):
        return [make_paths_absolute(v, args[0], folder) for v in value]
    return value


def holds_path(annotation: Any) -> bool:
    """Tell whether a value of the annotation holds a path (``IsPath``)."""
    return _find_path_mark(annotation) is not None or any(map(holds_path, get_args(annotation)))


def describe(annotation: Any) -> str:
    """Return the annotation in words: ``a whole number, at least 1``."""
    origin, args = get_origin(annotation), get_args(annotation)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if origin is Annotated:
        mark = _find_path_mark(annotation)
        return str(mark) if mark else ", ".join([describe(args[0]), *map(str, args[1:])])
    if origin in (Union, types.UnionType):
        words = [describe(a) for a in args if a is not type(None)]
        return " or ".join(words + ["null"] * (type(None) in args))
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in (list, tuple):
        return f"a list [{describe(args[0])}, ...]"
    if origin is dict:
        return f"a map {{{describe(args[0])}: {describe(args[1])}, ...}}"
    return names.get(annotation, "any value")


def _read_typed(text: TypedText, annotation: Any) -> Any:
    if annotation is str or _is_literal_text(annotation):
        return str(text)
    if get_origin(annotation) in (list, tuple):
        return _read_list(text, annotation)
    return parse_words(text) if get_origin(annotation) is dict else parse(text)


def _read_list(text: TypedText, annotation: Any) -> Any:
    # One text is a list of one, as three with commas are one of three.
    read = parse_list(text)
    is_one = isinstance(read, str) or read == {}
    return [read] if is_one and get_args(annotation)[0] is str else read


def _is_literal_text(annotation: Any) -> bool:
    return get_origin(annotation) is Literal and all(
        isinstance(a, str) for a in get_args(annotation)
    )


def _find_path_mark(annotation: Any) -> IsPath | None:
    return next((mark for mark in get_args(annotation)[1:] if isinstance(mark, IsPath)), None)


def _check_bounds(value: Any, annotation: Any) -> Any:
    inner, *marks = get_args(annotation)
    if ByCommas() in marks and isinstance(value, TypedText) and "," in value:
        value = value if is_bracketed(value) or os.path.exists(value) else parse_list(value)
    bounds = [mark for mark in marks if isinstance(mark, Between)]
    try:
        checked = check(value, inner)
    except (TooLargeError, NotQuotedError):
        raise
    except ValueError:
        raise ValueError(describe(annotation)) from None
    numbers = checked if isinstance(checked, list | tuple) else [checked]
    for bound in bounds:
        if any(n is not None and bound.problem(n) for n in numbers):
            raise ValueError(describe(annotation))
    return checked


def _check_union(value: Any, args: tuple[Any, ...]) -> Any:
    if type(None) in args and (value is None or (isinstance(value, TypedText) and _is_null(value))):
        return None
    # Text accepts everything, so it has the last word; with commas in it, too, it is text.
    members = sorted((a for a in args if a is not type(None)), key=lambda a: a is str)
    if str in members and isinstance(value, TypedText) and not is_bracketed(value.strip()):
        members = [a for a in members if get_origin(a) not in (list, tuple)]
    if any(map(_is_numeric, members)) and _is_number(value):
        members = [a for a in members if a is not str]  # 0 is too small a count, and no name
    problem = ValueError(describe(Union[args]))  # noqa: UP007 - args is a tuple
    for member in members:
        try:
            return check(value, member)
        except NotQuotedError as error:
            problem = error
        except ValueError:
            continue
    raise problem


def _is_numeric(annotation: Any) -> bool:
    bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return bare in (int, float)


def _is_number(value: Any) -> bool:
    plain = resolve(value) if isinstance(value, TypedText) else value
    return isinstance(plain, int | float) and not isinstance(plain, bool)


def _is_null(text: str) -> bool:
    return text.strip().lower() in ("null", "none", "~")


def _check_choice(value: Any, allowed: tuple[Any, ...]) -> Any:
    if any(value == one and type(value) is type(one) for one in allowed):
        return value
    raise ValueError("one of " + ", ".join(map(str, allowed)))


def _check_sequence(value: Any, annotation: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise ValueError(describe(annotation))
    items = [_check_item(v, get_args(annotation)[0]) for v in value]
    return tuple(items) if get_origin(annotation) is tuple else items


def _check_mapping(value: Any, annotation: Any) -> Any:
    key_type, value_type = get_args(annotation)
    if not isinstance(value, Mapping):
        raise ValueError(describe(annotation))
    checked = {_check_item(k, key_type): _check_item(v, value_type) for k, v in value.items()}
    if len(checked) < len(value):  # 1 and "1" from Python
        raise ValueError(f"{describe(annotation)} with every key once")
    return checked


def _check_item(value: Any, annotation: Any) -> Any:
    if value == {} and annotation is str:
        return "{}"  # the class name alone, which YAML takes for an empty map
    try:
        return check(value, annotation)
    except ValueError:
        if isinstance(value, Mapping) and annotation is str and len(value) == 1:
            ((key, rest),) = value.items()
            shown = f"{key}: {{}}" if rest == {} else f"{key}: {rest or ''}".strip()
            raise NotQuotedError(f'text, with a colon in it in quotes: "{shown}"') from None
        raise


def _check_scalar(value: Any, annotation: Any) -> Any:
    if annotation is str and isinstance(value, int | float):
        value = str(value)  # classes=[0, 1] from Python
    if isinstance(value, int) and annotation in (int, float) and abs(value) > LARGEST:
        raise TooLargeError("a number of at most 18 digits")
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    right_type = isinstance(value, annotation) and not (
        annotation is int and isinstance(value, bool)
    )
    if not right_type or (annotation is float and not math.isfinite(value)):
        raise ValueError(describe(annotation))
    return value
