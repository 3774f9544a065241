"""Templates and pictures inside a page."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import PurePosixPath
from typing import Any

import jinja2
from markupsafe import Markup

from clip_adapt.pages import found, numbers
from clip_adapt.system.text.showing import show_text

SCRIPTS = ("sort.js", "heat.js")


@cache
def make_environment() -> jinja2.Environment:
    """Return what renders the templates.

    Every value is escaped, and what a reader does not see in it (what turns the direction of
    writing, control characters) is written as its code.
    """
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("clip_adapt.pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_show_value,
    )
    made.filters["list_facts"] = found.list_facts
    made.filters["bytes"] = numbers.write_size
    made.filters["seconds"] = numbers.write_duration
    made.filters["count_of"] = numbers.count_of
    made.filters["filename"] = lambda path: PurePosixPath(path.replace("\\", "/")).name
    made.globals["read_script"] = lambda name: Markup(_read_script(made, name))
    made.globals["script_hashes"] = lambda: Markup(
        " ".join(_write_hash(_read_script(made, name)) for name in SCRIPTS)
    )
    return made


def _show_value(value: Any) -> Any:
    return show_text(value) if type(value) is str else value


def _read_script(environment: jinja2.Environment, name: str) -> str:
    # A browser takes every end of a line for \n before it computes the hash.
    assert environment.loader is not None, "it is made with one"
    return environment.loader.get_source(environment, name)[0].replace("\r\n", "\n")


def _write_hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def write_data_uri(data: bytes, kind: str) -> str:
    """Return a picture as the address that stands in for it inside a page.

    Args:
        data: the file's bytes.
        kind: ``png``, ``jpeg`` or ``svg+xml``.
    """
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
