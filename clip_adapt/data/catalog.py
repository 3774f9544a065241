"""Data cards: by name, from a card.yaml, or made up for what a path points at."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_adapt.config import options, values, yamls
from clip_adapt.config.cards import (
    DataCard,
    find_slotless_templates,
    list_cards,
    locate_card,
    make_spoken,
)
from clip_adapt.data.source import (
    Gives,
    Source,
    describe_recognised,
    find_installed_source,
    find_source,
    recognise_path,
)
from clip_adapt.errors import InputError, nearest
from clip_adapt.system.reading import make_path
from clip_adapt.system.text.names import find_name_problem

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """What a card says, as it is written.

    Attributes:
        values: its keys and values.
        folder: what its paths are relative to; None leaves them as they are, below data_dir.
        where: its file, for messages.
    """

    values: dict[str, Any]
    folder: Path | None
    where: str = ""


def name_dataset(given: str | os.PathLike[str]) -> str:
    """Return what ``dataset=`` calls a data set: a path is never the name of a card.

    Args:
        given: a name or a path as text, or a path object, which names a file or a folder.
    """
    if isinstance(given, str):
        return given
    path = os.fspath(given)
    return os.path.join(os.curdir, path) if path in list_cards("dataset") else path


def find_dataset(
    name: str, overrides: Mapping[str, Any] | None = None, wants: Gives = "classes"
) -> DataCard:
    """Return the card of a shipped data set, of a card.yaml, or made up for what a path points at.

    Args:
        name: a card's name or path, or the path of something that a source recognises.
        overrides: values in place of the card's; paths in it are relative to the working folder.
            A ``source`` in it may be the path of the user's own .py, which is run.
        wants: what is read of the images, where a path says nothing of its source itself.

    Raises:
        InputError: when nothing of that name exists, or when the card is not valid.
    """
    given = dict(overrides or {})
    source = _find_given(given.pop("source", None))
    written = _read_card(name) or _recognise(make_path(name), source, wants)
    if written is None:
        raise InputError(_explain_unknown(name))
    source = source or _find_written(written)
    return make_card(source, written, given)


def make_card(source: Source, written: Written, given: Mapping[str, Any]) -> DataCard:
    """Return the checked card of a source: what is written, with what is given in its place.

    Raises:
        InputError: with one line for each problem.
    """
    values = {
        **_make_absolute(written.values, source, written.folder),
        **_make_absolute(given, source, Path.cwd()),
    }
    values = {**source.inherit(values), **values, "source": source.name}
    common = options.read_fields(DataCard)
    del common["options"]
    common["classes"] = options.Option(common["classes"].annotation | list[str], {})
    schema = {**common, **source.options}
    checked, problems = options.validate(values, schema, "dataset.", written.where)
    if isinstance(checked.get("classes"), list):  # a choice of classes, each called as ever
        checked["classes"] = {name: make_spoken(name) for name in checked["classes"]}
    problems += _find_card_problems(checked, written.where) if not problems else []
    if problems:
        raise InputError("\n".join(problems))
    own = {key: checked.pop(key) for key in source.options}
    return DataCard(**checked, options=own)


def make_whole_card(name: str, given: Mapping[str, Any]) -> DataCard:
    """Return the card of a data set of which everything is given, ``source`` and all.

    Raises:
        InputError: with one line for each problem.
    """
    own = dict(given)
    source = _find_given(own.pop("source"))
    assert source is not None, "a whole card has a source"
    return make_card(source, Written({"name": str(name)}, None), own)


def find_gives(card: DataCard) -> Gives:
    """Return what a data set's source gives its images: ``classes`` or ``captions``."""
    return find_source(card.source).gives


def _find_given(name: Any) -> Source | None:
    return None if name is None else find_source(_require_text(name))


def _find_written(written: Written) -> Source:
    # A card may be somebody else's, and code is run only when the user himself names its file.
    name = _require_text(written.values.get("source", "folder"), written.where)
    if name.endswith(".py"):
        path = (written.folder or Path.cwd()) / make_path(name)
        raise InputError(
            f"{written.where} names the source {name}, a Python file, which would be run. If you "
            f"trust it, say so yourself: dataset.source={path.absolute()}"
        )
    return find_installed_source(name)


def _require_text(name: Any, where: str = "") -> str:
    try:
        return values.check(name, str)
    except ValueError as expected:
        at = f" in {where}" if where else ""
        raise InputError(f"dataset.source={name}{at}: expected {expected}") from None


def _read_card(name: str) -> Written | None:
    path = make_path(name)
    if name in list_cards("dataset"):
        _say_taken(name, path.absolute())
        written = yamls.read_words(locate_card("dataset", name))
        return Written(written, None, f"datasets/{name}.yaml")
    if path.suffix in (".yaml", ".yml"):
        return Written(yamls.read_words(path), path.parent, name)
    return None


@functools.cache
def _say_taken(name: str, path: Path) -> None:
    # Once a folder, however often the card is looked up.
    if os.path.exists(path):
        kind = "folder" if os.path.isdir(path) else "file"
        log.warning(
            "%s is taken for the data set of that name that ships with clip_adapt, not for the "
            "%s of that name here: call that one %s",
            name,
            kind,
            os.path.join(os.curdir, name),
        )


def _recognise(path: Path, source: Source | None, wants: Gives) -> Written | None:
    # A source that is given is asked first; what others say of the path may fit it as well.
    if not os.path.exists(path):
        return None
    values = source.recognise(path) if source else None
    values = values or recognise_path(path, wants)
    if values is None and source is not None:
        raise InputError(
            f"source {source.name} does not say that it recognises {path}: give its options in a "
            "card.yaml, or define recognises(path) in it"
        )
    if values is None:
        raise InputError(
            f"{path} is not a data set that can be read: expected {describe_recognised()}, or a "
            "card.yaml"
        )
    return Written(values, Path.cwd())


def _explain_unknown(name: str) -> str:
    known = list_cards("dataset")
    return (
        f"unknown data set {name!r}{nearest(name, known)} There is: {', '.join(known)}; or give "
        f"the path of {describe_recognised()}, or a card.yaml. No such folder or file exists: "
        f"{make_path(name).absolute()}"
    )


def _make_absolute(given: Mapping[str, Any], source: Source, folder: Path | None) -> dict[str, Any]:
    # A value that does not fit its option stays as it is, to be refused with all the others.
    made = dict(given)
    for key, option in source.options.items():
        if key in given and folder is not None:
            try:
                checked = values.check(given[key], option.annotation)
            except ValueError:
                continue
            made[key] = values.make_paths_absolute(checked, option.annotation, folder)
    return made


def _find_card_problems(checked: Mapping[str, Any], where: str) -> list[str]:
    at = f" in {where}" if where else ""
    wrong = find_name_problem(checked["name"])
    problems = [
        f"name: {checked['name']!r}{at} cannot name the folder of its runs: {wrong}. Give another "
        "with dataset.name=NAME"
    ] * bool(wrong)
    problems += [
        f"template {t!r}{at} has no {{}} for the class name"
        for t in find_slotless_templates(checked)
    ]
    lists = [[n] if isinstance(n, str) else n for n in checked["classes"].values()]
    problems += [f"a class{at} has an empty list of names" for names in lists if not names]
    every = [name for names in lists for name in names]
    spoken = [names[0] for names in lists if names]
    twice = sorted({name for name in every if every.count(name) > 1})
    problems += [
        f"two classes{at} have the name {name!r}: give each its own spoken name" for name in twice
    ]
    problems += [
        f"descriptions{at} name a class that does not exist: {name!r}{nearest(name, spoken)}"
        for name in checked["descriptions"]
        if spoken and name not in spoken
    ]
    return problems
