"""Model cards and data cards: what a YAML may say about a backbone and about a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from clip_adapt.config import options, values, yamls
from clip_adapt.errors import InputError
from clip_adapt.system.files import locate_resource
from clip_adapt.system.plugins import Kind

SPLITS = ("train", "val", "test")
METHODS = Kind("method", ("methods",), "clip_adapt.methods", "clip_adapt.methods")


@dataclass(frozen=True)
class ModelCard:
    """One file of configs/model: which weights stand behind a short name.

    ``architecture`` is an open_clip architecture, ``package:`` or a path of an open_clip JSON
    configuration, a folder or ``hf-hub:owner/name`` that holds one; ``pretrained`` a tag, a file,
    a folder, ``hf-hub:owner/name``, ``package:FILE``, or ``random``; None takes the weights beside
    the architecture. ``download`` is what is fetched on first use, ``prompts`` what to know about
    prompts for this text tower.
    """

    architecture: str
    pretrained: str | None = None
    image_size: Annotated[int, values.Between(8, 4096)] | None = None
    licence: str | None = None
    download: str | None = None
    prompts: str | None = None
    name: str = ""


@dataclass(frozen=True)
class DataCard:
    """One file of datasets: what the classes are called and where the images come from.

    ``classes`` maps a folder's (or label's) name to the spoken name, or to several of which the
    first is the class's name everywhere but in prompts; ``descriptions`` maps a spoken name to
    whole captions; ``on_leak`` says whether an image in two splits is refused (a published split is
    used as it is, with a warning); ``get`` says what to put where when files are missing;
    ``options`` are those of the source (sources/<source>.py).
    """

    name: str
    source: str
    classes: dict[str, str | list[str]] = field(default_factory=dict)
    templates: list[str] = field(default_factory=lambda: ["a photo of a {}."])
    descriptions: dict[str, list[str]] = field(default_factory=dict)
    description: str | None = None
    licence: str | None = None
    citation: str | None = None
    on_leak: Literal["error", "warn"] = "error"
    get: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def names_of(self, stored: str) -> list[str]:
        """Return the spoken names of a class, by its folder or label."""
        given = self.classes.get(stored, make_spoken(stored))
        return [given] if isinstance(given, str) else list(given)


def make_spoken(stored: str) -> str:
    """Return the spoken name of a folder or label that a card gives no other."""
    return " ".join(stored.replace("_", " ").split())


def list_cards(group: str) -> list[str]:
    """Return the names of the cards that ship: group is ``model``, ``method`` or ``dataset``."""
    return sorted(path.stem for path in _locate_folder(group).glob("*.yaml"))


def locate_card(group: str, name: str) -> Path:
    """Return the file of a card that ships, whether or not it exists."""
    return _locate_folder(group) / f"{name}.yaml"


def find_model(name: str, overrides: Mapping[str, Any] | None = None) -> ModelCard:
    """Return the card of a short name, of a YAML file, or made up for an architecture.

    Args:
        name: the short name, the file, or the architecture.
        overrides: values in place of the card's; with an architecture in them no file is read.

    Raises:
        InputError: when the card has an unknown key or a value of a wrong type.
    """
    if name in list_cards("model"):
        values, where = yamls.read_words(locate_card("model", name)), f"configs/model/{name}.yaml"
    elif name.endswith((".yaml", ".yml")) and "architecture" not in (overrides or {}):
        values, where = yamls.read_words(Path(name)), name
    else:
        values, where = {"architecture": name}, ""
    schema = options.read_fields(ModelCard)
    merged = {**values, **(overrides or {}), "name": str(name)}
    checked, problems = options.validate(merged, schema, "model.", where)
    if problems:
        raise InputError("\n".join(problems))
    return ModelCard(**checked)


def find_slotless_templates(checked: Mapping[str, Any]) -> list[str]:
    """Return the templates in which no class name can stand."""
    return [t for t in checked["templates"] if "{}" not in t]


def _locate_folder(group: str) -> Path:
    return locate_resource("datasets") if group == "dataset" else locate_resource("configs") / group
