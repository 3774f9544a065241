"""YAML comments as help texts, and typed options: what a value may be, what is said when not."""

from typing import Annotated, Any, Literal

import pytest

from clip_adapt.config import options, values, yamls
from clip_adapt.config.options import Option, validate
from clip_adapt.config.values import Between, TypedText, check, describe
from clip_adapt.errors import InputError


def written(tmp_path, text):
    path = tmp_path / "small.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_help_texts_are_the_comments_behind_the_keys(tmp_path):
    path = written(
        tmp_path,
        "# Opening.\n"
        "shots: 16        # images a class\n"
        "silent: 3\n"
        'map: {1: 50}     # by shots; "a # b" is text\n'
        "method:\n"
        "  n_ctx: 4       # vectors\n"
        "  quiet: 1\n"
        '  "on": both     # a key that YAML reads as a truth value without quotes\n'
        "after:           # no default\n",
    )
    texts = yamls.read_help_texts(path)
    assert list(texts) == ["shots", "map", "method.n_ctx", "method.on", "after"]
    assert texts["shots"] == ("16", "images a class")
    assert texts["map"][0] == "{1: 50}"
    assert texts["method.n_ctx"] == ("4", "vectors")
    assert texts["after"] == ("", "no default")


def test_the_opening_comment_ends_at_the_first_other_line(tmp_path):
    path = written(tmp_path, "# First line.\n#   indented\n#\nkey: 1\n# later\n")
    assert yamls.read_opening_comment(path) == ["First line.", "indented", ""]
    assert yamls.read_opening_comment(written(tmp_path, "key: 1\n")) == []


def test_a_mapping_survives_writing_and_reading(tmp_path):
    values = {"z": 1, "a": {"n": None, "list": [1, 2.5, "x: y"]}, "text": "123", "yes": True}
    path = written(tmp_path, yamls.dump_yaml(values))
    assert yamls.read_yaml(path) == values
    assert list(yamls.read_yaml(path)) == ["z", "a", "text", "yes"]


BOMB = "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\n", "is not valid YAML"),
        ("a: 1\na: 2\n", "is not valid YAML"),
        ("- 1\n- 2\n", "holds no mapping: expected lines of the form key: value"),
        ("a: !!python/name:os.system\n", "is not valid YAML"),
        ("a: !!set {b}\n", "is not valid YAML"),
        ("a: &a [*a]\n", "is not valid YAML"),
        (BOMB, "its aliases repeat too much"),
        ("[" * 100_000, "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_mapping_is_named(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        yamls.read_yaml(path)
    assert str(caught.value).startswith(f"{path} ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_and_a_missing_file_are_named(tmp_path):
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00a: 1")
    with pytest.raises(InputError, match="is not valid YAML"):
        yamls.read_yaml(path)
    with pytest.raises(InputError, match=r"none\.yaml cannot be read: No such file or directory"):
        yamls.read_yaml(tmp_path / "none.yaml")


Positive = Annotated[int, Between(1)]
Share = Annotated[float, Between(0, 1)]
Rate = Annotated[float, Between(0, strict=True)]


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (TypedText("4"), int, 4),
        (4, int, 4),
        (TypedText("-4"), int, -4),
        (TypedText("4"), float, 4.0),
        (4, float, 4.0),
        (TypedText("1e-3"), float, 0.001),
        (TypedText("2.0e-3"), float, 0.002),
        (TypedText("inf"), str, "inf"),
        (TypedText("true"), bool, True),
        (False, bool, False),
        (TypedText("123"), str, "123"),
        (TypedText("null"), str, "null"),
        (TypedText("a: b"), str, "a: b"),
        ("plain", str, "plain"),
        (TypedText("true"), str, "true"),
        (TypedText("cosine"), Literal["cosine", "linear"], "cosine"),
        (TypedText("1"), Literal["1", "2"], "1"),
        (TypedText("2"), Literal[1, 2], 2),
        (TypedText("null"), int | None, None),
        (TypedText("~"), int | None, None),
        (None, str | None, None),
        (TypedText("None"), str | None, None),
        (TypedText("7"), str | None, "7"),
        (TypedText("7"), int | None, 7),
        (TypedText("7"), str | int, 7),
        (TypedText("[1, 2]"), list[int], [1, 2]),
        (TypedText("[a, 'b c']"), list[str], ["a", "b c"]),
        ([1, 2], list[float], [1.0, 2.0]),
        (TypedText("[]"), list[int], []),
        (TypedText("{1: 50, 16: 200}"), dict[int, int], {1: 50, 16: 200}),
        ({"a": ["b"]}, dict[str, list[str]], {"a": ["b"]}),
        (TypedText("5"), int | dict[int, int], 5),
        (TypedText("{1: 5}"), int | dict[int, int], {1: 5}),
        (TypedText("1"), Positive, 1),
        (TypedText("1"), Share, 1.0),
        (TypedText("1e-9"), Rate, 1e-9),
        (TypedText("null"), Positive | None, None),
        (TypedText("{1: 2}"), Any, {1: 2}),
        ("as it is", Any, "as it is"),
    ],
)
def test_values_that_fit(value, annotation, expected):
    result = check(value, annotation)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (TypedText("four"), int, "a whole number"),
        (TypedText("4.0"), int, "a whole number"),
        (TypedText("true"), int, "a whole number"),
        (True, int, "a whole number"),
        (True, float, "a number"),
        (TypedText("nan"), float, "a number"),
        (float("nan"), float, "a number"),
        (TypedText(".nan"), float, "a number"),
        (TypedText(""), int, "a whole number"),
        (TypedText("null"), int, "a whole number"),
        (None, str, "text"),
        (TypedText("1"), bool, "true or false"),
        (1, bool, "true or false"),
        (TypedText("Cosine"), Literal["cosine", "linear"], "one of cosine, linear"),
        (TypedText("3"), Literal[1, 2], "one of 1, 2"),
        (TypedText("a"), list[int], "a list [a whole number, ...]"),
        ("ab", list[str], "a list [text, ...]"),
        (TypedText("[a]"), list[int], "a whole number"),
        (TypedText("5"), dict[int, int], "a map {a whole number: a whole number, ...}"),
        (TypedText("{a: 5}"), dict[int, int], "a whole number"),
        (TypedText("x"), int | dict[int, int], "a whole number or a map"),
        (TypedText("x"), int | None, "a whole number or null"),
        (TypedText("0"), Positive, "a whole number, at least 1"),
        (TypedText("1.1"), Share, "a number, at least 0 and at most 1"),
        (TypedText("0"), Rate, "a number, above 0"),
        (TypedText("0"), Positive | None, "a whole number, at least 1 or null"),
    ],
)
def test_values_that_do_not_fit_say_what_is_expected(value, annotation, expected):
    with pytest.raises(ValueError) as caught:
        check(value, annotation)
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(
    ("bound", "inside", "outside", "words"),
    [
        (Between(1), [1, 9], [0.9, -1], "at least 1"),
        (Between(0, strict=True), [1e-9], [0, -1], "above 0"),
        (Between(high=2), [-9, 2], [2.1], "at most 2"),
        (Between(8, 4096), [8, 4096], [7, 4097], "at least 8 and at most 4096"),
    ],
)
def test_bounds(bound, inside, outside, words):
    assert [bound.problem(v) for v in inside] == [None] * len(inside)
    assert [bound.problem(v) for v in outside] == [words] * len(outside)


def test_every_kind_of_annotation_is_described():
    assert describe(dict[str, list[str]]) == "a map {text: a list [text, ...], ...}"
    assert describe(Literal["a", "b"] | None) == "one of a, b or null"
    assert describe(Any) == "any value"
    assert describe(list[values.FilePath] | None) == "a list [a path, ...] or null"
    assert describe(values.NameOrPath) == "a name or a path"


def of_two(*, n_ctx: Positive = 16, name: str, flag: bool = False):
    """A function whose keyword-only parameters are options."""


def test_options_are_the_keyword_only_parameters():
    schema = options.read_signature(of_two)
    assert list(schema) == ["n_ctx", "name", "flag"]
    assert schema["n_ctx"] == Option(Positive, 16)


def test_defaults_are_filled_in_and_all_problems_come_together():
    schema = options.read_signature(of_two)
    checked, problems = validate({"name": "x"}, schema)
    assert (checked, problems) == ({"n_ctx": 16, "name": "x", "flag": False}, [])
    _, problems = validate({"n_ctz": 1, "flag": TypedText("4")}, schema, "method.", "coop.yaml")
    assert problems == [
        "unknown option 'method.n_ctz' in coop.yaml - did you mean 'method.n_ctx'? "
        "There is: method.n_ctx, method.name, method.flag.",
        "method.name in coop.yaml is missing: it is text",
        "method.flag=4 in coop.yaml: expected true or false",
    ]


def test_text_that_is_no_yaml_stays_text():
    assert values.parse("[1, 2") == "[1, 2"
    assert values.parse("a: b") == "a: b"
    assert values.parse("{a: 1}") == {"a": 1}
    assert values.parse("1.0e-8") == 1e-8


def test_a_list_of_templates_needs_no_quotes():
    assert values.parse("[a photo of {}, 'art of {}']") == ["a photo of {}", "art of {}"]
    assert values.parse("[a, b]") == ["a", "b"]
