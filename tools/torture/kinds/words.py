"""Command lines: every verb, its options, and values that none of them expects."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from random import Random

import yaml

from clip_adapt.config.run_options import RunOptions
from clip_adapt.system.files import locate_resource
from tools.torture import examples
from tools.torture.judging import Call, make_call
from tools.torture.kind import Kind
from tools.torture.mutation import HOSTILE

# What would take long, fetch, or write elsewhere when it is given on purpose.
DEAR = ("download", "data_dir", "cache_dir", "compile")
FREE_TEXT = [str(value) for value in HOSTILE if len(str(value)) < 30_000] + [
    *(
        "[",
        "]",
        "[[",
        "[a",
        "{a: 1",
        "{",
        "[a, b]",
        "[a,,b]",
        "[,]",
        "[a: b]",
        "!!python/none",
        "&a",
    ),
    *("-1", "1e400", ".inf", "-.inf", ".nan", "1" * 200, "-" + "1" * 200, "1_0", "0b1", "1:1:1"),
    *(
        "[" * 3000,
        "[" * 20_000,
        "*a",
        "? x",
        "a: b",
        "# x",
        "[1, [2, [3]]]",
        "2026-01-01",
        "|",
        ">",
    ),
    *("[" + ", ".join(f"class number {i}" for i in range(60)) + "]", "x" * 256, "/" + "y" * 4097),
    *("{1: 2}", "{a: {b: c}}", "[.inf]", "[" + "9" * 5000 + "]", "yes", "no", "on", "off", "~"),
]


@dataclass(frozen=True)
class Line:
    """Words that end well, by verb, the options of each, and values that are in the defaults."""

    lines: dict[str, list[str]]
    options: dict[str, list[str]]
    values: list[str]


def prepare(folder: Path) -> Line:
    """Make what the words name."""
    run = examples.write_run(folder)
    pictures, model = folder / "pictures", folder / "model"
    delta, picture = str(run / "adapter"), str(pictures / "cat" / "0.png")
    data = [f"dataset={pictures}", f"model={model}", "shots=1", "method=zero_shot", "output=out"]
    lines = {
        "train": [*data, *examples.QUICK],
        "sweep": [*data[:-1], "seed=[1, 2]", "output=out", *examples.QUICK],
        "evaluate": [delta, f"dataset={pictures}", f"model={model}"],
        "predict": [delta, picture, f"model={model}"],
        "report": [str(folder)],
    }
    options = {verb: _list_options(verb) for verb in lines}
    given = yaml.safe_load((locate_resource("configs") / "train.yaml").read_text())
    return Line(lines, options, [str(value) for value in given.values()])


def attack(random: Random, valid: Line, place: Path) -> Call:
    """Add, change, drop or swap one to three words of a line."""
    verb = random.choice(("train", "train", "predict", "evaluate", "sweep", "report"))
    line = list(valid.lines[verb])
    if verb == "predict" and random.random() < 0.4:
        line = [line[1], "classes=[cat, dog]", f"{valid.lines['train'][1]}"]
    for _ in range(random.choice((1, 1, 2, 3))):
        _spoil(random, line, verb, valid)
    if verb in ("train", "sweep"):
        line += ["epochs=1", "views=1", "iterations_per_shot=null"] * (random.random() < 0.8)
    # A word with a NUL byte cannot be typed: no system hands one over.
    line = [word.replace("\0", "") for word in line]
    (place / "words.json").write_text(json.dumps([verb, *line]), encoding="utf-8")
    return make_call(verb, *line)


def _spoil(random: Random, line: list[str], verb: str, valid: Line) -> None:
    value = random.choice(FREE_TEXT if random.random() < 0.7 else valid.values)
    at = random.randrange(len(line)) if line else 0
    match random.choice(
        ["option", "option", "option", "value", "value", "word", "drop", "twice", "cut", "key"]
    ):
        case "option":
            line.append(f"{random.choice(valid.options[verb])}={value}")
        case "value" if line and "=" in line[at] and not line[at].startswith("output"):
            line[at] = f"{line[at].partition('=')[0]}={value}"
        case "word":
            line.insert(at, value)
        case "drop" if line and not line[at].startswith(("output", "dataset")):
            del line[at]
        case "twice" if line:
            line.append(line[at])
        case "cut" if line and not line[at].startswith(("output", "dataset=")):
            line[at] = line[at][: random.randrange(len(line[at]) + 1)]
        case _:
            line.append(f"{value[:300]}=1")


def _list_options(verb: str) -> list[str]:
    if verb in ("train", "sweep"):
        own = [f.name for f in fields(RunOptions) if f.name not in DEAR]
        more = [
            "dataset.root",
            "dataset.classes",
            "dataset.source",
            "dataset.templates",
            "dataset.",
        ]
        more += ["model.architecture", "model.pretrained", "model.image_size", "method.alpha"]
        return [*own, *more, "dataset.name", "method.C", "dataset.a.b.c", "method", "jobs"]
    given = yaml.safe_load((locate_resource("configs") / f"{verb}.yaml").read_text())
    return [key for key in given if key not in DEAR]


WORDS = Kind("words", prepare, attack)
