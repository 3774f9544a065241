"""One label, group or split of Python as text: NumPy's and torch's scalars, ints, strings."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from clip_adapt.errors import InputError, nearest
from clip_adapt.system.text.showing import show_line


def show(value: Any) -> str:
    """Return a value for a message, in at most 60 characters."""
    text = show_line(repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_missing(value: Any) -> bool:
    """Tell whether a value stands for none: None, nan, pandas' NA and NaT."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, numbers.Real) and not isinstance(value, int) and math.isnan(value)


def unwrap(value: Any) -> Any:
    """Return the Python value of a scalar of NumPy or torch; anything else as it is."""
    if getattr(value, "shape", None) in ((), (1,)) and hasattr(value, "item"):
        return value.item()
    return value


def read_text(value: Any) -> str | None:
    """Return a group's or a split's name; None where there is none."""
    value = unwrap(value)
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, float) and value.is_integer():  # pandas makes floats of whole numbers
        value = int(value)
    return str(value).strip()


def name_label(
    value: Any, where: str, classes: Sequence[str] | Mapping[Any, str] | None = None
) -> str:
    """Return the name of a label's class.

    Args:
        value: text, or a whole number.
        where: what it is the label of, for messages.
        classes: names of the classes: numbers are positions in it, or keys of a map.

    Raises:
        InputError: when it is missing, is no label, or is none of the classes.
    """
    value = unwrap(value)
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        raise InputError(f"{where} has no label ({show(value)}): leave the image out, or name it")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int):
        raise InputError(
            f"the label of {where} is {show(value)}: expected text or a whole number, one for "
            "each image"
        )
    if isinstance(classes, Mapping):
        return str(_look_up(classes, value, where))
    if classes is not None and isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < len(classes):
            raise InputError(
                f"the label of {where} is {value}, and classes= has {len(classes)} names, 0 to "
                f"{len(classes) - 1}"
            )
        return str(classes[value])
    name = str(value).strip()
    if classes is not None and name not in classes:
        raise InputError(
            f"the label of {where}, {name!r}, is not in classes{nearest(name, list(classes))}"
        )
    return name


def _look_up(classes: Mapping[Any, str], value: Any, where: str) -> str:
    for key in (value, str(value)):
        if key in classes:
            return classes[key]
    if value in classes.values():
        return value
    close = nearest(str(value), map(str, classes))
    raise InputError(f"the label of {where}, {value!r}, is not in classes{close}")
