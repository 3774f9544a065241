"""What a notebook shows of a classifier: a line, and a table with a link to the run's page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from clip_adapt.adapted.header import Header
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.method.contract import Method
from clip_adapt.system.run_files import PAGE
from clip_adapt.system.text.showing import show_line

FEW = 5  # classes that are named


class Adapted(Protocol):
    """What is shown of a classifier; ``classifier.Classifier`` describes each."""

    backbone: Backbone
    method: Method
    classes: list[str]
    header: Header | None
    folder: Path | None
    metrics: dict[str, Any] | None


def describe_line(model: Adapted) -> str:
    """Return what a classifier is: method, data set, classes, backbone, first metric on test."""
    first = _list_measured(model, "test")[:1]
    said = "".join(f"; test {_write_name(name)} {_write(found)}" for name, found in first)
    return show_line(f"Classifier({_describe_short(model)}{said})")


def write_table(model: Adapted) -> str:
    """Return the same as HTML, with all metrics and a link to the page; everything is escaped."""
    before = dict(_list_measured(model, "zero_shot"))
    rows = "".join(
        f"<tr><td>{_show(_write_name(name))}</td><td>{_show(_write(before.get(name)))}</td>"
        f"<td>{_show(_write(found))}</td></tr>"
        for name, found in _list_measured(model, "test")
    )
    head = "<tr><th>on test images</th><th>zero-shot</th><th>adapted</th></tr>"
    table = f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>" if rows else ""
    return f"<div><p>{_show(_describe_short(model))}</p>{table}{_link_page(model.folder)}</div>"


def _describe_short(model: Adapted) -> str:
    return f"{_name_method(model)}; {_count_classes(model)}; backbone {model.backbone.card.name}"


def _name_method(model: Adapted) -> str:
    if model.header is None:
        plain = type(model.method) is Method
        return "zero-shot" if plain else type(model.method).__name__
    data = f" on {model.header.dataset}" if model.header.dataset else ""
    shots = f", {model.header.task['shots']} shots" if model.header.task.get("shots") else ""
    return f"{model.header.method['name']}{data}{shots}"


def _count_classes(model: Adapted) -> str:
    if not model.classes:
        return "no classes: give some with for_classes"
    named = ", ".join(model.classes[:FEW])
    more = ", ..." if len(model.classes) > FEW else ""
    return f"{len(model.classes)} classes: {named}{more}"


def _list_measured(model: Adapted, kind: str) -> list[tuple[str, Mapping[str, Any]]]:
    measured = (model.metrics or {}).get(kind)
    found = measured.items() if isinstance(measured, Mapping) else ()
    return [(name, value) for name, value in found if isinstance(value, Mapping)]


def _write_name(name: str) -> str:
    return name.replace("_", " ")


def _write(found: Mapping[str, Any] | None) -> str:
    # A value with its interval, as numbers stand in metrics.json.
    if found is None or found.get("value") is None:
        return "not defined"
    low, high = found.get("low"), found.get("high")
    interval = f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else ""
    return f"{found['value']:.3f}{interval}"


def _link_page(folder: Path | None) -> str:
    page = None if folder is None else folder / PAGE
    if page is None or not page.is_file():
        return ""
    try:
        place = os.path.relpath(page)  # a notebook may be opened from another machine's browser
    except ValueError:  # another drive of Windows
        place = str(page)
    return f'<p><a href="{escape(quote(Path(place).as_posix()))}">{_show(page)}</a></p>'


def _show(text: object) -> str:
    return escape(show_line(text))
