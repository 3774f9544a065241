"""Folders of finished runs, for ``report``: each of the files that a page is made from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random

import yaml

from tools.torture import examples
from tools.torture.judging import Call, make_call
from tools.torture.kind import Kind
from tools.torture.mutation import HOSTILE, mutate_bytes, mutate_tree, write_json, write_yaml

FILES = ("metrics.json", "config.yaml", "predictions.csv", "support.jsonl")


def prepare(folder: Path) -> Path:
    """Make a finished run, with every file that a run may leave."""
    run = examples.write_run(folder)
    (run / "near_duplicates.csv").write_text(
        "path,split,other,other_split,bits\na.png,train,b.png,test,3\n", encoding="utf-8"
    )
    return run


def attack(random: Random, valid: Path, place: Path) -> Call:
    """Mutate one or two files of the run."""
    run = place / "runs" / "mine"
    shutil.copytree(valid, run)
    for name in random.sample((*FILES, "near_duplicates.csv"), random.choice((1, 1, 2))):
        _spoil(random, run / name)
    words = [str(run)] if random.random() < 0.7 else [str(place / "runs")]
    return make_call("report", *words, *["all=true"] * (random.random() < 0.3))


def _spoil(random: Random, path: Path) -> None:
    data = path.read_bytes()
    way = random.random()
    if way < 0.05:
        path.unlink()
    elif way < 0.5 or path.suffix == ".csv":
        path.write_bytes(_spoil_cell(random, data) if way > 0.8 else mutate_bytes(random, data))
    elif path.suffix == ".yaml":
        path.write_bytes(write_yaml(mutate_tree(random, yaml.safe_load(data))))
    elif path.suffix == ".jsonl":
        rows = mutate_tree(random, [json.loads(line) for line in data.splitlines()])
        rows = rows if isinstance(rows, list) else [rows]
        path.write_bytes(b"\n".join(write_json(row) for row in rows))
    else:
        path.write_bytes(write_json(mutate_tree(random, json.loads(data))))


def _spoil_cell(random: Random, data: bytes) -> bytes:
    rows = [line.split(b",") for line in data.splitlines()]
    row = random.choice(rows)
    row[random.randrange(len(row))] = str(random.choice(HOSTILE)).encode("utf-8", "replace")
    return b"\n".join(b",".join(row) for row in rows)


RUNS = Kind("runs", prepare, attack)
