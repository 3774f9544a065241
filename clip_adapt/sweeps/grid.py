"""A sweep's command line becomes its runs: every combination of the options that are lists."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_adapt.config import cards, options, values, yamls
from clip_adapt.config.given import GROUPS, flatten
from clip_adapt.config.options import Option
from clip_adapt.config.run_options import NEUTRAL, RunOptions
from clip_adapt.config.values import TypedText
from clip_adapt.data.source import Source, find_source, list_sources
from clip_adapt.errors import InputError
from clip_adapt.method import finding
from clip_adapt.runs.configuration import Config, compose
from clip_adapt.system.files import locate_resource
from clip_adapt.system.reading import make_path
from clip_adapt.system.text.names import make_file_name

NAMED = (*GROUPS, "shots", "seed")  # what every folder's name holds


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        config: what it does.
        values: the value of every option that the sweep varies.
    """

    config: Config
    values: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where its files go."""
        assert self.config.options.output is not None, "a sweep gives every run its place"
        return Path(self.config.options.output)


def expand(given: Mapping[str, Any], output: str | None = None) -> tuple[Path, list[Cell]]:
    """Return the sweep's folder and its runs, in the order of the command line.

    An option that takes a list itself (``templates``) is varied by a list of lists. An option of a
    method goes to the methods that have it, and must be one of at least one of them.

    Args:
        given: ``key=value`` pairs, lists for what is varied.
        output: the sweep's folder; None is ``runs/<dataset>/sweep``.

    Raises:
        InputError: with a line for everything that is wrong with any of the runs.
    """
    given = flatten(given)
    choices = {key: _list_choices(given, key) for key in given}
    varied = [key for key, values in choices.items() if values is not None]
    lists = [choices[key] or [given[key]] for key in given]
    combinations = [dict(zip(given, values, strict=True)) for values in itertools.product(*lists)]
    wanted = _drop_repeats([_keep_own(one, given) for one in combinations])
    top = make_path(output) if output else _choose_folder(given)
    cells, problems = [], []
    for one in wanted:
        values = {key: _parse_value(one[key]) for key in varied if key in one}
        try:
            config = compose({**one, "output": str(top / _name(one))})
            cells.append(Cell(config, values))
        except InputError as error:
            problems += str(error).splitlines()
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))
    assert len({cell.folder for cell in cells}) == len(cells), "every run has its own folder"
    return top, cells


def _list_choices(given: Mapping[str, Any], key: str) -> list[Any] | None:
    # None when the option has one value, be it a list that the option itself takes.
    value, found = given[key], _find_options(given, key)
    if isinstance(value, TypedText):
        value = _split(key, value, found)
    if not isinstance(value, list) or any(_takes(value, option) for option in found):
        return None
    if not value:
        raise InputError(f"{key}=[]: expected at least one value")
    return value


def _split(key: str, text: TypedText, found: list[Option]) -> Any:
    # A list is typed in brackets; without them where commas cannot be part of one value.
    is_one = os.path.exists(text) if key in GROUPS else any(_takes(text, o) for o in found)
    return values.parse_words(text) if is_one else values.parse_list(text)


def _takes(value: Any, option: Option) -> bool:
    try:
        values.check(value, option.annotation)
    except ValueError:
        return False
    return True


def _find_options(given: Mapping[str, Any], key: str) -> list[Option]:
    # Those that a key may mean: it is another one for each method, and for each source.
    group, _, rest = key.partition(".")
    if group == "method" and rest:
        schemas = [_read_method_options(name) for name in _list_methods(given)]
    elif group == "dataset" and rest:
        sources = [source.options for source in _list_sources(given)]
        schemas = [options.read_fields(cards.DataCard), *sources]
    else:
        schemas, rest = [options.read_fields(RunOptions)], key
    return [schema[rest] for schema in schemas if rest in schema]


def _list_sources(given: Mapping[str, Any]) -> list[Source]:
    name = given.get("dataset.source")
    if name is None:
        return list_sources()
    try:
        return [find_source(str(name))]
    except InputError:  # said with all other problems when the run is composed
        return []


def _list_methods(given: Mapping[str, Any]) -> list[str]:
    value = given.get("method", _read_defaults()["method"])
    parsed = _split("method", value, []) if isinstance(value, TypedText) else value
    return [str(name) for name in (parsed if isinstance(parsed, list) else [parsed])]


@functools.cache
def _read_method_options(name: str) -> dict[str, Option]:
    try:
        return options.read_signature(finding.find_method(name).cls)
    except InputError:  # said with all other problems when the run is composed
        return {}


def _keep_own(one: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    # Without the options that another method of this sweep has and this one has not.
    mine = _read_method_options(_list_methods(one)[0])
    others = {key for name in _list_methods(given) for key in _read_method_options(name)}

    def is_anothers(key: str) -> bool:
        head, _, rest = key.partition(".")
        name = rest.partition(".")[0]
        return head == "method" and bool(rest) and name not in mine and name in others

    return {key: value for key, value in one.items() if not is_anothers(key)}


def _drop_repeats(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({repr(sorted(run.items(), key=str)): run for run in runs}.values())


def _choose_folder(given: Mapping[str, Any]) -> Path:
    value = given.get("dataset", _read_defaults()["dataset"])
    parsed = _split("dataset", value, []) if isinstance(value, TypedText) else value
    if isinstance(parsed, list):
        return Path("runs") / "sweep"
    return Path("runs") / make_file_name(_read_stem(str(parsed))) / "sweep"


def _read_stem(dataset: str) -> str:
    # "." and ".." are called what the folders are called that they stand for.
    path = Path(dataset)
    return path.stem if path.name.strip(".") else path.resolve().stem


def _name(one: Mapping[str, Any]) -> str:
    defaults = _read_defaults()
    m, d, b = (str(one.get(key, defaults[key])) for key in GROUPS)
    shots, seed = (values.parse(str(one.get(key, defaults[key]))) for key in ("shots", "seed"))
    own = {k: _parse_value(v) for k, v in one.items() if k not in NAMED and k not in NEUTRAL}
    extra = [f"{key.removeprefix('method.')}={value}" for key, value in sorted(own.items())]
    stems = [_read_stem(d), Path(m).stem, Path(b).stem if b.endswith((".yaml", ".yml")) else b]
    numbers = [f"{shots}shot", f"seed{seed}"]
    name = "-".join([*stems, *numbers, *extra])
    if len(name) <= 100 and re.fullmatch(r"[\w.=+-]+", name + d + m + b):
        return name
    # Too long for a name, a path, or made of what names cannot hold: config.yaml says the rest.
    digest = hashlib.sha256(
        "\n".join([d, m, b, *numbers, *extra]).encode(errors="surrogatepass")
    ).hexdigest()[:10]
    short = (re.sub(r"[^\w.+]+", "_", stem)[:24] for stem in stems)
    return "-".join([*short, *numbers, digest])


def _parse_value(value: Any) -> Any:
    return values.parse(value) if isinstance(value, TypedText) else values.resolve(value)


def _read_defaults() -> dict[str, Any]:
    return yamls.read_yaml(locate_resource("configs") / "train.yaml")
