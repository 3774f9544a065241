"""The words of a command line: what is typed becomes options, and what --help prints."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clip_adapt.config import cards, options, yamls
from clip_adapt.config.values import TypedText
from clip_adapt.errors import InputError
from clip_adapt.system.files import locate_resource

Schema = dict[str, options.Option]

_OPTION = re.compile(r"^([A-Za-z_][\w.]*)=(.*)$", re.DOTALL)

VERBS = {
    "train": "adapt a backbone to images and save the delta",
    "evaluate": "measure deltas on the images of a data set that they have not seen",
    "predict": "classify images with a delta, or with class names alone",
    "sweep": "run methods x shots x seeds and compare them in a table and a curve",
    "report": "make the page of a run, or an index over many runs",
}


USAGE = {
    "train": "method=coop dataset=eyes shots=16 [key=value ...]",
    "evaluate": "runs/.../adapter [other/adapter ...] dataset=eyes [key=value ...]",
    "predict": "runs/.../adapter photo.jpg other.png [key=value ...]",
    "sweep": "method=[linear_probe,coop] shots=[1,4,16] seed=[1,2,3] [key=value ...]",
    "report": "runs [key=value ...]",
}


def split_words(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Return the words without ``=`` and the ``key=value`` pairs; a file keeps its name."""
    names: list[str] = []
    given: dict[str, Any] = {}
    for word in argv:
        match = _OPTION.match(word)
        if match and not os.path.isfile(word):
            given[match[1]] = TypedText(match[2])
        else:
            names.append(word)
    return names, given


def write_path(path: Path) -> str:
    """Return a path as a word that is no option, whatever a folder is called (``lr=0.1``)."""
    text = str(path)
    return f"./{text}" if _OPTION.match(text) or text.startswith("-") else text


def read_options(argv: Sequence[str]) -> dict[str, Any]:
    """Return the ``key=value`` pairs of a command line that holds nothing else.

    Raises:
        InputError: with a line for every other word.
    """
    names, given = split_words(argv)
    if names:
        lines = [f"expected key=value, got {word!r}{_suggest_spelling(word)}" for word in names]
        raise InputError("\n".join(lines))
    return given


def make_schema(
    function: Callable[..., Any], without: Sequence[str] = (), **more: tuple[Any, Any]
) -> Schema:
    """Return the options of a verb.

    Args:
        function: its keyword-only parameters are options.
        without: parameters that are none.
        **more: further options, each with its annotation and its default.
    """
    found = options.read_signature(function)
    own = {name: option for name, option in found.items() if name not in without}
    return {**own, **{name: options.Option(*facts) for name, facts in more.items()}}


def read_words(argv: Sequence[str], schema: Schema) -> tuple[list[str], dict[str, Any]]:
    """Return the words without ``=``, and the checked options of a verb.

    Raises:
        InputError: with a line for each problem.
    """
    names, given = split_words(argv)
    return names, require_valid(given, schema)


def take_own(given: dict[str, Any], schema: Schema) -> dict[str, Any]:
    """Take the options of a verb out of ``given`` and return them, checked.

    Raises:
        InputError: with a line for each problem.
    """
    return require_valid({key: given.pop(key) for key in list(given) if key in schema}, schema)


def require_valid(given: dict[str, Any], schema: Schema) -> dict[str, Any]:
    """Return the checked options of a verb.

    Raises:
        InputError: with a line for each problem.
    """
    checked, problems = options.validate(given, schema)
    if problems:
        raise InputError("\n".join(problems))
    return checked


def _suggest_spelling(word: str) -> str:
    name = word.lstrip("-").split("=")[0].replace("-", "_")
    return f" - options are written {name}=VALUE" if word.startswith("-") and name else ""


def write_help(verb: str, argv: list[str]) -> str:
    """Return what ``--help`` prints, read off the YAML files and their comments."""
    lines = [f"usage: python -m clip_adapt.{verb} {USAGE[verb]}", "", VERBS[verb], ""]
    if verb == "train":
        for group, title in (("method", "methods"), ("model", "models"), ("dataset", "data sets")):
            lines += [f"{title}:", *_list_cards(group), ""]
        lines += ["options of methods:"]
        for method in cards.list_cards("method"):
            texts = yamls.read_help_texts(cards.locate_card("method", method))
            own = {k: v for k, v in texts.items() if k.startswith("method.")}
            lines += [f"  {method}"] * bool(own) + _list_options(own, indent=4)
        lines += ["", "options of a data set's or a model's card: dataset.KEY=, model.KEY=", ""]
    if verb == "evaluate":
        lines += ["options of the data set's card, as for train: dataset.KEY=", ""]
    lines += [
        "options:",
        *_list_options(yamls.read_help_texts(locate_resource("configs") / f"{verb}.yaml")),
    ]
    return "\n".join(lines)


def _list_cards(group: str) -> list[str]:
    lines = []
    for name in cards.list_cards(group):
        comment = yamls.read_opening_comment(cards.locate_card(group, name))
        lines.append(f"  {name:<22} {comment[0] if comment else ''}")
    return lines


def _list_options(texts: dict[str, tuple[str, str]], indent: int = 2) -> list[str]:
    lines = []
    for key, (default, meaning) in texts.items():
        shown = f"{key}={default}"
        gap = f"\n{' ' * (indent + 25)}" if len(shown) > 24 else ""
        lines.append(f"{' ' * indent}{shown:<25}{gap}{meaning}")
    return lines
