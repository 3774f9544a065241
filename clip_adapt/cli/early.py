"""A misspelt word is refused at once: before torch is imported, which takes seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clip_adapt.cli.words import Schema, list_known, split_words, suggest_spelling
from clip_adapt.config import cards, options, yamls
from clip_adapt.config.given import GROUPS
from clip_adapt.config.run_options import RENAMED, RunOptions
from clip_adapt.config.values import parse_list
from clip_adapt.errors import InputError, nearest
from clip_adapt.system.plugins import explain_unknown_name, list_names

AUTO = "auto"
COMMON = ("config", "verbose")  # of every verb


def refuse_misspelt(verb: str, argv: list[str]) -> None:
    """Refuse unknown options and methods, with what else is wrong with general options.

    Raises:
        InputError: with a line for each problem.
    """
    names, given = split_words(argv)
    known = list_known(verb)
    of_run = set(GROUPS) <= {*known}
    problems = [f"expected key=value, got {word!r}{suggest_spelling(word)}" for word in names]
    problems = problems if of_run else []
    wrong = _list_unknown(given, known)
    wrong += _check_methods(given) if of_run else []
    if problems or wrong:
        raise InputError("\n".join([*problems, *wrong, *_check_values(given, of_run)]))


def _list_unknown(given: Mapping[str, Any], known: list[str]) -> list[str]:
    every = {*known, *COMMON, *RENAMED}
    unknown = {k: v for k, v in given.items() if not {k, k.partition(".")[0]} & every}
    schema: Schema = {key: options.Option(Any, None) for key in known}
    return options.validate(unknown, schema)[1]


def _check_methods(given: Mapping[str, Any]) -> list[str]:
    text = given.get("method")
    names = parse_list(text) if text is not None else []
    names = names if isinstance(names, list) else [names]
    if any(not isinstance(name, str) or name.endswith(".py") for name in names):
        return []  # code of one's own, or a map: it is looked at when it is loaded
    known = sorted({*list_names(cards.METHODS), *cards.list_cards("method")})
    wrong = [name for name in names if name not in (*known, AUTO)]
    if wrong:
        return [explain_unknown_name(name, cards.METHODS, known) for name in wrong]
    return _check_method_options(given, names)


def _check_method_options(given: Mapping[str, Any], names: list[str]) -> list[str]:
    # What is not near to an option of these methods may be a former name of one.
    texts: dict[str, tuple[str, str]] = {}
    for file in (cards.locate_card("method", name) for name in names):
        texts |= yamls.read_help_texts(file) if file.is_file() else {}
    known = [key.partition(".")[2] for key in texts if key.startswith("method.")]
    schema: Schema = {key: options.Option(Any, None) for key in known}
    own = [key.split(".")[1] for key in given if key.startswith("method.")]
    misspelt = {key: None for key in own if key not in known and nearest(key, known) != "."}
    where = f"method {names[0]}" if len(names) == 1 else ""
    return options.validate(misspelt, schema, "method.", where)[1]


def _check_values(given: Mapping[str, Any], of_run: bool) -> list[str]:
    # They would be said with the rest if all words were right.
    schema = options.read_fields(RunOptions) if of_run else {}
    plain = {key: value for key, value in given.items() if key in schema}
    return options.validate(plain, {key: schema[key] for key in plain})[1]
