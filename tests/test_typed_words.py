"""Words that YAML reads as something else, lists with commas, and values of Python's libraries."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from clip_adapt.config import given, yamls
from clip_adapt.config.given import flatten
from clip_adapt.config.values import Names, TypedText, check
from clip_adapt.data import catalog
from clip_adapt.errors import InputError
from clip_adapt.runs.configuration import compose
from clip_adapt.sweeps import grid

WORDS = [
    *(
        "yes",
        "no",
        "on",
        "off",
        "Yes",
        "NO",
        "true",
        "False",
        "0",
        "007",
        "-1",
        "+1",
        "1e5",
        "12:30",
    ),
    *(".5", "5.", "null", "~", "Null", "2024-01-01", "0x1F", "0o7", "1_000", ".inf", ".nan", "="),
    *("1.10", "2024-01-01 10:00:00", "y", "n", "0b1", "010"),
]


@pytest.mark.parametrize("word", WORDS)
def test_a_word_in_text_is_what_was_typed(word, tmp_path):
    for typed in (f"[{word}, x]", f"[x, {word}]", f"{word},x", f"x, {word}"):
        assert sorted(check(TypedText(typed), list[str])) == sorted([word, "x"])
        assert sorted(check(TypedText(typed), list[str] | None)) == sorted([word, "x"])
    spoken = dict[str, str | list[str]]
    typed = TypedText(f"{{{word}: a, b: {word}, c: [{word}, d]}}")
    assert check(typed, spoken) == {word: "a", "b": word, "c": [word, "d"]}
    path = tmp_path / "card.yaml"
    path.write_text(f"name: {word}\nclasses:\n  {word}: a\n  b: {word}\ntemplates:\n  - {word}\n")
    read = yamls.read_words(path)
    assert (check(read["name"], str), check(read["templates"], list[str])) == (word, [word])
    assert check(read["classes"], spoken) == {word: "a", "b": word}


def test_numbers_and_truth_values_stay_what_they_are_where_they_are_wanted(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("a: 1e-3\nb: true\nc: null\nd: {1: 50}\ne: [1, 2]\nf: '1'\n")
    read = yamls.read_words(path)
    wanted = {"a": float, "b": bool, "c": int | None, "d": dict[int, int], "e": list[float]}
    checked = {key: check(read[key], kind) for key, kind in wanted.items()}
    assert checked == {"a": 0.001, "b": True, "c": None, "d": {1: 50}, "e": [1.0, 2.0]}
    with pytest.raises(ValueError, match="a whole number"):
        check(read["f"], int)  # it is quoted


def write_card(folder, body):
    path = Path("card.yaml")
    path.write_text(f"name: x\nsource: folder\nroot: {folder}\n{body}")
    return catalog.find_dataset(str(path))


def test_a_card_of_words(make_folder, tmp_path):
    root = make_folder(tmp_path / "own", splits=(), classes=("no", "007", "1e5"), per_class=1)
    card = write_card(root, "classes:\n  no: off\n  007: [1.10, ~]\n  1e5: 12:30\nlicence: 1.0\n")
    assert card.classes == {"no": "off", "007": ["1.10", "~"], "1e5": "12:30"}
    assert card.licence == "1.0"
    given_words = {"dataset.classes": TypedText("{no: yes, 007: 0}"), "dataset": str(root)}
    config = compose(given_words)
    assert config.dataset.classes == {"no": "yes", "007": "0"}
    stored = tmp_path / "config.yaml"
    stored.write_text(config.to_yaml())
    assert yamls.read_yaml(stored)["dataset"]["classes"] == {"no": "yes", "007": "0"}


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("templates:\n  - a photo: {}\n", '"a photo: {}"'),
        ("templates:\n  - a photo of {}:\n", "quotes"),
        ("templates:\n  - '{} in {}'\n  - a scan: of {}\n", '"a scan: of {}"'),
        ("descriptions:\n  cat:\n  - small: furry\n", '"small: furry"'),
        ("description: skin: a study\n", "A text with a colon"),
        ("templates: {}", "text"),
    ],
)
def test_a_text_that_yaml_takes_for_a_map_is_to_be_quoted(body, shown, animals):
    with pytest.raises(InputError) as caught:
        write_card(animals, body)
    assert shown in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("[cat: big, dog]", ["cat: big", "dog"]),
        ("[cat:, dog]", ["cat:", "dog"]),
        ("cat,dog", ["cat", "dog"]),
        ("cat, 'big, dog'", ["cat", "big, dog"]),
        ("a {}, the {}", ["a {}", "the {}"]),
        ("['yes', \"0\"]", ["yes", "0"]),
        ("[cat, dog,]", ["cat", "dog"]),
        ("[<<, *a]", ["<<", "*a"]),
    ],
)
def test_lists_as_people_type_them(typed, read):
    assert check(TypedText(typed), list[str] | None) == read


def test_names_with_commas_are_several_unless_there_is_such_a_file(tmp_path):
    assert check(TypedText("a,b"), Names | None) == ["a", "b"]
    assert check(TypedText("a"), Names | None) == "a"
    Path("a,b").mkdir()
    assert check(TypedText("a,b"), Names | None) == "a,b"
    assert check(TypedText("cat, domestic"), str | list[str]) == "cat, domestic"


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        ([0, 1], list[str], ["0", "1"]),
        ([True, 0.5], list[str], ["True", "0.5"]),
        ({0: 1}, dict[str, str], {"0": "1"}),
        (np.int64(3), int, 3),
        (np.float32(0.5), float, 0.5),
        (np.int16(3), float, 3.0),
        (np.bool_(True), bool, True),
        (np.str_("cat"), str, "cat"),
        (np.array(["a", "b"]), list[str], ["a", "b"]),
        (np.array([1, 2]), tuple[int, ...], (1, 2)),
        ({np.int64(1): np.int64(50)}, int | dict[int, int], {1: 50}),
        (torch.tensor(4), int, 4),
        (Path("a/b"), str | None, "a/b"),
        ([Path("a")], list[str] | str, ["a"]),
        (np.str_("cosine"), Literal["cosine"], "cosine"),
    ],
)
def test_values_of_pythons_libraries(value, annotation, expected):
    found = check(value, annotation)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        *((np.bool_(True), kind) for kind in (int, float, Literal[1, 2])),
        *((np.float64("nan"), float), (np.float64(4), int), (1, Literal[True]), (None, str)),
        (["a", None], list[str]),
    ],
)
def test_what_is_no_such_value_in_python(value, annotation):
    with pytest.raises(ValueError):
        check(value, annotation)


def resolve(values):
    config = compose({"dataset": "eyes", "model": "lite", **values})
    return config.resolved(), config.options


def test_nested_options_are_dotted_ones():
    dotted = resolve({"method": "coop", "method.n_ctx": 4, "dataset.seed": 3})
    nested = {
        "method": {"name": "coop", "n_ctx": np.int64(4)},
        "dataset": {"name": "eyes", "seed": 3},
    }
    assert resolve(nested) == dotted
    typed = {"method": TypedText("{name: coop, n_ctx: 4}"), "dataset.seed": TypedText("3")}
    assert resolve(typed) == dotted
    assert resolve({**nested, "method.n_ctx": 5})[0]["method"]["n_ctx"] == 5
    own = {"n_ctx": 4}
    assert flatten({"method": own}) == {"method.n_ctx": 4} and own == {"n_ctx": 4}
    with pytest.raises(InputError, match=r"method\.n_cxt.*did you mean 'method\.n_ctx'"):
        resolve({"method": {"name": "coop", "n_cxt": 4}})


def test_a_map_with_a_source_is_a_whole_card(animals, tmp_path):
    Path("eyes").mkdir()  # of the card's name, and looked at by nobody
    card = {"name": "eyes", "source": "folder", "root": animals, "classes": {"cat": 0}}
    config = compose({"dataset": card})
    assert (config.dataset.source, config.dataset.options["root"]) == ("folder", str(animals))
    assert config.dataset.classes == {"cat": "0"}
    words = dict(word.partition("=")[::2] for word in _split(config.command))
    again = compose({key: TypedText(value) for key, value in words.items()})
    assert again.resolved() == config.resolved()
    with pytest.raises(InputError, match="a card without a name"):
        compose({"dataset": {"source": "folder", "root": animals}})


def _split(command):
    import shlex

    return shlex.split(command)[3:]


def test_what_is_given_is_written_so_that_it_reads_back():
    values = {"epochs": {1: 50, 2: 60}, "templates": ["a: {}", "no"], "guard": True, "seed": None}
    written = given.write_values({**values, "x": [TypedText("no"), "no"]})
    assert written["x"] == '[no, "no"]'
    kinds = {"epochs": dict[int, int], "templates": list[str], "guard": bool, "seed": int | None}
    for key, value in values.items():
        assert check(TypedText(written[key]), kinds[key]) == value


def expand(**words):
    base = {"dataset": "eyes", "model": "lite"}
    return grid.expand({k: TypedText(v) for k, v in {**base, **words}.items()})[1]


def test_lists_of_a_sweep_with_commas():
    cells = expand(method="zero_shot,gda", shots="1,4", seed="[1,2]")
    assert len(cells) == 8
    assert [
        c.folder.name for c in expand(method="[zero_shot, gda]", shots="[1, 4]", seed="1,2")
    ] == [c.folder.name for c in cells]
    assert len(expand(method="zero_shot", lr="0.1, 0.01", augment="coop,light")) == 4
    (one,) = expand(method="zero_shot", template="a photo, of {}")
    assert one.config.options.template == "a photo, of {}"
    (one,) = expand(method="zero_shot", templates="a {},the {}")
    assert one.config.options.templates == ["a {}", "the {}"]
    assert len(expand(method="zero_shot", templates="[['a {}', 'no {}'], ['on {}']]")) == 2
    (Path("p,q") / "a").mkdir(parents=True)
    (one,) = expand(dataset="p,q", method="zero_shot")
    assert one.config.dataset.name == "p,q"


def test_names_of_a_sweep_are_text():
    for name in ("007", "7", "1e5"):
        (Path(name) / "a").mkdir(parents=True)
    cells = expand(dataset="[007, 7, 1e5]", method="zero_shot")
    assert [cell.config.dataset.name for cell in cells] == ["007", "7", "1e5"]
    assert [cell.folder.name.split("-")[0] for cell in cells] == ["007", "7", "1e5"]


def test_the_slot_alone_is_a_template(tmp_path):
    for typed in ("[{}]", "{}", "['{}']"):
        assert check(TypedText(typed), list[str]) == ["{}"]
    assert check(TypedText("[{}, a photo of {}]"), list[str] | None) == ["{}", "a photo of {}"]
    path = tmp_path / "card.yaml"
    path.write_text("templates:\n  - {}\n  - no {}\n")
    assert check(yamls.read_words(path)["templates"], list[str]) == ["{}", "no {}"]


def test_one_text_is_a_list_of_one():
    for text in ("a photo of a {}.", "no {}", "yes", "12:30"):
        assert check(TypedText(text), list[str] | None) == [text]
    assert check(TypedText("null"), list[str] | None) is None
    assert check(TypedText("coop"), Names) == "coop"
    with pytest.raises(ValueError):
        check(TypedText("5"), list[int])
