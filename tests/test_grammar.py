"""Laws of every form that has a grammar: what is written reads back as it was, whatever it says."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import re
import subprocess
from dataclasses import asdict

import pytest
import torch
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st

from clip_adapt.adapted.header import Header, parse_header, write_header
from clip_adapt.cli.words import read_options
from clip_adapt.config import values
from clip_adapt.config.cards import DataCard
from clip_adapt.config.plain_yaml import dump_plain, load_plain
from clip_adapt.data.items import Context, Item
from clip_adapt.data.sources import coop_split, folder
from clip_adapt.errors import InputError
from clip_adapt.evaluation.classification import write_predictions
from clip_adapt.pages.facts import Facts
from clip_adapt.runs.configuration import compose
from clip_adapt.system.structures import is_plain, join_tensors, split_tensors
from clip_adapt.system.text import csv_text, showing

MANY = settings(max_examples=100, deadline=None, derandomize=True, database=None)
SOME = settings(MANY, max_examples=50)

# What a form may trip over is drawn often: among all characters it would hardly ever come up.
SIGNS = "=+-@'\"\\,;:#&*!|>%{}[]()<>?~`$ \t\r\n\x0b\x0c\x1b\x7f\x85\u2028\u202e\ufeff\ufffe＝0é日🙂"
MARKS = st.sampled_from(SIGNS) | st.characters(codec="utf-8")
TEXTS = st.text(MARKS, max_size=12) | st.sampled_from(
    ["null", "~", "true", "yes", "1e3", "1_0", "0x1", "1:30", ".inf", "NaN", "2026-01-01", "<<",
     "---", "...", "- a", "a: b", "a #b", "${oc.env:HOME}", "!!set", "&a", "*a", "'=1", "-5"]
)  # fmt: skip
NUMBERS = st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXTS


def nest(leaves, keys=TEXTS):
    """Return a strategy of values, and of lists and maps of them."""
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=8,
    )


def same(one, other):
    """Tell whether two values are equal and of equal types, -0.0 and NaN told from the rest."""
    return type(one) is type(other) and repr(one) == repr(other)


@MANY
@given(nest(LEAVES))
@example({"\x85": "\u2028"})
def test_plain_values_read_back_from_yaml(value):
    assert same(load_plain(dump_plain({"value": value})), {"value": value})


@MANY
@given(st.lists(st.lists(TEXTS, min_size=1, max_size=4), max_size=4))
def test_a_table_of_any_texts_reads_back_and_computes_nothing(rows):
    written = csv_text.write_table(rows)
    assert list(csv_text.read_table(io.StringIO(written, newline=""))) == rows
    for row in csv.reader(io.StringIO(written, newline="")):
        for cell in row:
            number = re.fullmatch(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?", cell)
            assert number or not cell.startswith(tuple("=+-@\t\r\n＝＋－＠"))


@SOME
@given(st.lists(TEXTS, min_size=2, max_size=5, unique=True), st.randoms(use_true_random=False))
def test_predictions_of_classes_of_any_name_read_back(tmp_path_factory, classes, random):
    out = tmp_path_factory.getbasetemp() / "predictions"
    out.mkdir(exist_ok=True)
    items = [Item(f"{random.choice(classes)}.png", i % len(classes)) for i in range(4)]
    shares = torch.tensor([[random.random() for _ in classes] for _ in items]).double()
    written = write_predictions(shares, items, classes)
    (out / "predictions.csv").write_text(written, encoding="utf-8", newline="")
    read = Facts(out, {}, {}, "").predictions()
    assert (read.paths, read.classes) == ([item.path for item in items], classes)
    assert read.labels.tolist() == [item.label for item in items]
    assert read.probabilities.tolist() == shares.tolist()


NAMES = TEXTS.filter(lambda text: text.strip() and "\0" not in text)
HEADERS = st.builds(
    Header,
    method=st.fixed_dictionaries({"name": TEXTS, "options": st.dictionaries(TEXTS, nest(LEAVES))}),
    backbone=st.fixed_dictionaries(
        {"name": TEXTS, "architecture": TEXTS, "fingerprint": TEXTS,
         "image_size": st.integers(8, 4096), "licence": st.none() | TEXTS},
    ),
    task=st.fixed_dictionaries(
        {"classes": st.lists(NAMES, min_size=2, max_size=4, unique=True),
         "templates": st.lists(TEXTS.map("{}".__add__), min_size=1, max_size=3),
         "descriptions": st.dictionaries(TEXTS, st.lists(TEXTS, max_size=2), max_size=2),
         "shots": st.integers(0, 100)},
    ),
    transform=st.fixed_dictionaries(
        {"size": st.integers(1, 999), "mean": st.lists(st.floats(0, 1), min_size=3, max_size=3),
         "std": st.lists(st.floats(0.1, 1), min_size=3, max_size=3),
         "interpolation": TEXTS, "resize_mode": TEXTS, "fill_color": st.integers(0, 255)},
    ),
    dataset=TEXTS,
    temperature=st.floats(1e-6, 1e6),
    guard=st.floats(0, 1),
    metrics=st.none()
    | st.dictionaries(
        TEXTS,
        st.dictionaries(TEXTS, st.dictionaries(TEXTS, st.none() | st.floats(-1, 1), max_size=2)),
        max_size=2,
    ),
    versions=st.none() | st.dictionaries(TEXTS, TEXTS, max_size=2),
)  # fmt: skip


@SOME
@given(HEADERS)
def test_a_header_reads_back(header):
    read = parse_header(write_header(header), "a.safetensors")
    assert asdict(read) == asdict(header)
    assert list(read.to_task().classes) == header.task["classes"]


TENSORS = st.builds(
    lambda shape, kind: torch.arange(math.prod(shape)).reshape(shape).to(kind),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool]),
)
PARTS = LEAVES | st.floats() | st.integers()
SEEDS = st.integers(0, 2**32)
STATES = st.recursive(
    PARTS | TENSORS | st.builds(lambda seed: torch.Generator().manual_seed(seed), SEEDS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(
            PARTS | st.tuples(PARTS) | st.sampled_from(["kind", "items", "tensor"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


def describe(value):
    """Return a text of a state that two equal ones share: types, bytes, order."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)} {value.tolist()}"
    if isinstance(value, torch.Generator):
        return f"generator {value.get_state().tolist()}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{describe(k)}: {describe(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(map(describe, value))})"
    return f"{type(value).__name__} {value!r}"


@MANY
@given(STATES)
def test_a_state_splits_into_json_and_tensors_and_is_joined_again(state):
    assert is_plain(state)
    tensors = {}
    text = json.dumps(split_tensors(state, tensors))
    assert describe(join_tensors(json.loads(text), tensors)) == describe(state)


KEYS = st.from_regex(r"[a-z_][a-z0-9_]{0,5}(\.[a-z_][a-z0-9_]{0,5}){0,2}", fullmatch=True)


@MANY
@given(st.dictionaries(KEYS, TEXTS, max_size=4))
def test_texts_of_a_command_line_are_taken_as_they_are(texts):
    read = read_options([f"{key}={text}" for key, text in texts.items()])
    assert {key: values.check(value, str) for key, value in read.items()} == texts


@MANY
@given(KEYS, nest(LEAVES))
def test_values_of_a_command_line_read_back_from_json(key, value):
    read = read_options([f"{key}={showing.write_json(value)}"])
    assert same(values.check(read[key], values.Any), value)


QUOTED = st.text(st.characters(exclude_characters="'\"\\", codec="utf-8", categories=["L", "N"]))


@MANY
@given(st.lists(QUOTED.filter(lambda text: isinstance(values.parse(text), str) and text)))
def test_lists_are_typed_with_and_without_quotes(names):
    for quote in ("", "'", '"'):
        typed = "[" + ", ".join(f"{quote}{name}{quote}" for name in names) + "]"
        assert values.check(values.TypedText(typed), list[str]) == names


def read_by_a_shell(line):
    """Return the words of a line as bash takes them."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    script = f"printf '%s\\0' {line}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True, env=environment)
    return os.fsdecode(done.stdout).split("\0")[:-1]


WORDS = TEXTS.map(lambda text: text.replace("\0", "")) | st.binary(max_size=8).map(
    lambda data: os.fsdecode(data.replace(b"\0", b""))
)


@SOME
@given(st.lists(WORDS, min_size=1, max_size=4))
def test_any_words_are_one_visible_line_that_a_shell_reads(words):
    line = showing.write_command(words)
    assert showing.is_plain(line)
    assert read_by_a_shell(line) == words


@pytest.fixture(scope="module")
def pictures(make_folder, tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("grammar") / "pictures", per_class=2)


@SOME
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "templates": st.lists(TEXTS.map("{}".__add__), min_size=1, max_size=3),
            "dataset.classes": st.dictionaries(st.sampled_from(["cat", "dog"]), TEXTS, min_size=1),
            "dataset.descriptions": st.dictionaries(TEXTS, st.lists(TEXTS, min_size=1), max_size=2),
            # Where null is a value, that word is no text.
            "dataset.licence": TEXTS.filter(lambda text: text.lower() not in ("null", "~", "none")),
            "lr": st.floats(1e-9, 10),
            "seed": st.integers(0, 2**31),
            "shots": st.integers(1, 64),
            "tensorboard": st.booleans(),
            "clip_norm": st.none() | st.floats(1e-3, 10),
        },
    )
)
def test_the_command_of_a_run_gives_the_run_again(pictures, chosen):
    usual = {"method": "linear_probe", "dataset": str(pictures), "model": "lite"}
    try:
        config = compose({**usual, **chosen})
    except InputError:
        reject()
    words = read_by_a_shell(config.command)
    assert words[:3] == ["python", "-m", "clip_adapt.train"]
    assert compose(read_options(words[3:])).resolved() == config.resolved()


@pytest.mark.parametrize("number", [math.nan, -math.inf, 10**5000], ids=["nan", "inf", "digits"])
def test_a_number_that_cannot_be_written_down_is_refused_before_training(pictures, number):
    given = {"method": "lora", "dataset": str(pictures), "method.peft_options": {"r": [number]}}
    with pytest.raises(InputError, match=r"method\.peft_options holds a number that cannot be"):
        compose(given)


CLASSES = st.lists(TEXTS, min_size=2, max_size=4, unique=True)


@SOME
@given(CLASSES, st.booleans())
def test_a_split_file_of_any_class_names_is_read(pictures, classes, plain):
    rows = [[f"train/cat/{i % 2}.png", i % len(classes), ""] for i in range(2 * len(classes))]
    rows = [[path, label, classes[label]] for path, label, _ in rows]
    file = pictures / "split_zhou_any.json"
    text = json.dumps({"train": rows, "val": [], "test": rows[::-1]}, ensure_ascii=plain)
    file.write_text(text, encoding="utf-8")
    card = DataCard("any", "coop_split")
    read = coop_split.read(card, Context(pictures), file=str(file), images=[str(pictures)])
    assert read.classes == classes
    assert [item.label for item in read.train] == [label for _, label, _ in rows]
    assert [item.label for item in read.test] == [label for _, label, _ in rows[::-1]]


FOLDERS = TEXTS.filter(lambda text: text and text[0] != "." and not {"/", "\0"} & {*text})


@SOME
@given(st.lists(FOLDERS, min_size=2, max_size=4, unique=True))
def test_class_folders_of_any_name_are_read(tmp_path_factory, names):
    top = tmp_path_factory.mktemp("folders")
    for split, name in itertools.product(("train", "test"), names):
        (top / split / name).mkdir(parents=True)
        (top / split / name / "1.png").touch()
    read = folder.read(DataCard("any", "folder"), Context(top), root=str(top))
    assert read.classes == sorted(names)
    assert [read.classes[item.label] for item in read.test] == sorted(names)
