"""Tables of images, cards of data and models, and split files: what a data set is made from."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tools.torture import examples
from tools.torture.judging import Call, make_call
from tools.torture.kind import Kind
from tools.torture.mutation import BOMB, mutate_bytes, mutate_tree, write_json, write_yaml

ENCODINGS = ("utf-8", "utf-16", "cp1252", "latin-1", "zip", "hex", "rot13", "idna", "punycode", "",
             "\0", "raw_unicode_escape", "utf_8_sig", "base64", "undefined", "unicode_escape",
             "utf-7", "mbcs", "x" * 300)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Pictures and a tiny model that every attack of a data set uses."""

    pictures: Path
    names: list[str]
    model: Path

    def train(self, dataset: str, *more: str) -> Call:
        """Return the call of a short run."""
        words = (f"dataset={dataset}", f"model={self.model}", "method=zero_shot", "shots=1")
        return make_call("train", *words, "output=out", *examples.QUICK, *more)


def prepare(folder: Path) -> Place:
    """Write the pictures and the model."""
    names = examples.write_pictures(folder / "pictures", per_class=6)
    return Place(folder / "pictures", names, examples.write_model(folder / "model"))


def attack_table(random: Random, valid: Place, place: Path) -> Call:
    """Mutate the bytes or the cells of a table, and now and then the options that read it."""
    rows = _list_rows(random, valid)
    whole = _write_table(random, rows)
    if random.random() < 0.5:
        data = _write_table(random, mutate_tree(random, rows))
    else:
        data = mutate_bytes(random, whole, [whole, whole.decode().encode("utf-16")])
    path = place / random.choice(("t.csv", "t.tsv"))
    path.write_bytes(data)
    more = [f"dataset.root={valid.pictures}"]
    if random.random() < 0.2:
        more.append(f"dataset.encoding={random.choice(ENCODINGS)}")
    if random.random() < 0.1:
        more.append(f"dataset.delimiter={random.choice((',', '', 'ab', chr(0), chr(10), chr(34)))}")
    if random.random() < 0.1:
        more.append(f"dataset.label={random.choice(('label', 'image', '', 'x' * 300, 'group'))}")
    return valid.train(str(path), *more)


def attack_split(random: Random, valid: Place, place: Path) -> Call:
    """Mutate the bytes or the tree of a split file."""
    rows = [[name, i % 3, examples.CLASSES[i % 3]] for i, name in enumerate(sorted(valid.names))]
    rows.sort(key=lambda row: int(Path(row[0]).stem))
    rows = [[name, examples.CLASSES.index(name[:3]), name[:3]] for name, _, _ in rows]
    tree = {"train": rows[:9], "val": rows[9:12], "test": rows[12:]}
    path = place / "split_zhou_mine.json"
    if random.random() < 0.6:
        path.write_bytes(write_json(mutate_tree(random, tree)))
    else:
        path.write_bytes(mutate_bytes(random, json.dumps(tree).encode()))
    more = [f"dataset.images=[{valid.pictures}]"]
    return valid.train(str(path), *(more if random.random() < 0.9 else []))


def attack_card(random: Random, valid: Place, place: Path) -> Call:
    """Mutate the card of a data set or of a model."""
    data = {"name": "mine", "source": "folder", "root": str(valid.pictures),
            "classes": {"cat": "a cat", "dog": ["a dog", "hound"], "eel": "eel"},
            "templates": ["a photo of a {}.", "{} here"], "on_leak": "warn",
            "descriptions": {"a cat": ["furry"]}, "licence": "CC0", "get": "ask"}  # fmt: skip
    table = {"name": "mine", "source": "csv", "file": "t.csv", "label": "label", "image": "image",
             "root": str(valid.pictures), "encoding": "utf-8"}  # fmt: skip
    model = {"architecture": str(valid.model), "pretrained": None, "image_size": 32, "licence": "x"}
    (place / "t.csv").write_bytes(_write_table(random, _list_rows(random, valid)))
    tree = random.choice((data, data, table, model))
    path = place / "card.yaml"
    path.write_bytes(_spoil_yaml(random, tree))
    if tree is model:
        return valid.train(str(valid.pictures), f"model={path}")
    return valid.train(str(path))


def _spoil_yaml(random: Random, tree: Any) -> bytes:
    if random.random() < 0.01:
        return random.choice((BOMB, b"? " * 5000, b"{" * 100_000, b"a: &a [*a]", b"<<: *x"))
    if random.random() < 0.6:
        return write_yaml(mutate_tree(random, tree))
    return mutate_bytes(random, write_yaml(tree))


def _list_rows(random: Random, valid: Place) -> list[list[str]]:
    split = random.random() < 0.5
    head = ["image", "label", "group"] + ["split"] * split
    rows = [[name, name[:3], f"p{i}"] for i, name in enumerate(valid.names)]
    if split:
        rows = [[*row, ("train", "val", "test")[i % 3]] for i, row in enumerate(rows)]
    return [head, *rows]


def _write_table(random: Random, rows: Any) -> bytes:
    held = io.StringIO()
    writer = csv.writer(held, delimiter=random.choice(",,,;\t|"), lineterminator=os.linesep)
    for row in rows if isinstance(rows, list) else [rows]:
        cells = row if isinstance(row, list) else [row]
        writer.writerow([str(cell).replace("@deep@", "[" * 1000) for cell in cells])
    return held.getvalue().encode("utf-8", "surrogatepass")


TABLES = Kind("tables", prepare, attack_table)
SPLITS = Kind("splits", prepare, attack_split)
CARDS = Kind("cards", prepare, attack_card)
