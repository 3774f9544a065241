"""Data cards: by name, from a card.yaml, or made up for what a path points at."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
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
from clip_adapt.data.folders.tree import list_subfolders, walk_folder
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

SHELF = "datasets"  # before the name of a card that ships: it and nothing else is meant


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
    """Return what ``dataset=`` calls a data set; a path object is never the name of a card.

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
        name: a card's name or path, or the path of something that a source recognises. A folder of
            images comes before a card of its name, which ``datasets/NAME`` is; a line says so.
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


def find_card(
    name: str, overrides: Mapping[str, Any] | None = None, wants: Gives = "classes"
) -> DataCard:
    """Return what ``find_dataset`` does, where a map among the overrides changes single entries.

    ``dataset.per_class.train=8`` is {"per_class": {"train": "8"}}, and leaves the other entries.

    Raises:
        InputError: when nothing of that name exists, or when the card is not valid.
    """
    given = dict(overrides or {})
    nested = {key: value for key, value in given.items() if isinstance(value, dict)}
    if not nested:
        return find_dataset(name, given, wants)
    base = find_dataset(name, {k: v for k, v in given.items() if k not in nested}, wants)
    current = {**asdict(base), **base.options}
    maps = {key: value for key, value in current.items() if isinstance(value, dict)}
    merged = {key: {**maps.get(key, {}), **value} for key, value in nested.items()}
    return find_dataset(name, {**given, **merged}, wants)


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
    path, shipped = make_path(name), _find_shipped(name)
    if shipped is not None:
        where = locate_card("dataset", shipped)
        return Written(yamls.read_words(where), None, f"{SHELF}/{shipped}.yaml")
    if path.suffix in (".yaml", ".yml"):
        return Written(yamls.read_words(path), path.parent, name)
    return None


def _find_shipped(name: str) -> str | None:
    # The card that ships and has this name, unless the user has a folder of images called so.
    known, there = list_cards("dataset"), os.path.exists(make_path(name))
    shelf, _, rest = name.rpartition("/")
    if shelf == SHELF and rest in known and not there:
        return rest
    if name not in known:
        return None
    if not there:
        return name
    own = _holds_classes(make_path(name)) and not _holds_data_of(name)
    _say_taken(name, own, Path.cwd())
    return None if own else name


def _holds_classes(folder: Path) -> bool:
    return os.path.isdir(folder) and any(walk_folder(p).images for p in list_subfolders(folder))


def _holds_data_of(card: str) -> bool:
    # With data_dir=. the images that a card describes lie in a folder of its name, too.
    told = yamls.read_yaml(locate_card("dataset", card)).values()
    texts = [text for value in told for text in (value if isinstance(value, list) else [value])]
    return any(str(t).startswith(f"{card}/") and os.path.exists(str(t)) for t in texts)


@functools.cache
def _say_taken(name: str, own: bool, where: Path) -> None:
    # Once in a working folder, however often a data set is looked up.
    if own:
        log.warning(
            "dataset=%s is the folder of that name here, %s; the data set of that name that ships "
            "is dataset=%s/%s",
            name,
            where / name,
            SHELF,
            name,
        )
    else:
        log.warning(
            "dataset=%s is the data set of that name that ships; what is called so here, %s, is "
            "dataset=./%s",
            name,
            where / name,
            name,
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
