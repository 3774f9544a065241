"""What ``--help`` prints: read off the YAML files and their comments, or off a configuration."""

from __future__ import annotations

import shutil
import textwrap
from typing import TYPE_CHECKING, Any

from clip_adapt.cli.config_files import KEY
from clip_adapt.cli.words import USAGE, VERBS, list_known, read_options, split_words
from clip_adapt.config import cards, yamls
from clip_adapt.config.given import GROUPS, flatten, write_values
from clip_adapt.system.files import locate_resource
from clip_adapt.system.text.showing import show_line

if TYPE_CHECKING:
    from clip_adapt.runs.configuration import Config

WIDTH = 110  # where there is no terminal
NARROWEST = 40
COMMON = {
    "config=FILE.yaml": "options out of a file, as a run's own config.yaml; words here win over it",
    "verbose=normal": "quiet (or false): results alone; normal (or true); debug: times, traces",
}


def write_overview() -> str:
    """Return what ``clip-adapt --help`` prints."""
    others = {
        "help": "what a verb does and takes; with options, what they come to",
        "completion": "a script for bash, zsh or fish that completes words",
    }
    lines = ["usage: clip-adapt VERB ...", ""]
    lines += [f"  {verb:<12}{meaning}" for verb, meaning in {**VERBS, **others}.items()]
    return "\n".join([*lines, "", "clip-adapt VERB --help lists a verb's options."])


def write_help(verb: str, given: list[str]) -> str:
    """Return what ``--help`` prints for a verb.

    Args:
        verb: the verb.
        given: its other words; of ``train`` they are shown with all that they come to.

    Raises:
        InputError: when these words cannot be.
    """
    if verb == "train" and given:
        return _write_resolved(given)
    usage = _wrap("usage: ", f"python -m clip_adapt.{verb} {USAGE[verb]}")
    lines = [*usage, "", *_wrap("", VERBS[verb]), ""]
    if verb == "train":
        for group, title in (("method", "methods"), ("model", "models"), ("dataset", "data sets")):
            lines += [f"{title}:", *_list_cards(group), ""]
        lines += ["options of methods:"]
        for method in cards.list_cards("method"):
            texts = yamls.read_help_texts(cards.locate_card("method", method))
            own = {k: v for k, v in texts.items() if k.startswith("method.")}
            lines += [f"  {method}"] * bool(own) + _list_options(own, indent=4)
        cards_too = "options of a data set's or a model's card: dataset.KEY=, model.KEY="
        lines += ["", *_wrap("", cards_too), ""]
    if verb == "evaluate":
        lines += [*_wrap("", "options of the data set's card, as for train: dataset.KEY="), ""]
    lines += [
        "options:",
        *_list_options(yamls.read_help_texts(locate_resource("configs") / f"{verb}.yaml")),
        "",
        "of every verb:",
        *(line for shown, meaning in COMMON.items() for line in _write_row(shown, meaning, 2)),
    ]
    return "\n".join(lines)


def _list_cards(group: str) -> list[str]:
    lines = []
    for name in cards.list_cards(group):
        comment = yamls.read_opening_comment(cards.locate_card(group, name))
        lines += _wrap(f"  {name:<22} ", comment[0] if comment else "")
    return lines


def _list_options(texts: dict[str, tuple[str, str]], indent: int = 2) -> list[str]:
    rows = ((f"{key}={default}", meaning) for key, (default, meaning) in texts.items())
    return [line for shown, meaning in rows for line in _write_row(shown, meaning, indent)]


def _write_row(shown: str, meaning: str, indent: int) -> list[str]:
    if len(shown) > 24:
        return [f"{' ' * indent}{shown}", *_wrap(" " * (indent + 25), meaning)]
    return _wrap(f"{' ' * indent}{shown:<25}", meaning)


def _wrap(opening: str, text: str) -> list[str]:
    # On a narrow terminal the text goes below what it is of.
    width = max(NARROWEST, shutil.get_terminal_size((WIDTH, 24)).columns - 1)
    if len(opening) > width // 2:
        first = [opening.rstrip()] * bool(opening.strip())
        below = " " * (len(opening) - len(opening.lstrip()) + 4 if opening.strip() else 6)
        return [*first, *textwrap.wrap(text, width, initial_indent=below, subsequent_indent=below)]
    after = " " * len(opening)
    return textwrap.wrap(
        text, width, initial_indent=opening, subsequent_indent=after, break_long_words=False
    ) or [opening.rstrip()]


def _write_resolved(words: list[str]) -> str:
    # Imported here because it brings torch.
    from clip_adapt.runs.configuration import compose

    given = flatten(read_options(words))
    config = compose(given)
    resolved = config.resolved()
    typed = split_words(words)[1]
    sources = _name_recipe(config) | {
        key: "given" if key in typed else f"config={typed[KEY]}" if KEY in typed else "given"
        for key in given
    }
    names = ", ".join(candidate.method.name for candidate in config.candidates)
    lines = [config.command, "", f"method: {config.method.name}"]
    lines += [f"  the best of {names} on the support set"] * bool(names)
    lines += _list_values("method", config.method_options, sources)
    general = {k: resolved[k] for k in list_known("train") if k not in GROUPS}
    lines += ["", "options:", *_list_values("", general, sources)]
    for group in ("dataset", "model"):
        own = {k: v for k, v in resolved[group].items() if k != "name" and v not in (None, {})}
        of_card = {f"{group}.{key}": "card" for key in own} | sources
        lines += ["", f"{group}: {resolved[group]['name']}", *_list_values(group, own, of_card)]
    return "\n".join(map(show_line, lines))


def _name_recipe(config: Config) -> dict[str, str]:
    from clip_adapt.objectives import find_objective
    from clip_adapt.runs.recipes import read_recipe

    recipe = read_recipe(config.method) if not config.candidates else {}
    own = recipe.pop("method", None) or {}
    keys = [*recipe, *(f"method.{key}" for key in own)]
    o = config.options
    return {
        **dict.fromkeys(keys, f"recipe of {config.method.name}"),
        **dict.fromkeys(find_objective(o.objective).read_recipe(), f"recipe of {o.objective}"),
        **{k: f"for a CPU (published: {config.published[k]})" for k in config.cpu_recipe},
    }


def _list_values(group: str, values: dict[str, Any], sources: dict[str, str]) -> list[str]:
    prefix = f"{group}." if group else ""
    rows = ((f"{prefix}{key}", value) for key, value in write_values(values).items())
    return [
        line
        for key, value in rows
        for line in _write_row(f"{key}={value}", sources.get(key, "default"), 2)
    ]
