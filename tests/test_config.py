"""Command lines and their YAML groups: what resolves to what, what is said when nothing does."""

import dataclasses
import inspect

import pytest

from clip_adapt.cli import words
from clip_adapt.config import cards, options, yamls
from clip_adapt.config.given import nest
from clip_adapt.config.run_options import RunOptions
from clip_adapt.config.values import TypedText
from clip_adapt.data import catalog
from clip_adapt.data.dataset import Dataset
from clip_adapt.data.task import GENERAL_TEMPLATES
from clip_adapt.errors import InputError
from clip_adapt.method import finding
from clip_adapt.runs.configuration import compose
from clip_adapt.system.files import locate_resource

TRAIN = locate_resource("configs") / "train.yaml"
FIELDS = [field.name for field in dataclasses.fields(RunOptions)]
METHODS = cards.list_cards("method")
MODELS = cards.list_cards("model")


def composed(*words):
    """Return the configuration of words as a command line gives them."""
    return compose({key: TypedText(value) for key, _, value in (w.partition("=") for w in words)})


def problems(*words):
    """Return the lines that a command line is refused with."""
    with pytest.raises(InputError) as caught:
        composed(*words)
    return str(caught.value).splitlines()


def only_problem(*words):
    """Return the one line that a command line is refused with."""
    lines = problems(*words)
    assert len(lines) == 1, lines
    return lines[0]


def test_train_yaml_holds_every_option_in_order_with_a_comment():
    assert list(yamls.read_yaml(TRAIN)) == FIELDS
    assert list(yamls.read_help_texts(TRAIN)) == FIELDS
    assert all(len(meaning) > 5 for _, meaning in yamls.read_help_texts(TRAIN).values())


def test_the_defaults_of_train_yaml_fit_their_types():
    checked, wrong = options.validate(yamls.read_yaml(TRAIN), options.read_fields(RunOptions))
    assert wrong == []
    assert checked == yamls.read_yaml(TRAIN)


@pytest.mark.parametrize("verb", ["evaluate", "predict", "report"])
def test_the_yaml_of_a_verb_holds_its_options_in_order_with_a_comment(verb):
    module = __import__(f"clip_adapt.{verb}", fromlist=["read_schema"])
    schema = module.read_schema()
    path = locate_resource("configs") / f"{verb}.yaml"
    defaults = yamls.read_yaml(path)
    assert sorted(defaults) == sorted(schema)
    assert list(yamls.read_help_texts(path)) == list(defaults)
    for key, option in schema.items():
        missing = option.default is inspect.Parameter.empty
        assert defaults[key] == ("required" if missing else option.default), key


def test_every_method_has_a_file_of_options_and_every_file_a_method():
    own = {p.stem for p in locate_resource("methods").glob("*.py") if p.stem != "__init__"}
    assert set(METHODS) == own
    assert own <= set(finding.list_methods())


@pytest.mark.parametrize("name", METHODS)
def test_the_yaml_of_a_method_is_the_signature_of_its_class(name):
    values = yamls.read_yaml(cards.locate_card("method", name))
    recipe = {key: value for key, value in values.items() if key != "method"}
    schema = options.read_signature(finding.find_method(name).cls)
    assert list(values["method"]) == list(schema)
    assert options.validate(values["method"], schema)[1] == []
    for key, option in schema.items():
        assert values["method"][key] == option.default, key
    shorter = recipe.pop("cpu", {})
    assert set(recipe) <= set(FIELDS) and set(shorter) <= set(FIELDS)
    assert len(yamls.read_opening_comment(cards.locate_card("method", name))) >= 2


@pytest.mark.parametrize("name", METHODS)
def test_every_method_composes(name):
    made = composed(f"method={name}")
    assert made.method.name == name
    assert made.method_options == yamls.read_yaml(cards.locate_card("method", name))["method"]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_card_reads(name):
    card = cards.find_model(name)
    assert card.name == name
    assert card.licence
    assert composed(f"model={name}").model == card


@pytest.mark.parametrize("name", cards.list_cards("dataset"))
def test_every_data_card_reads(name):
    card = catalog.find_dataset(name)
    assert card.name == name
    assert card.licence and card.description
    assert composed(f"dataset={name}").dataset == card


def test_a_method_file_overrides_the_defaults_and_the_command_line_both():
    assert composed("method=zero_shot").options.epochs == 0
    assert composed("method=zero_shot").options.drop_last is False
    assert composed("method=coop").options.drop_last is True
    assert composed("method=coop", "drop_last=false").options.drop_last is False


@pytest.mark.parametrize(
    ("shots", "epochs"), [(1, 50), (2, 100), (3, 100), (4, 100), (8, 200), (16, 200), (32, 200)]
)
def test_epochs_of_coop_depend_on_the_shots(shots, epochs):
    made = composed("method=coop", f"shots={shots}")
    assert made.options.epochs_at(made.options.shots) == epochs


def test_a_map_of_epochs_below_its_first_key_gives_the_first():
    assert composed("epochs={4: 7, 16: 9}").options.epochs_at(1) == 7
    assert composed("epochs=0").options.epochs_at(16) == 0


def test_the_order_of_the_words_does_not_matter():
    words = ("method.n_ctx=4", "shots=2", "dataset.per_class.train=8", "method=coop", "seed=0")
    one, other = composed(*words), composed(*reversed(words))
    assert dataclasses.replace(one, given={}) == dataclasses.replace(other, given={})
    assert one.options.seed == 0


def test_the_last_of_two_values_wins():
    positional, given = words.split_words(["shots=2", "seed=3", "shots=4"])
    assert positional == []
    assert compose(given).options.shots == 4


def test_a_nested_key_changes_one_entry_and_keeps_the_others():
    made = composed("dataset=eyes", "dataset.per_class.train=8", "method.n_ctx=4")
    assert made.dataset.options["per_class"] == {"train": 8, "val": 16, "test": 50}
    assert made.method_options == {
        "n_ctx": 4,
        "ctx_init": None,
        "csc": False,
        "position": "end",
    }


def test_typed_values_and_text_give_the_same():
    text = composed("shots=2", "lr=1", "templates=['a {}']", "clip_norm=null", "epochs={1: 2}")
    typed = compose(
        {"shots": 2, "lr": 1, "templates": ["a {}"], "clip_norm": None, "epochs": {1: 2}}
    )
    assert text.options == typed.options
    assert isinstance(typed.options.lr, float)


def test_templates_of_the_command_line_replace_the_cards():
    assert composed().dataset.templates == ["an eye with {}."]
    assert composed("template=my {}.").dataset.templates == ["my {}."]
    assert composed("templates=['a {}', 'b {}']").dataset.templates == ["a {}", "b {}"]
    assert only_problem("template=a {}", "templates=['b {}']") == (
        "template and templates are both given: keep one of them"
    )
    assert only_problem("template=my eye") == "template 'my eye' has no {} for the class name"


def test_a_folder_is_a_data_set(animals):
    card = composed(f"dataset={animals}").dataset
    assert (card.name, card.source) == ("animals", "folder")
    assert card.options["root"] == str(animals)
    assert card.templates == ["a photo of a {}."]


def test_a_card_finds_its_folder_beside_itself(animals, tmp_path):
    path = animals.parent / "card.yaml"
    path.write_text("name: zoo\nsource: folder\nroot: animals\nclasses: {cat: tabby cat, dog: dog}")
    card = composed(f"dataset={path}").dataset
    assert card.name == "zoo"
    assert card.options["root"] == str(animals)
    assert card.classes == {"cat": "tabby cat", "dog": "dog"}


OWN = """
from clip_adapt.method import Method
class Mine(Method):
    def __init__(self, backbone, task, *, alpha: float = 1.0):
        super().__init__(backbone, task)
"""


def test_a_method_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    made = composed("method=mine.py", "method.alpha=2")
    assert (made.method.name, made.method.cls.__name__) == ("mine", "Mine")
    assert made.method.file.name == "mine.py"
    assert made.method_options == {"alpha": 2.0}
    assert only_problem("method=mine.py", "method.alpah=2") == (
        "unknown option 'method.alpah' in method mine - did you mean 'method.alpha'? "
        "There is: method.alpha."
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from clip_adapt.method import Method\n", "none"),
        (OWN + "class Other(Method): pass\n", "Mine, Other"),
    ],
)
def test_a_file_defines_exactly_one_method(tmp_path, text, found):
    (tmp_path / "mine.py").write_text(text)
    assert only_problem("method=mine.py") == (
        f"mine.py must define exactly one subclass of Method, not {found}"
    )


def test_a_method_file_that_fails_or_is_missing(tmp_path):
    (tmp_path / "mine.py").write_text("1 / 0\n")
    assert only_problem("method=mine.py") == (
        "method file mine.py fails on import: ZeroDivisionError('division by zero')"
    )
    (tmp_path / "typo.py").write_text("def (:\n")
    assert only_problem("method=typo.py").startswith("method file typo.py fails on import: ")
    assert only_problem("method=no.py") == (
        f"method file no.py does not exist (looked at {tmp_path / 'no.py'})"
    )


def test_unknown_names_say_what_there_is_and_what_is_near(tmp_path):
    assert only_problem("method=cop").startswith(
        "unknown method 'cop' - did you mean 'coop'? There is: adapter, "
    )
    assert only_problem("method=cop").endswith("or give the path of your own method.py.")
    line = only_problem("dataset=eye")
    assert line.startswith("unknown data set 'eye' - did you mean 'eyes'? There is: ")
    assert line.endswith(f"No such folder or file exists: {tmp_path / 'eye'}")
    assert only_problem("model=lit").startswith(
        f"unknown model 'lit' - did you mean 'lite'? There is: {', '.join(MODELS)}; or any of "
    )
    line = only_problem("dataset.source=foldr")
    assert line.startswith("unknown source 'foldr' - did you mean 'folder'? There is: coop_split, ")
    assert "drawn, folder, " in line


@pytest.mark.parametrize(("name", "hint"), [("eye", " - did you mean 'eyes'?"), ("camera", ".")])
def test_an_unknown_generator_is_refused_when_the_set_is_loaded(name, hint):
    with pytest.raises(InputError) as caught:
        Dataset.from_card(composed(f"dataset.generator={name}").dataset)
    assert str(caught.value) == f"unknown generator {name!r}{hint} There is: eyes."


def test_an_unknown_option_says_what_there_is_and_what_is_near():
    line = only_problem("shotz=4")
    assert line.startswith("unknown option 'shotz' - did you mean 'shots'? There is: method, ")
    assert all(name in line for name in FIELDS)
    line = only_problem("dataset.rot=x")
    assert line.startswith("unknown option 'dataset.rot' in datasets/eyes.yaml")
    line = only_problem("model.image_sise=64")
    assert line.startswith(
        "unknown option 'model.image_sise' in configs/model/lite.yaml - did you mean "
        "'model.image_size'?"
    )


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("shots=0", "a whole number, at least 1"),
        ("shots=-1", "a whole number, at least 1"),
        ("shots=four", "a whole number, at least 1"),
        ("shots=1.5", "a whole number, at least 1"),
        ("shots=null", "a whole number, at least 1"),
        ("seed=-1", "a whole number, at least 0"),
        ("lr=0", "a number, above 0"),
        ("momentum=1.5", "a number, at least 0 and at most 1"),
        ("optimizer=sdg", "one of sgd, adam, adamw"),
        ("cache=maybe", "true or false"),
        ("templates={a: b}", "a list [text, ...] or null"),
        (
            "epochs=-1",
            "a whole number, at least 0 or a map {a whole number: a whole number, ...}",
        ),
        ("select=test", "one of last, val"),
    ],
)
def test_a_value_of_a_wrong_type_says_what_is_expected(word, expected):
    assert only_problem(word) == f"{word}: expected {expected}"


def test_all_problems_are_shown_at_once():
    lines = problems("shotz=4", "lr=fast", "method.n_ctz=3", "dataset=nowhere", "model=nothing")
    assert len(lines) == 5
    for start in (
        "unknown option 'method.n_ctz'",
        "unknown data set 'nowhere'",
        "unknown model 'nothing'",
        "unknown option 'shotz'",
        "lr=fast: expected a number, above 0",
    ):
        assert sum(line.startswith(start) for line in lines) == 1, start


def test_the_resolved_configuration_opens_with_its_command_and_reads_back(tmp_path):
    made = composed("method=coop", "shots=4", "template=a {} eye.", "method.n_ctx=4")
    text = made.to_yaml()
    assert text.splitlines()[0] == (
        "# python -m clip_adapt.train method=coop shots=4 'template=a {} eye.' method.n_ctx=4"
    )
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    again = yamls.read_yaml(path)
    assert again["method"] == {"name": "coop", **made.method_options}
    assert again["dataset"]["templates"] == ["a {} eye."]
    assert again["shots"] == 4
    assert again["epochs"] == {1: 50, 2: 100, 4: 100, 8: 200, 16: 200}


def test_a_card_with_wrong_content_is_refused_by_line(tmp_path):
    path = tmp_path / "card.yaml"
    path.write_text(
        "name: zoo\nsource: folder\nroot: .\nclasses: {a: cat, b: cat}\ntemplates: [no slot]\n"
        "descriptions: {dog: [a dog]}\n"
    )
    assert problems(f"dataset={path}") == [
        f"template 'no slot' in {path} has no {{}} for the class name",
        f"two classes in {path} have the name 'cat': give each its own spoken name",
        f"descriptions in {path} name a class that does not exist: 'dog'.",
    ]


def test_nothing_but_the_general_options_is_in_the_schema_of_a_run():
    assert set(FIELDS) >= {"method", "dataset", "model"}
    assert {"method", "dataset", "model"}.isdisjoint(nest({"shots": 1})["general"])


def test_an_ensemble_adds_seven_templates_to_the_cards(tmp_path):
    plain, many = (compose({"dataset": "eyes", "ensemble": flag}) for flag in (False, True))
    assert many.dataset.templates == [*plain.dataset.templates, *GENERAL_TEMPLATES]
    again = compose({"ensemble": True, "template": GENERAL_TEMPLATES[0]})
    assert again.dataset.templates == list(GENERAL_TEMPLATES)


def test_steps_are_counted_by_shots_until_epochs_are_given():
    o = compose({"iterations_per_shot": 20, "shots": 4}).options
    assert o.iterations == 80 and o.trains
    assert compose({"epochs": 0}).options.trains is False
    assert compose({"epochs": 5, "iterations_per_shot": 0}).options.trains is False
