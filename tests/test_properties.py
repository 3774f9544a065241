"""What holds for every input of a form that has a grammar, shown on examples that hypothesis finds.

Words ``key=value`` with their lists, JSON, tables, split files: each is read back as it was
written, or refused with one message.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shlex
import tempfile
import typing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clip_adapt.cli import words
from clip_adapt.config import options, values, yamls
from clip_adapt.config.run_options import RunOptions
from clip_adapt.config.values import TypedText
from clip_adapt.data.sources import _table, coop_split
from clip_adapt.errors import InputError, shorten
from clip_adapt.runs.configuration import _write_value
from clip_adapt.system import reading
from clip_adapt.system.files import locate_resource
from clip_adapt.system.text import csv_text

# Without a deadline (machines differ), from a fixed seed, and without a folder of examples.
few = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=60,
    suppress_health_check=list(HealthCheck),
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
DEFAULTS = yamls.read_yaml(locate_resource("configs") / "train.yaml")
SCHEMA = {
    key: options.Option(option.annotation, DEFAULTS[key])
    for key, option in options.read_fields(RunOptions).items()
}


@few
@given(st.lists(st.text(max_size=30) | st.sampled_from(["a=1", "seed=2", "x"]), max_size=4))
def test_any_words_are_read_or_refused(argv):
    with contextlib.suppress(InputError):
        found, checked = words.read_words(argv, SCHEMA)
        assert set(found) <= set(argv) and checked.keys() == SCHEMA.keys()


@few
@given(st.sampled_from(sorted(SCHEMA)), st.text(max_size=30) | trees.map(json.dumps))
def test_any_value_fits_its_option_or_is_refused(key, text):
    checked, problems = options.validate({key: TypedText(text)}, {key: SCHEMA[key]})
    assert len(problems) == (key not in checked)


@few
@given(st.lists(names, max_size=5))
def test_a_list_of_names_on_a_command_line_is_that_list(given_names):
    # As config.yaml writes a command; JSON is YAML, and a shell takes it as one word.
    word = f"classes={_write_value(given_names)}"
    (back,) = shlex.split(shlex.join([word]))
    _, given = words.split_words([back])
    assert values.check(given["classes"], list[str]) == given_names


@few
@given(trees)
def test_a_tree_is_read_back_from_yaml(tree):
    assert yamls.parse_yaml(yamls.dump_yaml({"value": tree})) == {"value": tree}


@few
@given(trees)
def test_a_tree_is_read_back_from_json(tree):
    assert reading.parse_json(json.dumps(tree), "it") == tree


@few
@given(st.binary(max_size=60) | texts.map(str.encode) | trees.map(lambda t: json.dumps(t).encode()))
def test_any_file_is_json_or_refused(data):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.json"
        file.write_bytes(data)
        with contextlib.suppress(InputError):
            reading.read_json(file)


@few
@given(st.lists(st.lists(texts, min_size=2, max_size=2), min_size=1, max_size=5))
def test_a_table_that_is_written_is_read_back(rows):
    text = csv_text.write_table(rows)
    assert list(csv_text.read_table(io.StringIO(text, newline=""))) == rows


@few
@given(
    st.lists(st.tuples(names, names), min_size=1, max_size=5),
    st.sampled_from(_table.DELIMITERS),
    st.sampled_from(["utf-8", "utf-16", "utf-8-sig", "utf-32"]),
)
def test_class_names_come_through_a_users_table(rows, delimiter, encoding):
    rows = [(f"{i}{image}", f"{label}.") for i, (image, label) in enumerate(rows)]
    held = io.StringIO(newline="")
    csv.writer(held, delimiter=delimiter).writerows([("image", "label"), *rows])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "t.csv"
        file.write_bytes(held.getvalue().encode(encoding))
        table = _table.read_table(file, encoding, delimiter)
    assert [tuple(row.values()) for row in table.rows] == rows


@few
@given(st.binary(max_size=80), st.sampled_from(["utf-8", "utf-16", "cp1252", "utf-7", "shift_jis"]))
def test_any_bytes_are_a_table_or_refused(data, encoding):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "t.csv"
        file.write_bytes(data)
        with contextlib.suppress(InputError):
            _table.read_table(file, encoding)


@few
@given(
    trees
    | st.fixed_dictionaries(
        {"train": st.lists(trees, max_size=3), "test": st.lists(trees, max_size=3)},
        optional={"val": trees},
    )
)
def test_any_tree_is_a_split_or_refused(tree):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "split_zhou_x.json"
        file.write_text(json.dumps(tree), encoding="utf-8")
        with contextlib.suppress(InputError):
            rows = coop_split._read_rows(file)
            assert set(rows) == {"train", "val", "test"}


@few
@given(st.lists(st.tuples(names, names), min_size=1, max_size=6, unique_by=lambda row: row[1]))
def test_a_split_file_is_read_back(pairs):
    rows = [(f"a/{image}", label, name) for label, (image, name) in enumerate(pairs)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "split_zhou_x.json"
        file.write_text(json.dumps({"train": rows, "test": rows}), encoding="utf-8")
        with contextlib.suppress(InputError):  # a name may lead out of the folder
            read = coop_split._read_rows(file)
            assert read == {"train": rows, "val": [], "test": rows}
            assert coop_split._list_classes(read, file) == [name for _, name in pairs]


@few
@given(st.text(max_size=60), st.integers(1, 30))
def test_what_is_shortened_begins_as_it_was(text, limit):
    for short, line in zip(shorten(text, limit).split("\n"), text.split("\n"), strict=True):
        assert short == line or short.startswith(line[:limit])
        assert len(short) <= limit + len(f" ... ({len(line)} characters more)")


@pytest.mark.parametrize("key", sorted(SCHEMA))
@settings(few, max_examples=8)
@given(value=trees)
def test_a_checked_value_is_checked_to_itself(key, value):
    with contextlib.suppress(ValueError):
        once = values.check(value, SCHEMA[key].annotation)
        assert values.check(once, SCHEMA[key].annotation) == once
        assert typing.get_origin(SCHEMA[key].annotation) is not None or once is not None
