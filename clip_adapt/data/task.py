"""What a method is asked: the classes and the text that stands for each of them."""

from __future__ import annotations

import html
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from clip_adapt.errors import InputError

Prompts = Literal["templates", "descriptions", "both"]

# The seven that OpenAI found to carry most of the gain of their 80 ImageNet templates:
# https://github.com/openai/CLIP, notebook Prompt_Engineering_for_ImageNet.
GENERAL_TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


@dataclass(frozen=True)
class Task:
    """A classification task.

    Attributes:
        classes: spoken class names, in the order of the logits.
        templates: prompts with ``{}`` for the class name.
        descriptions: whole captions of a class, by its name.
        prompts: which of the two stand for a class.
        shots: labelled images a class (0: none).
        seed: seeds every random start value of a method.
        names: every spoken name of a class that has several, by its first.
    """

    classes: tuple[str, ...]
    templates: tuple[str, ...] = ("a photo of a {}.",)
    descriptions: dict[str, list[str]] = field(default_factory=dict)
    prompts: Prompts = "templates"
    shots: int = 0
    seed: int = 1
    names: dict[str, list[str]] = field(default_factory=dict)

    def texts(self) -> list[list[str]]:
        """Return the texts of every class, one list a class: all its names in all templates.

        Raises:
            InputError: when descriptions are asked for and a class has none.
        """
        missing = [c for c in self.classes if not self.descriptions.get(c)]
        if self.prompts != "templates" and missing:
            raise InputError(
                f"prompts={self.prompts} needs a description of every class; the card has none "
                f"for: {', '.join(missing)}. Add them under descriptions: or use prompts=templates."
            )
        return [self._fill_templates(name) for name in self.classes]

    def _fill_templates(self, name: str) -> list[str]:
        names = self.names.get(name) or [name]
        filled = [template.replace("{}", n) for n in names for template in self.templates]
        captions = list(self.descriptions.get(name, []))
        return {"templates": filled, "descriptions": captions, "both": filled + captions}[
            self.prompts
        ]


def read_name(name: str) -> str:
    """Return a name as the tokenizers of CLIP read it, in small letters.

    Accents that are written in two ways (NFC, NFD), full-width letters, HTML entities and white
    space are no difference to them. https://github.com/openai/CLIP, clip/simple_tokenizer.py
    """
    import ftfy

    clean = html.unescape(html.unescape(ftfy.fix_text(name)))
    return " ".join(clean.split()).lower()


def find_same_names(names: Iterable[str]) -> list[list[int]]:
    """Return where names stand that read the same, those of each reading together."""
    of_reading: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        of_reading[read_name(name)].append(index)
    return [same for same in of_reading.values() if len(same) > 1]


def quote_names(names: Sequence[str]) -> str:
    """Return names side by side, with codes where their letters look the same."""
    look_alike = len({unicodedata.normalize("NFC", name) for name in names}) < len(set(names))
    return " and ".join(map(ascii if look_alike else repr, names))


def require_usable(classes: list[str], templates: tuple[str, ...]) -> None:
    """Refuse class names and templates that nothing can be told apart with.

    Raises:
        InputError: when a class is given twice, two read the same, one is the only one or blank;
            or a template has no ``{}``.
    """
    nameless = [name for name in classes if not read_name(name)]
    if nameless:
        raise InputError(f"the class {nameless[0]!r} has no name: a text tower reads nothing there")
    twice = sorted({name for name in classes if classes.count(name) > 1})
    if twice:
        raise InputError(f"a class is given twice: {', '.join(twice)}")
    for same in find_same_names(classes):
        raise InputError(
            f"the classes {quote_names([classes[i] for i in same])} read the same to a text tower, "
            "which cannot tell them apart: give one of them another name"
        )
    if len(classes) < 2:
        raise InputError(f"classes={classes}: expected at least two to tell apart")
    for template in templates:
        if "{}" not in template:
            raise InputError(f"template {template!r} has no {{}} for the class name")
    if not templates:
        raise InputError("no template is given: expected one such as 'a photo of a {}.'")


def refuse_same_names(spoken: list[list[str]], stored: list[str]) -> None:
    """Refuse classes of a data set without a name, and those whose names are or read the same.

    Args:
        spoken: every name of each class.
        stored: its folder or label.

    Raises:
        InputError: naming one or two of them, and the option that gives them other names.
    """
    for folder, names in zip(stored, spoken, strict=True):
        if not all(map(read_name, names)):
            raise InputError(
                f"the class {folder!r} has a blank name, so there is nothing to say of it: give it "
                f"a spoken name, {_suggest_classes(stored)}"
            )
    first = [names[0] for names in spoken]
    for name in sorted({c for c in first if first.count(c) > 1}):
        twins = [s for s, c in zip(stored, first, strict=True) if c == name]
        raise InputError(
            f"two classes have the name {name!r}: {', '.join(map(repr, twins))}. "
            f"Rename one, or give each a spoken name: {_suggest_classes(stored)}"
        )
    owned = [(name, label) for label, names in enumerate(spoken) for name in names]
    for same in find_same_names(name for name, _ in owned):
        if len({owned[i][1] for i in same}) > 1:
            raise InputError(
                f"the classes {quote_names([owned[i][0] for i in same])} read the same: capitals, "
                "accents in two codings, full-width letters, HTML entities and white space are no "
                "difference to a text tower. Rename one, make them one class, or give each a "
                f"spoken name: {_suggest_classes(stored)}"
            )


def _suggest_classes(stored: list[str]) -> str:
    # A class that is left out of the map is left out of the data set, so it names them all.
    few = [f"{name}: NAME" for name in stored[:4]] + ["..."] * (len(stored) > 4)
    return f"dataset.classes='{{{', '.join(few)}}}'"
