"""Templates and pictures inside a page."""

from __future__ import annotations

import base64
from functools import cache

import jinja2

from clip_adapt.pages import found, numbers


@cache
def make_environment() -> jinja2.Environment:
    """Return what renders the templates; every value is escaped."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("clip_adapt.pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["list_facts"] = found.list_facts
    made.filters["bytes"] = numbers.write_size
    made.filters["seconds"] = numbers.write_duration
    return made


def write_data_uri(data: bytes, kind: str) -> str:
    """Return a picture as the address that stands in for it inside a page.

    Args:
        data: the file's bytes.
        kind: ``png``, ``jpeg`` or ``svg+xml``.
    """
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
