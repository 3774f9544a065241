"""What a delta says of itself: one JSON text, checked value by value when it is read.

Everything that answers depend on is typed and bounded here, so that whoever uses a header need not
ask whether a temperature is a number.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from clip_adapt.adapted.conformal import SCORES
from clip_adapt.config.cards import ModelCard, find_slotless_templates
from clip_adapt.config.options import Option, read_fields, show_value, validate
from clip_adapt.config.values import Between, describe
from clip_adapt.data.task import Task
from clip_adapt.errors import InputError

FORMAT = 3  # 1 had no digest, 2 no list of the images that were seen

_REQUIRED = inspect.Parameter.empty
_LARGEST_INTEGER = 2**64  # no seed is larger; Python would compute with thousands of digits


@dataclass(frozen=True)
class Header:
    """What a delta says of itself.

    ``seen_sha256`` is the digest of the list of the images that it has seen (seen.py); ``stored``
    gives classes by the names that their folders or labels had, where these are others.
    """

    method: dict[str, Any]
    backbone: dict[str, Any]
    task: dict[str, Any]
    transform: dict[str, Any]
    dataset: str = ""
    temperature: Annotated[float, Between(1e-6, 1e6)] = 1.0
    guard: Annotated[float, Between(0, 1)] = 0.0
    conformal: dict[str, Any] | None = None
    metrics: dict[str, dict[str, dict[str, float | None]]] | None = None
    support_sha256: str = ""
    seen_sha256: str = ""
    stored: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] | None = None
    format: Annotated[int, Between(1)] = FORMAT

    def to_task(self) -> Task:
        """Return the task that the delta was made for."""
        task = {**self.task}
        task |= {"classes": tuple(task["classes"]), "templates": tuple(task["templates"])}
        return Task(**task)


# Sums of probabilities, which may pass 1 by a rounding; one number, or one for each class.
_Score = Annotated[float, Between(-1e-6, 1 + 1e-6)]
_Scores = Annotated[list[float], Between(-1e-6, 1 + 1e-6)]

_PARTS: dict[str, dict[str, Option]] = {
    "method": {
        "name": Option(str, _REQUIRED),
        "options": Option(dict[str, Any], _REQUIRED),
        "file": Option(str | None, None),
        "base": Option(str | None, None),
    },
    "backbone": {
        **read_fields(ModelCard),
        "name": Option(str, _REQUIRED),
        "image_size": Option(Annotated[int, Between(1)], _REQUIRED),
        "fingerprint": Option(str, _REQUIRED),
    },
    "task": {
        **read_fields(Task),
        "templates": Option(tuple[str, ...], _REQUIRED),
        "shots": Option(Annotated[int, Between(0)], 0),
    },
    "transform": {
        "size": Option(Annotated[list[int], Between(1)] | Annotated[int, Between(1)], _REQUIRED),
        "mode": Option(Literal["RGB"], "RGB"),
        "mean": Option(list[float], _REQUIRED),
        "std": Option(Annotated[list[float], Between(0, strict=True)], _REQUIRED),
        "interpolation": Option(str, _REQUIRED),
        "resize_mode": Option(str, _REQUIRED),
    },
    "conformal": {
        "alpha": Option(Annotated[float, Between(0, 0.5, strict=True)], _REQUIRED),
        "n": Option(Annotated[int, Between(1)], _REQUIRED),
        **{name: Option(_Score | _Scores, _REQUIRED) for name in SCORES},
    },
}
_OPEN = ("transform",)  # open_clip may have further keys there


def write_header(header: Header) -> str:
    """Return the text of a header.

    Raises:
        InputError: when it is one that reading would refuse.
    """
    try:
        text = json.dumps(asdict(header), ensure_ascii=False, sort_keys=True, allow_nan=False)
    except ValueError as error:
        raise InputError(f"the delta's header cannot be written: {error}") from error
    parse_header(text, "the new delta")
    return text


def parse_header(text: str, file: Path | str) -> Header:
    """Return the header that a text holds.

    Args:
        text: JSON.
        file: where it stands, for messages.

    Raises:
        InputError: naming every value that cannot be, or a format that is newer than ours.
    """
    try:
        values = _parse_json(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the header of {file} cannot be read: {error!r}") from error
    if not isinstance(values, dict):
        raise InputError(f"the header of {file} cannot be read: it is {type(values).__name__}")
    _refuse_newer(values, file)
    problems = list(_find_problems(values))
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise InputError(f"the header of {file} is wrong: {'; '.join(problems[:5])}{more}")
    return Header(**values)


def _parse_json(text: str) -> Any:
    return json.loads(
        text,
        parse_constant=_refuse_number,
        parse_float=lambda digits: _require_finite(digits, float(digits)),
        parse_int=lambda digits: _require_finite(digits, int(digits)),
        object_pairs_hook=_make_map,
    )


def _require_finite(digits: str, number: float) -> float:
    if (isinstance(number, int) and abs(number) > _LARGEST_INTEGER) or not math.isfinite(number):
        _refuse_number(digits)
    return number


def _refuse_number(digits: str) -> None:
    raise ValueError(f"{digits[:40]} is not a number that can stand there")


def _make_map(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError(f"a key stands twice among {', '.join(made)}")
    return made


def _refuse_newer(values: Mapping[str, Any], file: Path | str) -> None:
    number, versions = values.get("format"), values.get("versions")
    if type(number) is int and number > FORMAT:
        made_by = versions.get("clip-adapt") if isinstance(versions, dict) else None
        raise InputError(
            f"{file} has format {number}, made by clip_adapt {made_by or 'of a newer version'}; "
            f"this version reads up to {FORMAT}. Update it: pip install -U clip-adapt"
        )


def _find_problems(values: Mapping[str, Any]) -> Iterator[str]:
    fields = read_fields(Header) | {"format": Option(Annotated[int, Between(1)], _REQUIRED)}
    yield from _check_all(values, fields)
    for name, schema in _PARTS.items():
        part = values.get(name)
        if isinstance(part, dict):
            known = {k: v for k, v in part.items() if name not in _OPEN or k in schema}
            yield from _check_all(known, schema, f"{name}.")
    task = values.get("task")
    if isinstance(task, dict):
        yield from _find_task_problems(task)
        yield from _find_set_problems(values.get("conformal"), task.get("classes"))


def _check_all(
    values: Mapping[str, Any], schema: Mapping[str, Option], prefix: str = ""
) -> Iterator[str]:
    # People may write a number where text is wanted; whoever wrote a header did not.
    checked, problems = validate(values, schema, prefix)
    yield from problems
    for key in checked.keys() & values.keys():
        if _count_texts(checked[key]) != _count_texts(values[key]):
            expected = describe(schema[key].annotation)
            yield f"{prefix}{key}={show_value(values[key])}: expected {expected}"


def _count_texts(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(_count_texts(k) + _count_texts(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return sum(map(_count_texts, value))
    return int(isinstance(value, str))


def _find_set_problems(sets: Any, classes: Any) -> Iterator[str]:
    # Thresholds by class are as many as there are classes.
    for name in SCORES if isinstance(sets, dict) and isinstance(classes, list) else ():
        if isinstance(sets.get(name), list) and len(sets[name]) != len(classes):
            yield f"conformal.{name} has {len(sets[name])} numbers for {len(classes)} classes"


def _find_task_problems(task: Mapping[str, Any]) -> Iterator[str]:
    classes: Any = task.get("classes")
    templates: Any = task.get("templates")
    if not _holds_texts(classes) or not _holds_texts(templates):
        return  # said already
    odd = [name for name in classes if not name.strip() or "\0" in name]
    if odd:
        yield f"task.classes has a class without a name: {odd[0]!r}"
    twice = sorted({name for name in classes if classes.count(name) > 1})
    if twice:
        yield f"task.classes has a class twice: {', '.join(twice)}"
    slotless = find_slotless_templates(task)
    if slotless:
        yield f"task.templates has no {{}} for the class name in {slotless[0]!r}"
    if classes and not templates and task.get("prompts") != "descriptions":
        yield "task.templates is empty"


def _holds_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
