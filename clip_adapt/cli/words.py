"""The words of a command line: what is typed becomes options, and what --help prints."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from clip_adapt.cli.config_files import add_config
from clip_adapt.config import options, yamls
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
    names, given = split_given(argv, [*list_known("train"), *list_known("sweep")])
    if names:
        lines = [f"expected key=value, got {word!r}{suggest_spelling(word)}" for word in names]
        raise InputError("\n".join(lines))
    return given


def split_given(argv: Sequence[str], known: Collection[str]) -> tuple[list[str], dict[str, Any]]:
    """Return the words without ``=``, and what is given by the others and the file they name.

    Args:
        argv: the words.
        known: the options that there are, for the file of ``config=``.

    Raises:
        InputError: when that file cannot be used.
    """
    names, given = split_words(argv)
    return names, add_config(given, known)


def list_known(verb: str) -> list[str]:
    """Return the names of a verb's options, as its YAML has them."""
    own = list(yamls.read_help_texts(locate_resource("configs") / f"{verb}.yaml"))
    return [*own, *list_known("train")] if verb == "sweep" else own


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
    names, given = split_given(argv, schema)
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


def suggest_spelling(word: str) -> str:
    """Return how a word with dashes is written here; nothing for any other word."""
    name = word.lstrip("-").split("=")[0].replace("-", "_")
    return f" - options are written {name}=VALUE" if word.startswith("-") and name else ""
