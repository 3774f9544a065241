"""How a source is found: by its name, or by a path that it recognises.

A source is a module with ``read(card, context, *, options) -> Splits``: a file of sources/, what an
installed package names in the entry-point group ``clip_adapt.sources``, or a file of the user's.
It may say more of itself:

    GIVES = "captions"                        # what it gives its images; classes otherwise
    RECOGNISES = "a table (.csv or .tsv)"     # in words, for messages
    ASKED_LAST = True                         # it takes whatever no other source recognises
    def recognises(path) -> dict | None       # what a card would say of this file or folder
    def inherit(values) -> dict               # what a card need not say, from what it says
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clip_adapt.config import options
from clip_adapt.data.items import Context, Splits
from clip_adapt.errors import InputError
from clip_adapt.system.plugins import Kind, find_installed, find_plugin, list_names

Gives = Literal["classes", "captions"]
KIND = Kind("source", ("data", "sources"), "clip_adapt.data.sources", "clip_adapt.sources")


@dataclass(frozen=True)
class Source:
    """A source: the name it goes by, and its module.

    A user's own file goes by its absolute path; ``installed`` says that another package brought it.
    """

    name: str
    module: Any
    installed: bool = False

    def __post_init__(self) -> None:
        if not callable(getattr(self.module, "read", None)):
            raise InputError(
                f"source {self.name} must define read(card, context, *, options) -> Splits"
            )
        if self.gives not in ("classes", "captions"):
            raise InputError(
                f"source {self.name}: GIVES={self.gives!r}, expected 'classes' or 'captions'"
            )

    @property
    def gives(self) -> Gives:
        """What it gives its images."""
        return getattr(self.module, "GIVES", "classes")

    @property
    def kinds(self) -> str | None:
        """What it recognises, in words; None when it recognises nothing."""
        return getattr(self.module, "RECOGNISES", None)

    @property
    def options(self) -> dict[str, options.Option]:
        """The options of its ``read``."""
        return options.read_signature(self.module.read)

    @property
    def turn(self) -> int:
        """When it is asked about a path: ours, then installed ones, then what takes anything."""
        return 2 if getattr(self.module, "ASKED_LAST", False) else int(self.installed)

    def read(self, card: Any, context: Context) -> Splits:
        """Read the data set of a card."""
        return self.module.read(card, context, **card.options)

    def recognise(self, path: Path) -> dict[str, Any] | None:
        """Return what a card would say of a path, or None when it is not one of this source's."""
        ask = getattr(self.module, "recognises", None)
        found = ask(path) if ask is not None else None
        return None if found is None else {"name": path.stem, **found, "source": self.name}

    def inherit(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what stands in for what a card does not say."""
        ask = getattr(self.module, "inherit", None)
        return ask(values) if ask is not None else {}


def find_source(name: str) -> Source:
    """Return the source of that name, or the one that a user's ``path/to/mine.py`` defines.

    A path must be one that the user named himself: its file is run.

    Raises:
        InputError: when there is none of that name, or when it defines no ``read``.
    """
    plugin = find_plugin(name, KIND)
    own = str(plugin.file.absolute()) if plugin.file else name
    return Source(own, plugin.content, plugin.installed)


def find_installed_source(name: str) -> Source:
    """Return the installed source of that name: for names out of files, which run no code.

    Raises:
        InputError: when none of that name is installed, or when it defines no ``read``.
    """
    plugin = find_installed(name, KIND)
    return Source(name, plugin.content, plugin.installed)


def list_sources() -> list[Source]:
    """Return the sources that ship and those that installed packages bring."""
    return [find_installed_source(name) for name in list_names(KIND)]


def recognise_path(path: Path, wants: Gives) -> dict[str, Any] | None:
    """Return what a card would say of a path; None when no source recognises it.

    Of several sources one that gives what is wanted comes first, and of these the one whose turn is
    first.

    Raises:
        InputError: when two have an equal claim.
    """
    asked = ((source, source.recognise(path)) for source in list_sources())
    claims = [(source, values) for source, values in asked if values is not None]
    claims = [claim for claim in claims if claim[0].gives == wants] or claims
    first = min((source.turn for source, _ in claims), default=0)
    claims = [claim for claim in claims if claim[0].turn == first]
    if len(claims) > 1:
        names = " and ".join(source.name for source, _ in claims)
        raise InputError(
            f"{path} is recognised by the sources {names}: say which reads it with "
            f"dataset.source={claims[0][0].name}"
        )
    return claims[0][1] if claims else None


def describe_recognised() -> str:
    """Return in words every kind of path that a source recognises."""
    sources = sorted(list_sources(), key=lambda source: (-source.turn, source.name))
    return ", ".join(dict.fromkeys(source.kinds for source in sources if source.kinds))
