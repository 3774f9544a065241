"""The README.md beside a delta: what it is, how good it is, how it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clip_adapt.adapted.delta import Header

PERCENT = ("accuracy", "balanced_accuracy", "macro_f1", "ece", "coverage")


def write(header: Header, licence: str | None, command: str) -> str:
    """Return the card as Markdown with the front matter that the hub reads."""
    task = header.task
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
            f"# {header.method['name']} on {header.dataset}, {drawn}",
            "",
            "A small delta for a frozen CLIP, made with clip_adapt. It holds what was trained and "
            "nothing else; the backbone's weights are not in it.",
            "",
            "    import clip_adapt",
            '    model = clip_adapt.load("path/of/this/folder")',
            *_classifies(task),
            "",
            f"- Backbone: {header.backbone['name']} at {header.backbone['image_size']} pixels, "
            f"fingerprint `{header.backbone['fingerprint'][:16]}`",
            f"- Method: {header.method['name']} {header.method['options']}",
            f"- Classes: {', '.join(task['classes']) or 'none; give some with for_classes'}",
            f"- Prompts: {task['prompts']}; templates {task['templates']}",
            f"- Licence of the training images: {licence or 'not stated'}",
            f"- Support set: sha256 `{header.support_sha256[:16]}`, seed {task['seed']}",
            f"- Made by: `{command}`",
            "",
            *_table(header.metrics or {}),
            "",
            "Measured once on the test split, which chose nothing. This is no medical device.",
            "",
        ]
    )


def _classifies(task: dict[str, Any]) -> list[str]:
    if task["classes"]:
        return ['    model.predict("photo.jpg", top_k=3)']
    return [
        '    model.encode_image(pixels) @ model.encode_text(["a caption"]).T',
        '    model.for_classes(["cat", "dog"]).predict("photo.jpg")',
    ]


def _table(metrics: dict[str, Any]) -> list[str]:
    if not metrics:
        return []
    rows = ["| | zero-shot | this delta |", "|---|---|---|"]
    for name, row in metrics["test"].items():
        ours, base = shown(name, row), shown(name, metrics["zero_shot"][name])
        rows.append(f"| {name} | {base} | {ours} |")
    return rows


def shown(name: str, row: dict[str, float | None]) -> str:
    """Return ``49.1 % (45.2 to 53.0)`` or ``0.912 (0.901 to 0.923)``: value and 95 % interval."""
    if row["value"] is None:
        return "not defined"
    scale, digits, unit = (100, 1, " %") if name in PERCENT or "recall@" in name else (1, 3, "")
    numbers = (round(scale * (row[k] or 0), digits) + 0.0 for k in ("value", "low", "high"))
    value, low, high = (f"{number:.{digits}f}" for number in numbers)  # + 0.0: no minus zero
    return f"{value}{unit} ({low} to {high})"
