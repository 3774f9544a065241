"""Every source keeps the laws, and broken ones are noticed; sources from outside the package."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from clip_adapt import InputError
from clip_adapt.config import cards, yamls
from clip_adapt.config.values import TypedText
from clip_adapt.data import Dataset, source
from clip_adapt.data.catalog import find_dataset
from clip_adapt.data.given import listing
from clip_adapt.system import plugins
from clip_adapt.testing import check_source

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "path_label.py"
ELSEWHERE = {"torchvision"}  # its layouts are tested in test_sources.py


@pytest.fixture
def pictures(animals, tmp_path):
    """A copy of the animals, beside which a test writes."""
    return shutil.copytree(animals, tmp_path / "pictures")


def write_table(root, caption=False):
    head = "path,caption,split,patient" if caption else "path,label,split,patient"
    rows = [
        f"{p.relative_to(root)},{'a ' * caption}{p.parent.name},{p.parts[-3]},{p.parts[-3]}{p.stem}"
        for p in sorted(root.rglob("*.png"))
    ]
    (root / "t.csv").write_text("\n".join([head, *rows]))
    return root / "t.csv"


def write_split(root):
    rows = {
        split: [
            [p.relative_to(root).as_posix(), label, name]
            for label, name in enumerate(("cat", "dog", "eel"))
            for p in sorted((root / split / name).iterdir())
        ]
        for split in ("train", "val", "test")
    }
    (root / "split_zhou_Animals.json").write_text(json.dumps(rows))
    return root / "split_zhou_Animals.json"


def write_subset(root):
    drawn = Dataset.load(root).few_shot(2)
    subset = {s: [i.path for i in getattr(drawn, s)] for s in ("train", "val")}
    (root.parent / "subset.json").write_text(json.dumps(subset))
    return root.parent / "subset.json"


def write_npz(root):
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = np.zeros((4, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.array([[0], [1], [0], [1]], dtype=np.uint8)
    np.savez(root.parent / "breastmnist.npz", **arrays)
    return root.parent / "breastmnist.npz"


def write_hub(root):
    pytest.importorskip("datasets.features")  # a folder of this name is no library
    datasets = pytest.importorskip("datasets")
    paths = sorted((root / "train").rglob("*.png"))
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "eel"])}
    )
    rows = {"image": [str(p) for p in paths], "label": [p.parent.name for p in paths]}
    made = datasets.Dataset.from_dict(rows, features=features)
    made.save_to_disk(root.parent / "hub")
    return str(root.parent / "hub")


def write_given(root):
    paths = sorted(root.rglob("*.png"))
    labels, splits = [p.parent.name for p in paths], [p.parts[-3] for p in paths]
    return listing.write_list(paths, labels, splits=splits, cache=root.parent)


def drawn_values():
    card = yamls.read_yaml(cards.locate_card("dataset", "eyes"))
    kept = {key: card[key] for key in ("generator",)}
    few = dict(list(card["classes"].items())[:2])
    return {**kept, "classes": few, "size": 32, "per_class": {"train": 2, "val": 1, "test": 1}}


CASES = {
    "folder": lambda root: (root, {}),
    "csv": lambda root: (write_table(root), {}),
    "pairs": lambda root: (write_table(root, caption=True), {}),
    "coop_split": lambda root: (write_split(root), {"images": [str(root)]}),
    "indices": lambda root: (write_subset(root), {"of": str(root)}),
    "medmnist": lambda root: (write_npz(root), {}),
    "huggingface": lambda root: (None, {"repo": write_hub(root)}),
    "drawn": lambda root: (None, drawn_values()),
    "given": lambda root: (write_given(root), {}),
}


@pytest.mark.parametrize("name", source.list_names(source.KIND))
def test_every_source_keeps_the_laws(name, pictures):
    if name in ELSEWHERE:
        assert name not in CASES
        return
    path, values = CASES[name](pictures)
    check_source(name, path, values=values)


def write_list(root):
    lines = [f"{p.relative_to(root)} {p.parent.name}" for p in sorted(root.rglob("*.png"))]
    (root / "list.txt").write_text("\n".join(lines) + "\n\n")
    return root / "list.txt"


def test_a_list_of_paths_and_labels_keeps_the_laws(pictures):
    check_source(EXAMPLE, write_list(pictures))


def test_a_list_of_paths_and_labels_is_what_its_folder_is(make_folder, tmp_path):
    root = make_folder(tmp_path / "two words", splits=(), per_class=8)
    (root / "cat" / "0.png").rename(root / "cat" / "a space.png")
    data = Dataset.load(write_list(root), {"source": str(EXAMPLE)})
    assert data.classes == ["cat", "dog", "eel"]
    assert data.parts() == Dataset.load(root).parts()
    assert data.name == "list"


def test_a_list_trains_from_the_command_line(train_tiny, pictures, tmp_path):
    write_list(pictures)
    shutil.copy(EXAMPLE, tmp_path / "mine.py")
    code, _, err = train_tiny("pictures/list.txt", "dataset.source=mine.py")
    assert code == 0, err
    facts = yamls.read_yaml(tmp_path / "out" / "config.yaml")["dataset"]
    assert facts["source"] == str(tmp_path / "mine.py")
    assert facts["file"] == str(pictures / "list.txt")
    assert facts["encoding"] == "utf-8"
    delta = (tmp_path / "out" / "adapter" / "adapter.safetensors").read_bytes()
    assert b"mine.py" not in delta
    code, _, err = train_tiny("pictures/list.txt", "dataset.source=mine.py", "dataset.encodin=x")
    assert code == 2
    assert "unknown option 'dataset.encodin' - did you mean 'dataset.encoding'?" in err


def test_a_card_may_name_a_file_that_the_user_names_too(pictures, tmp_path):
    write_list(pictures)
    (tmp_path / "cards").mkdir()
    shutil.copy(EXAMPLE, tmp_path / "cards" / "mine.py")
    card = tmp_path / "cards" / "card.yaml"
    card.write_text("name: listed\nsource: mine.py\nfile: ../pictures/list.txt\n")
    with pytest.raises(InputError) as caught:
        Dataset.load(card)
    mine = tmp_path / "cards" / "mine.py"
    assert str(caught.value) == (
        f"{card} names the source mine.py, a Python file, which would be run. If you trust it, "
        f"say so yourself: dataset.source={mine}"
    )
    data = Dataset.load(card, {"source": "cards/mine.py"})
    assert (data.name, len(data.train)) == ("listed", 33)


def test_a_file_that_only_a_card_names_is_not_run(tmp_path):
    (tmp_path / "evil.py").write_text("open('ran', 'w').close()\n")
    (tmp_path / "card.yaml").write_text("name: x\nsource: evil.py\n")
    (tmp_path / "subset.json").write_text(json.dumps({"train": [0]}))
    for name, given in (("card.yaml", {}), ("subset.json", {"of": "card.yaml"})):
        with pytest.raises(InputError, match="say so yourself"):
            find_dataset(name, given)
    assert not (tmp_path / "ran").exists()


def test_a_path_that_a_given_source_does_not_recognise(tmp_path):
    (tmp_path / "list.md").write_text("")
    with pytest.raises(InputError) as caught:
        find_dataset("list.md", {"source": str(EXAMPLE)})
    assert str(caught.value) == (
        f"source {EXAMPLE} does not say that it recognises list.md: give its options in a "
        "card.yaml, or define recognises(path) in it"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must define read(card, context, *, options) -> Splits"),
        ("GIVES = 'masks'\ndef read(card, context): ...", "GIVES='masks', expected 'classes' or "),
        ("1 / 0", "fails on import: ZeroDivisionError('division by zero')"),
    ],
)
def test_a_file_that_is_not_a_source(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(InputError) as caught:
        find_dataset("eyes", {"source": "mine.py"})
    assert message in str(caught.value) and "mine.py" in str(caught.value)


def test_a_source_that_is_not_text():
    with pytest.raises(InputError, match="unknown source '5'"):
        find_dataset("eyes", {"source": 5})


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that installs packages, each a module with an entry point of its name."""

    def write(**modules):
        for name, text in modules.items():
            (tmp_path / "site" / f"{name}-1.dist-info").mkdir(parents=True)
            info = tmp_path / "site" / f"{name}-1.dist-info"
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
            (info / "entry_points.txt").write_text(
                f"[clip_adapt.sources]\n{name} = {name}_module\n"
            )
            (tmp_path / "site" / f"{name}_module.py").write_text(text)
            monkeypatch.delitem(sys.modules, f"{name}_module", raising=False)
        monkeypatch.syspath_prepend(tmp_path / "site")

    return write


def test_an_installed_source_is_found_by_name_and_by_path(install, pictures):
    write_list(pictures)
    install(lists=EXAMPLE.read_text())
    assert "lists" in source.list_names(source.KIND)
    for values in ({}, {"source": "lists"}):
        card = find_dataset(str(pictures / "list.txt"), values)
        assert (card.name, card.source) == ("list", "lists")
    assert len(Dataset.from_card(card).train) == 33
    check_source("lists", pictures / "list.txt")
    with pytest.raises(InputError, match=r"'listz' - did you mean 'lists'\? There is: coop_"):
        find_dataset("eyes", {"source": "listz"})


ANY = "def read(card, context): ...\ndef recognises(path): return {}\n"


def test_ours_come_before_installed_sources_and_these_before_what_takes_anything(
    install, animals, tmp_path
):
    install(greedy=ANY)
    (tmp_path / "t.csv").write_text("")
    assert find_dataset("t.csv").source == "csv"
    assert find_dataset(str(animals)).source == "greedy"
    assert find_dataset(str(animals), {"source": "folder"}).source == "folder"


def test_what_is_wanted_chooses_among_those_that_recognise_a_path(install, animals, tmp_path):
    assert find_dataset(str(animals), wants="captions").source == "folder"
    install(told=f"GIVES = 'captions'\n{ANY}")
    assert find_dataset(str(animals)).source == "folder"
    assert find_dataset(str(animals), wants="captions").source == "told"
    (tmp_path / "t.csv").write_text("")
    assert find_dataset("t.csv").source == "csv"
    assert find_dataset("t.csv", wants="captions").source == "pairs"
    assert find_dataset("t.csv", {"source": "csv"}, wants="captions").source == "csv"


def test_two_sources_with_an_equal_claim(install, animals):
    install(one=ANY, two=ANY)
    with pytest.raises(InputError) as caught:
        find_dataset(str(animals))
    assert str(caught.value) == (
        f"{animals} is recognised by the sources one and two: say which reads it with "
        "dataset.source=one"
    )


def test_an_installed_source_that_fails_is_named(install, animals):
    install(broken="import nothing_of_this_name")
    with pytest.raises(InputError, match=r"^the installed source 'broken' \(broken_module\) fails"):
        find_dataset(str(animals))


def test_a_users_file_is_run_once_and_again_when_it_changed(tmp_path):
    file, runs = tmp_path / "mine.py", tmp_path / "runs"
    code = f"with open({str(runs)!r}, 'a') as f: f.write('x')\n"
    file.write_text(code)
    (tmp_path / "other").mkdir()
    first = plugins.import_file(file, "source")
    assert plugins.import_file(tmp_path / "other" / ".." / "mine.py", "method") is first
    assert runs.read_text() == "x"
    (tmp_path / "other" / "mine.py").write_text(code)
    other = plugins.import_file(tmp_path / "other" / "mine.py", "source")
    assert sys.modules[first.__name__] is first and sys.modules[other.__name__] is other
    file.write_text(f"{code}\n")
    assert plugins.import_file(file, "source") is not first
    assert runs.read_text() == "xxx"


def test_paths_of_a_card_and_of_a_command_line_are_relative_to_where_they_are_written(tmp_path):
    (tmp_path / "cards").mkdir()
    card = tmp_path / "cards" / "card.yaml"
    card.write_text("name: x\nsource: coop_split\nfile: s.json\nimages: [one, ~/two]\n")
    found = find_dataset(str(card)).options
    assert found["file"] == str(tmp_path / "cards" / "s.json")
    assert found["images"] == [str(tmp_path / "cards" / "one"), str(Path("~/two").expanduser())]
    given = {"images": TypedText("[one, /two]"), "file": TypedText("../s.json")}
    found = find_dataset(str(card), given).options
    assert found["images"] == [str(tmp_path / "one"), "/two"]
    assert found["file"] == str(tmp_path / ".." / "s.json")


def test_a_name_or_a_path_is_a_path_where_one_exists(tmp_path):
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "card.yaml").write_text("name: x\nsource: huggingface\nrepo: a/b\n")
    assert find_dataset("cards/card.yaml").options["repo"] == "a/b"
    (tmp_path / "cards" / "a" / "b").mkdir(parents=True)
    expected = str(tmp_path / "cards" / "a" / "b")
    assert find_dataset("cards/card.yaml").options["repo"] == expected


def test_paths_of_a_card_that_ships_stay_below_the_data_folder():
    assert find_dataset("dtd").options["file"] == "dtd/split_zhou_DescribableTextures.json"


READ = """
from pathlib import Path
from clip_adapt import InputError
from clip_adapt.config.values import FilePath
from clip_adapt.data import Item, Splits
RECOGNISES = "a folder"
count = 0

def recognises(path):
    return {"root": str(path)} if path.is_dir() else None

def read(card, context, *, root: FilePath, seed: int = 1):
    if not Path(root).is_dir():
        raise InputError(f"{root} does not exist")
    parts = {
        split: [
            Item(str(path), label, f"{split}{path.stem}")
            for label, name in enumerate(("cat", "dog", "eel"))
            for path in sorted((Path(root) / split / name).iterdir())
        ]
        for split in ("train", "val", "test")
    }
    return Splits.of(["cat", "dog", "eel"], parts)
"""
RETURN = 'return Splits.of(["cat", "dog", "eel"], parts)'
BROKEN = {
    "an option without a type": ("seed: int = 1", "seed=1", "the option seed has no type"),
    "a default that does not fit": ("int = 1", "int = 'x'", "the default 'x' of seed is not a wh"),
    "an option that is not a keyword": (", *, root", ", root", "root is not a keyword-only option"),
    "an option that every card has": ("seed: int", "licence: int", "licence is a key of every c"),
    "another result": (RETURN, "return parts", "read gives dict, not Splits"),
    "a label without a class": (RETURN, RETURN.replace(', "eel"', ""), "the labels [2] are not"),
    "a class twice": (RETURN, RETURN.replace("dog", "cat"), "two classes have one name"),
    "a class without images": (RETURN, RETURN.replace('"eel"', '"eel", "fox"'), "no training im"),
    "nothing to test on": (RETURN, f"parts['test'] = []\n    {RETURN}", "the test split is empty"),
    "captions and classes": ("count = 0", "GIVES = 'captions'", "of captions gives classes"),
    "no captions": (
        RETURN, "GIVEN = 1\n    return Splits([], parts['train'][:6], [], parts['test'][:6])",
        "has no caption",
    ),
    "relative paths": ("Item(str(path)", "Item(str(path)[1:]", "is not an absolute path"),
    "missing files": ("Item(str(path)", "Item(str(path) + 'x'", "x does not exist"),
    "another order": (
        RETURN,
        f"global count; count += 1; parts['train'] = parts['train'][count % 2:]\n    {RETURN}",
        "other images of train, or another order",
    ),
    "other classes": (
        RETURN,
        "global count; count += 1\n    return Splits.of(['cat', 'dog', f'eel{count}'], parts)",
        "gives other classes",
    ),
    "a group in two splits": ('f"{split}{path.stem}"', "path.stem", "the group 0 is in test and"),
    "an image twice": (RETURN, f"parts['val'] += parts['val'][:1]\n    {RETURN}", "stands 2 times"),
    "any path": ("if path.is_dir() else None", "", "it recognises a.unheard-of"),
    "no words": ("RECOGNISES =", "WORDS =", "RECOGNISES does not say which"),
    "options that read lacks": ('"root": str', '"folder": 1, "root": str', "unknown option"),
    "a traceback": ("raise InputError", "raise KeyError", "root=nowhere gives KeyError, not an In"),
    "silence": (
        "raise InputError(f\"{root} does not exist\")", "root = 'ANIMALS'",
        "root=nowhere is not refused",
    ),
}  # fmt: skip


def test_the_plain_source_keeps_the_laws(tmp_path, animals):
    (tmp_path / "mine.py").write_text(READ)
    check_source(tmp_path / "mine.py", animals)
    check_source("mine.py", values={"root": str(animals), "seed": 3})
    check_source(plugins.import_file(tmp_path / "mine.py", "source"), animals)


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_source_is_noticed(fault, tmp_path, animals):
    old, new, message = BROKEN[fault]
    assert READ.count(old) == 1
    text = READ.replace(old, new).replace("ANIMALS", str(animals))
    if fault == "no captions":
        text = text.replace("count = 0", "GIVES = 'captions'")
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises((AssertionError, InputError)) as caught:
        check_source(tmp_path / "mine.py", animals)
    assert message in str(caught.value)
