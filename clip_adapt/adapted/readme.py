"""The README.md beside a delta: what it is, how good it is, how it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clip_adapt.adapted import lookup
from clip_adapt.system.text.showing import write_code, write_markdown

if TYPE_CHECKING:
    from clip_adapt.adapted.header import Header


def write_card(
    header: Header,
    licence: str | None,
    command: str,
    rows: Sequence[tuple[str, str, str]],
    notes: Sequence[str] = (),
) -> str:
    """Return the card as Markdown with the front matter that the hub reads.

    Args:
        header: of the delta.
        licence: of the training images.
        command: what makes the delta anew.
        rows: a metric each: its name, zero-shot, and what the delta gives.
        notes: what a reader of the numbers should know.
    """
    task = header.task
    method, backbone = (write_markdown(part["name"]) for part in (header.method, header.backbone))
    drawn = f"{task['shots']} shots" if task["classes"] else "trained on captions"
    kind = "image-classification" if task["classes"] else "zero-shot-image-classification"
    return "\n".join(
        [
            "---",
            "library_name: clip-adapt",
            f"pipeline_tag: {kind}",
            "tags: [clip, few-shot, clip-adapt]",
            "---",
            "",
            f"# {method} on {write_markdown(header.dataset)}, {drawn}",
            "",
            "A small delta for a frozen CLIP, made with clip_adapt. It holds what was trained and "
            "nothing else; the backbone's weights are not in it.",
            "",
            "    import clip_adapt",
            f'    model = clip_adapt.load("path/of/this/folder"{_name_model(header)})',
            *_show_use(task),
            "",
            f"- Backbone: {backbone} at {header.backbone['image_size']} pixels, "
            f"fingerprint `{header.backbone['fingerprint'][:16]}`",
            f"- Method: {method} {write_code(header.method['options'])}",
            f"- Classes: {_list_names(task['classes']) or 'none; give some with for_classes'}",
            f"- Prompts: {task['prompts']}; templates {write_code(task['templates'])}",
            f"- Licence of the training images: {write_markdown(licence or 'not stated')}",
            f"- Support set: sha256 `{header.support_sha256[:16]}`, seed {task['seed']}",
            f"- Made by: {write_code(command)}",
            *(f"- Note: {write_markdown(' '.join(note.split()))}" for note in notes),
            "",
            *_write_table(rows),
            "",
            "Measured once on the test split, which chose nothing. This is no medical device.",
            "",
        ]
    )


def _list_names(classes: Sequence[str]) -> str:
    return ", ".join(map(write_markdown, classes))


def _name_model(header: Header) -> str:
    return "" if lookup.ships(header.backbone) else ', model="where its backbone is"'


def _show_use(task: dict[str, Any]) -> list[str]:
    if task["classes"]:
        return ['    model.predict("photo.jpg", top_k=3)']
    return [
        '    model.encode_image(pixels) @ model.encode_text(["a caption"]).T',
        '    model.for_classes(["cat", "dog"]).predict("photo.jpg")',
    ]


def _write_table(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    if not rows:
        return []
    head = ["| | zero-shot | this delta |", "|---|---|---|"]
    return head + [f"| {' | '.join(map(write_markdown, row))} |" for row in rows]
