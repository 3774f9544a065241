"""Classes that a text tower cannot tell apart are refused by name, at every door."""

import unicodedata

import families
import pytest

import clip_adapt
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config.cards import DataCard
from clip_adapt.data.dataset import Dataset
from clip_adapt.data.task import Task, find_same_names, quote_names, read_name
from clip_adapt.errors import InputError
from clip_adapt.method.class_prompts import require_different_prompts

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
SAME = "capitals, accents in two codings, full-width letters, HTML entities and white space are no "
TWINS = [
    ("Nevus", "nevus"),
    (NFC, NFD),
    ("\uff2d\uff25\uff2c", "mel"),
    ("dr &amp; dme", "dr & dme"),
    ("no\u00a0dr", "no dr"),
    ("Alzheimer\u2019s", "alzheimer's"),
]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """The card of a CLIP whose text tower knows a few words, and its backbone."""
    folder = tmp_path_factory.mktemp("bert")
    card = families.write("bert", folder)
    (folder / "bert.yaml").write_text(
        f"architecture: {card.architecture}\npretrained: {card.pretrained}\n"
    )
    return str(folder / "bert.yaml"), Backbone.from_card(card, device="cpu")


@pytest.mark.parametrize("twins", TWINS)
def test_names_are_read_as_the_tokenizer_reads_them(twins, tiny_backbone):
    one, other = tiny_backbone.tokenizer([f"a photo of a {name}." for name in twins])
    assert one.tolist() == other.tolist()
    assert read_name(twins[0]) == read_name(twins[1])
    assert find_same_names(["x", twins[0], "y", twins[1]]) == [[1, 3]]


@pytest.mark.parametrize(
    "names", [("co2", "co\u2082"), ("a b", "ab"), ("x", "x."), ("ss", "\u00df")]
)
def test_names_that_are_told_apart(names, tiny_backbone):
    assert find_same_names(names) == []
    require_different_prompts(tiny_backbone, Task(names))


def test_names_that_look_the_same_are_shown_by_their_codes():
    assert quote_names(["Nevus", "nevus"]) == "'Nevus' and 'nevus'"
    assert quote_names([NFC, NFD]) == r"'caf\xe9' and 'cafe\u0301'"


@pytest.mark.parametrize("twins", TWINS[:4])
def test_a_data_set_with_such_classes_is_refused(make_folder, tmp_path, twins):
    root = make_folder(tmp_path / "d", splits=(), classes=(*twins, "melanoma"), per_class=2)
    with pytest.raises(InputError) as caught:
        Dataset.load(root)
    message = str(caught.value)
    shown = sorted(twins)
    assert message.startswith(f"the classes {quote_names(shown)} read the same: {SAME}")
    stored = ", ".join(f"{name}: NAME" for name in sorted([*twins, "melanoma"]))
    assert message.endswith(f"give each a spoken name: dataset.classes='{{{stored}}}'")
    spoken = {twins[0]: "one", twins[1]: "two", "melanoma": "melanoma"}
    assert Dataset.load(root, {"classes": spoken}).classes == ["one", "two", "melanoma"]


def test_a_class_whose_name_is_blank_is_refused(make_folder, tmp_path):
    root = make_folder(tmp_path / "d", splits=(), classes=("_", "cat"), per_class=2)
    with pytest.raises(InputError, match=r"the class '_' has a blank name, .* dataset.classes='{_"):
        Dataset.load(root)
    assert Dataset.load(root, {"classes": {"_": "dog", "cat": "cat"}}).classes == ["dog", "cat"]


def test_another_name_of_a_class_may_not_be_that_of_another(make_folder, tmp_path):
    root = make_folder(tmp_path / "d", splits=(), classes=("a", "b"), per_class=3)
    with pytest.raises(InputError, match="the classes 'Mole' and 'mole' read the same"):
        Dataset.load(root, {"classes": {"a": ["nevus", "Mole"], "b": "mole"}})
    several = {"a": ["nevus", "Nevus"], "b": "mole"}  # of one class they do no harm
    assert Dataset.load(root, {"classes": several}).classes == ["nevus", "mole"]


def test_a_table_with_such_labels_is_refused(train_tiny, make_folder, tmp_path):
    make_folder(tmp_path / "im", splits=(), classes=("a", "b", "c"), per_class=3)
    names = {"a": "Nevus", "b": "nevus", "c": "melanoma"}
    rows = [f"im/{c}/{n}.png,{name}" for c, name in names.items() for n in range(3)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows, ""]))
    code, _, err = train_tiny("t.csv", "method=zero_shot")
    assert (code, "the classes 'Nevus' and 'nevus' read the same" in err) == (2, True)


def test_classes_that_are_named_by_hand(tiny_backbone, run_cli, tiny_model, animals):
    said = "the classes 'Cat' and 'cat' read the same to a text tower, which cannot tell them apart"
    with pytest.raises(InputError, match=said):
        clip_adapt.zero_shot(["Cat", "cat", "dog"], model=tiny_backbone)
    zero_shot = clip_adapt.zero_shot(["cat", "dog"], model=tiny_backbone)
    with pytest.raises(InputError, match=said):
        zero_shot.for_classes(["Cat", "cat"])
    image = animals / "test" / "cat" / "0.png"
    code, _, err = run_cli("predict", image, "classes=[Cat, cat]", f"model={tiny_model}")
    assert (code, said in err) == (2, True)


def test_words_that_a_tokenizer_does_not_know(bert, train_tiny, make_folder, tmp_path, animals):
    card, backbone = bert
    said = (
        "the classes 'yak' and 'zebu' are the same text to the tokenizer of bert: it gives "
        "'a photo of a yak.' and 'a photo of a zebu.' the same tokens"
    )
    classes = ["cat", "yak", "dog", "zebu"]
    with pytest.raises(InputError, match=said):
        clip_adapt.zero_shot(classes, model=backbone)
    assert clip_adapt.zero_shot(["cat", "yak"], model=backbone).classes == ["cat", "yak"]
    with pytest.raises(InputError, match=said):
        clip_adapt.zero_shot(["cat", "dog"], model=backbone).for_classes(classes)
    root = make_folder(tmp_path / "d", classes=("cat", "yak", "zebu"), per_class=2)
    words = [f"model={card}", "method=zero_shot"]
    code, _, err = train_tiny(root, *words)
    assert code == 2 and "the classes 'yak' and 'zebu' are the same text" in err
    assert "dataset.classes='{FOLDER: NAME, ...}'" in err
    known = "dataset.classes={cat: cat, yak: dog, zebu: eye}"
    assert train_tiny(root, *words, known)[0] == 0
    code, _, err = train_tiny(animals, *words, "protocol=cross_dataset", f"test_on={root}",
                              "dataset.classes={cat: cat, dog: dog, eel: eye}")  # fmt: skip
    assert code == 2 and "the classes 'yak' and 'zebu' are the same text" in err


def test_classes_that_share_one_prompt_are_said(bert, caplog):
    captions = {"cat": ["a photo of a cat", "the yak"], "dog": ["a dog", "the zebu"]}
    task = Task(("cat", "dog"), descriptions=captions, prompts="descriptions")
    require_different_prompts(bert[1], task)
    assert "the classes 'cat' and 'dog' share a prompt: to the tokenizer of bert" in caplog.text


def test_prompts_that_are_cut_at_the_same_word(bert):
    long = "cat " * 60
    with pytest.raises(InputError, match="are the same text to the tokenizer of bert"):
        clip_adapt.zero_shot([f"{long}dog", f"{long}eye"], model=bert[1])


def test_prompts_of_tidy_classes_are_left_alone(tiny_backbone, caplog):
    names = tuple(f"class {n}" for n in range(50))
    require_different_prompts(tiny_backbone, Task(names, ("a {}.", "the {}.")))
    require_different_prompts(tiny_backbone, Task(()))
    assert caplog.text == ""
    assert DataCard("made", "folder").names_of("a__b") == ["a b"]


@pytest.mark.parametrize("name", ["", "  ", "\u00a0", "&nbsp;"])
def test_a_class_without_a_name_is_refused_by_every_door(name, tiny_backbone, tmp_path):
    with pytest.raises(InputError, match="has no name: a text tower reads nothing there"):
        clip_adapt.zero_shot([name, "dog"], model=tiny_backbone)
    for file in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(file)
    with pytest.raises(InputError, match="'cat' has a blank name"):
        Dataset.load(tmp_path, {"classes": {"cat": name, "dog": "dog"}})
