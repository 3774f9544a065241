"""Data cards by name or by what a path points at, and the source that reads each."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from clip_adapt.config import options, yamls
from clip_adapt.config.cards import DataCard, card_path, names, templates_without_slot
from clip_adapt.errors import InputError, nearest
from clip_adapt.system.files import resource

Gives = Literal["classes", "captions"]
TABLES = (".csv", ".tsv")
CAPTIONS = "pairs"  # the source that reads a table for its captions


def find_dataset(
    name: str, overrides: Mapping[str, Any] | None = None, wants: Gives = "classes"
) -> DataCard:
    """Return the card of a shipped data set, of a card.yaml, or made up for a folder.

    Args:
        name: a card's name or path, or the path of a folder or a table.
        overrides: values in place of the card's.
        wants: what a table is read for, where it says nothing of its source itself.

    Raises:
        InputError: when nothing of that name exists, or when the card is not valid.
    """
    path = Path(name).expanduser()
    where = ""
    if name in names("dataset"):
        values, where = yamls.read(card_path("dataset", name)), f"datasets/{name}.yaml"
    elif path.suffix in (".yaml", ".yml"):
        values, where = yamls.read(path), name
        values = _absolute(values, path.parent)
    else:
        values = _absolute(_guessed(path), Path.cwd())
    if not values:
        known = names("dataset")
        raise InputError(
            f"unknown data set {name!r}{nearest(name, known)} There is: {', '.join(known)}; or "
            "give the path of a folder of class folders, a table (.csv), a split file (.json), or "
            f"a card.yaml. No such folder or file exists: {path.absolute()}"
        )
    if wants == "captions" and path.suffix.lower() in TABLES:
        values["source"] = CAPTIONS
    values = {**values, **_absolute(overrides or {}, Path.cwd())}
    if values.get("source") == "indices" and values.get("of"):
        values = {**_inherited(str(values["of"])), **values}
    return _data_card(values, where)


def gives(card: DataCard) -> Gives:
    """Return what a data set's source gives its images: ``classes`` or ``captions``."""
    return getattr(source_module(card.source), "GIVES", "classes")


def source_module(source: str) -> ModuleType:
    """Return the module that reads a source (sources/<source>.py).

    Raises:
        InputError: when there is none of that name.
    """
    known = sorted(p.stem for p in resource("data", "sources").glob("*.py") if p.stem[0] != "_")
    if source not in known:
        raise InputError(
            f"unknown source {source!r}{nearest(source, known)} There is: {', '.join(known)}."
        )
    return importlib.import_module(f"clip_adapt.data.sources.{source}")


def _data_card(values: Mapping[str, Any], where: str) -> DataCard:
    common = options.of_dataclass(DataCard)
    del common["options"]
    module = source_module(str(options.check(values.get("source", "folder"), str)))
    own = options.of_signature(module.read)
    checked, problems = options.validate(values, {**common, **own}, "dataset.", where)
    problems += _card_problems(checked, where) if not problems else []
    if problems:
        raise InputError("\n".join(problems))
    given = {key: checked.pop(key) for key in own}
    return DataCard(**checked, options=given)


def _card_problems(checked: Mapping[str, Any], where: str) -> list[str]:
    at = f" in {where}" if where else ""
    problems = [
        f"template {t!r}{at} has no {{}} for the class name"
        for t in templates_without_slot(checked)
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


def _inherited(name: str) -> dict[str, Any]:
    # A subset is spoken of as the data set is that it was drawn from.
    base = find_dataset(name)
    kept = ("classes", "templates", "descriptions", "licence", "citation", "on_leak", "get")
    return {key: getattr(base, key) for key in kept}


PATHS = ("root", "file", "images", "of")  # options of sources that are paths


def _absolute(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    # What a card says is relative to it, what a command line says to where it is typed.
    def full(key: str, value: Any) -> Any:
        if isinstance(value, list):
            return [full(key, v) for v in value]
        exists = isinstance(value, str) and (folder / Path(value).expanduser()).exists()
        text = isinstance(value, str) and (key != "of" or exists)
        return str((folder / Path(value).expanduser()).absolute()) if text else value

    return {key: full(key, value) if key in PATHS else value for key, value in values.items()}


def _guessed(path: Path) -> dict[str, Any]:
    # What a path points at says which source reads it.
    if path.is_dir():
        splits = sorted(path.glob("split_zhou_*.json"))
        if len(splits) == 1:
            return {"name": path.resolve().name, "source": "coop_split", "file": str(splits[0])}
        return {"name": path.resolve().name, "source": "folder", "root": str(path)}
    if not path.is_file():
        return {}
    suffix, name = path.suffix.lower(), path.stem
    if suffix in TABLES:
        return {"name": name, "source": "csv", "file": str(path)}
    if suffix == ".json" and name.startswith("split_zhou_"):
        name = name.removeprefix("split_zhou_")
        return {"name": name, "source": "coop_split", "file": str(path)}
    if suffix in (".json", ".jsonl"):
        return {"name": name, "source": "indices", "file": str(path)}
    if suffix == ".npz":
        flag, _, size = name.partition("_")
        shipped = yamls.read(card_path("dataset", flag)) if flag in names("dataset") else {}
        own = {"source": "medmnist", "flag": flag, "root": str(path.parent)}
        return {"name": name, **shipped, **own, **({"size": int(size)} if size.isdigit() else {})}
    raise InputError(
        f"{path} is no data set that can be read: expected a folder of class folders, a table "
        "(.csv or .tsv), a split file or a subset (.json, .jsonl), a MedMNIST file (.npz), or a "
        "card.yaml"
    )
