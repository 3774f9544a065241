"""python -m clip_adapt.predict: a delta, or class names alone, on images."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated, Literal

from clip_adapt import cli
from clip_adapt.config import options
from clip_adapt.config.options import Between
from clip_adapt.errors import InputError

SUFFIX = ".safetensors"  # of a delta's file


def run(
    words: list[str],
    *,
    top_k: Annotated[int, Between(1)] = 5,
    score: Literal["lac", "aps"] = "lac",
    json: bool = False,
    classes: list[str] | None = None,
    template: str | None = None,
    templates: list[str] | None = None,
    model: str = "lite",
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    method_file: str | None = None,
) -> None:
    """Classify images and print a table, or a line of JSON each.

    ``words`` are the delta and the images, only images when ``classes`` are given; the options are
    described in configs/predict.yaml.

    Raises:
        InputError: when the delta or an image cannot be used; all unreadable images are listed.
    """
    from clip_adapt.api import load, zero_shot
    from clip_adapt.data import decoding

    adapter, paths = _parted(words, classes)
    if not paths:
        raise InputError(
            "expected images: predict ADAPTER photo.jpg ..., or predict photo.jpg ... "
            'classes="[cat, dog]"'
        )
    decoding.refuse_broken(decoding.find_broken(paths), remedy="Repair or remove them.")
    prompts = templates or ([template] if template is not None else None)
    if adapter:
        model_ = load(adapter[0], method_file=method_file, device=device, precision=precision)
        if classes is not None:
            model_ = model_.for_classes(classes, prompts)
    else:
        assert classes is not None, "without a delta there are classes"
        model_ = zero_shot(
            classes,
            template=prompts or ["a photo of a {}."],
            model=model,
            device=device,
            precision=precision,
        )
    for path, row in zip(paths, model_.rows(paths), strict=True):
        ranking = model_.ranking(row, top_k)
        chosen = model_.set_of(row, score) if model_.conformal else None
        if json:
            best = [{"class": name, "probability": p} for name, p in ranking]
            sets = {} if chosen is None else {"set": [name for name, _ in chosen]}
            line = {"path": path, "predictions": best, **sets}
            print(jsonlib.dumps(line, ensure_ascii=False))
        else:
            cli.show_ranking(path, ranking)
            if chosen is not None and model_.conformal:
                cli.show_set(chosen, 1 - model_.conformal["alpha"])


def _parted(words: list[str], classes: list[str] | None) -> tuple[list[str], list[str]]:
    # The delta, if one is given, and the images. With classes only a folder, or a delta's file,
    # is one; without, the first word is.
    if classes is None or (words and (Path(words[0]).is_dir() or words[0].endswith(SUFFIX))):
        return words[:1], words[1:]
    return [], words


def main(argv: list[str]) -> int:
    """Run the command line; see ``--help``."""
    positional, given = cli.split(argv)
    checked, problems = options.validate(given, options.of_signature(run))
    if checked.get("template") is not None and checked.get("templates") is not None:
        problems.append("template and templates are both given: keep one of them")
    if problems:
        raise InputError("\n".join(problems))
    run(positional, **checked)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("predict", sys.argv[1:]))
