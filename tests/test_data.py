"""Class folders, splits, leaks, and the few-shot draw."""

import dataclasses
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_adapt.config.cards import DataCard
from clip_adapt.data import leaks
from clip_adapt.data.dataset import Dataset
from clip_adapt.data.items import Context, Item, Splits, Support, format_manifest
from clip_adapt.data.splitting import split_by_content
from clip_adapt.errors import InputError
from clip_adapt.system.files import hash_file

PARTS = ("train", "val", "test")


def refusal(function, *args):
    """Return the message that a call is refused with."""
    with pytest.raises(InputError) as caught:
        function(*args)
    return str(caught.value)


def contents(dataset):
    """Return, for each split, the digests and labels of its images."""
    return {s: sorted((hash_file(i.path), i.label) for i in getattr(dataset, s)) for s in PARTS}


def pool(sizes):
    """Return items of classes of these sizes, which need no files."""
    return [
        Item(f"{label}/{n}.jpg", label) for label, size in enumerate(sizes) for n in range(size)
    ]


def dataset_of(train, val=(), count=None):
    """Return a data set of items that need no files."""
    count = count or 1 + max(item.label for item in train)
    names = [f"class {label}" for label in range(count)]
    return Dataset(DataCard("made", "folder"), names, list(train), list(val), [])


def test_a_folder_with_splits(animals):
    data = Dataset.load(animals)
    assert data.name == "animals"
    assert data.classes == ["cat", "dog", "eel"]
    for split in PARTS:
        expected = [
            Item(str(animals / split / name / f"{n}.png"), label)
            for label, name in enumerate(data.classes)
            for n in range(6)
        ]
        assert getattr(data, split) == expected


@pytest.mark.parametrize(
    "names", [("training", "validation", "testing"), ("train", "valid", "test")]
)
def test_other_names_of_splits(make_folder, tmp_path, names):
    data = Dataset.load(make_folder(tmp_path / "d", splits=names, per_class=2))
    assert [Path(getattr(data, s)[0].path).parts[-3] for s in PARTS] == list(names)


def test_val_may_be_absent(make_folder, tmp_path):
    data = Dataset.load(make_folder(tmp_path / "d", splits=("train", "test")))
    assert (len(data.train), len(data.val), len(data.test)) == (18, 0, 18)
    assert data.few_shot(2).val == []


def test_hidden_files_other_files_and_upper_case_suffixes(make_folder, tmp_path):
    root = make_folder(tmp_path / "d")
    cat = root / "train" / "cat"
    shutil.move(cat / "0.png", cat / "0.PNG")
    (cat / "notes.txt").write_text("no image")
    (cat / "._1.png").write_bytes(b"resource fork")
    (root / "train" / ".cache").mkdir()
    data = Dataset.load(root)
    assert len(data.train) == 18
    assert data.classes == ["cat", "dog", "eel"]
    assert Path(data.train[0].path).name == "0.PNG"


def test_a_folder_without_splits_is_split_in_fixed_shares(make_folder, tmp_path):
    data = Dataset.load(make_folder(tmp_path / "d", splits=(), per_class=20))
    for split, count in (("train", 12), ("val", 2), ("test", 6)):
        labels = [item.label for item in getattr(data, split)]
        assert [labels.count(label) for label in range(3)] == [count] * 3, split
    every = [item.path for split in PARTS for item in getattr(data, split)]
    assert len(set(every)) == len(every) == 60


# Images of a class: training, validation and test images. 30 and 10 % of them, each rounded to the
# nearest whole number (halves to the even one), and at least one to test on of two or more.
SHARES = {
    1: (1, 0, 0), 2: (1, 0, 1), 3: (2, 0, 1), 5: (3, 0, 2), 6: (3, 1, 2), 12: (7, 1, 4),
    14: (9, 1, 4), 15: (9, 2, 4), 16: (9, 2, 5), 18: (11, 2, 5), 25: (15, 2, 8), 35: (21, 4, 10),
}  # fmt: skip


def test_the_shares_of_a_split_by_content(tmp_path):
    stream, items = np.random.default_rng(0), []
    for label, count in enumerate(SHARES):
        for n in range(count):
            path = tmp_path / f"{label}-{n}.png"
            Image.fromarray(stream.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
            items.append(Item(str(path), label))
    made = split_by_content([str(n) for n in SHARES], items, Context(tmp_path / "cache"), "it")
    for label, expected in enumerate(SHARES.values()):
        parts = made.parts().values()
        assert tuple(sum(i.label == label for i in part) for part in parts) == expected


def test_the_split_depends_on_content_and_not_on_names(make_folder, tmp_path):
    first = make_folder(tmp_path / "one", splits=(), per_class=10)
    second = shutil.copytree(first, tmp_path / "two")
    for name in ("cat", "dog", "eel"):
        for path in sorted((second / name).iterdir()):
            path.rename(path.with_name(f"{9 - int(path.stem)}-renamed.png"))
    one, two = Dataset.load(first), Dataset.load(second)
    assert contents(one) == contents(two)
    assert [i.path for i in one.train] != [i.path for i in two.train]


def test_copies_of_an_image_stay_together(make_folder, tmp_path):
    root = make_folder(tmp_path / "d", splits=(), per_class=10)
    alone = contents(Dataset.load(root))
    for path in list((root / "cat").iterdir()):
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
    doubled = contents(Dataset.load(root))
    for split in PARTS:
        cats = [pair for pair in alone[split] if pair[1] == 0]
        others = [pair for pair in alone[split] if pair[1] != 0]
        assert doubled[split] == sorted(cats * 2 + others), split


def test_an_image_in_two_classes_stays_in_one_split(make_folder, tmp_path):
    root = make_folder(tmp_path / "d", splits=(), per_class=10)
    for path in list((root / "cat").iterdir()):
        shutil.copy(path, root / "dog" / f"cat-{path.name}")
    data = Dataset.load(root)
    where = {}
    for split in PARTS:
        for item in getattr(data, split):
            where.setdefault(hash_file(item.path), set()).add(split)
    assert {len(splits) for splits in where.values()} == {1}


def test_too_few_images_to_set_some_aside(make_folder, tmp_path):
    root = make_folder(tmp_path / "d", splits=(), per_class=1)
    assert refusal(Dataset.load, root) == (
        f"{root} has too few images to set some aside for testing: expected at least two "
        "different images a class"
    )


def few_shot_as_published(train, val, shots, seed):
    """The CoOp authors' draw, with the global random module as they use it."""

    def generate(items, count):
        tracker = {}
        for item in items:
            tracker.setdefault(item.label, []).append(item)
        output = []
        for of_label in tracker.values():
            output.extend(random.sample(of_label, count) if len(of_label) >= count else of_label)
        return output

    random.seed(seed)
    return generate(train, shots), generate(val, min(shots, 4))


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 2**40])
@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
def test_few_shot_is_the_draw_of_the_protocol(shots, seed):
    train, val = pool([40, 25, 16, 9]), pool([12, 4, 3, 1])
    random.Random(5).shuffle(train)  # labels in order of their first appearance
    random.Random(6).shuffle(val)
    state = random.getstate()
    try:
        expected = few_shot_as_published(train, val, shots, seed)
    finally:
        random.setstate(state)
    drawn = dataset_of(train, val).few_shot(shots, seed)
    assert (drawn.train, drawn.val) == expected
    assert random.getstate() == state


DRAWS = json.loads((Path(__file__).parent / "data" / "eurosat_draws.json").read_text())


def published_pool(split):
    """Return EuroSAT's items of a split: published names where a draw falls, others elsewhere."""
    numbers = {}
    for subset in DRAWS["subsets"].values():
        for label, drawn in enumerate(subset[split]):
            for place, number in drawn:
                assert numbers.setdefault((label, place), number) == number
    return [
        Item(f"{name}/{name}_{numbers.get((label, place), 'other')}.jpg", label)
        for label, (name, size) in enumerate(
            zip(DRAWS["classes"], DRAWS["sizes"][split], strict=True)
        )
        for place in range(size)
    ]


@pytest.mark.parametrize("key", DRAWS["subsets"])
def test_few_shot_draws_the_published_subsets_of_eurosat(key):
    shots, seed = (int(word.split("=")[1]) for word in key.split())
    data = dataset_of(published_pool("train"), published_pool("val"))
    assert (len(data.train), len(data.val)) == (13500, 5400)
    drawn = data.few_shot(shots, seed)
    for split, count in (("train", shots), ("val", min(shots, 4))):
        expected = [
            f"{name}/{name}_{number}.jpg"
            for name, numbers in zip(DRAWS["classes"], DRAWS["subsets"][key][split], strict=True)
            for _, number in numbers
        ]
        assert [i.path for i in getattr(drawn, split)] == expected
        assert len(expected) == 10 * count


def test_a_class_with_fewer_images_gives_all_and_is_noted():
    data = dataset_of(pool([10, 3, 4]))
    drawn = data.few_shot(4)
    assert [sum(i.label == c for i in drawn.train) for c in range(3)] == [4, 3, 4]
    assert drawn.notes == ["fewer than 4 training images in class 1: 3"]
    assert data.few_shot(3).notes == []


@pytest.mark.parametrize("shots", [0, -3])
def test_no_shots_are_refused(shots):
    message = refusal(dataset_of(pool([2, 2])).few_shot, shots)
    assert message == f"shots={shots}: expected a whole number, at least 1"


def test_the_support_set_gives_no_way_to_test_items(animals):
    data = Dataset.load(animals)
    test = {item.path for item in data.test}
    support = data.few_shot(2)
    assert {f.name for f in dataclasses.fields(Support)} == {"train", "val", "shots", "notes"}
    seen, todo = set(), [support]
    while todo:
        thing = todo.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        assert not isinstance(thing, Dataset | Splits)
        assert thing not in test if isinstance(thing, str) else True
        todo += list(thing) if isinstance(thing, list | tuple | dict) else []
        if dataclasses.is_dataclass(thing):
            todo += [getattr(thing, f.name) for f in dataclasses.fields(thing)]
    assert len(seen) > 12


def test_the_manifest_names_every_image_that_was_drawn(animals):
    data = Dataset.load(animals)
    support = data.few_shot(1, seed=3)
    rows = support.manifest(data.classes)
    assert rows == [
        {
            "path": item.path,
            "sha256": hash_file(item.path),
            "label": data.classes[item.label],
            "split": split,
        }
        for split in ("train", "val")
        for item in getattr(support, split)
    ]
    assert [row["label"] for row in rows] == ["cat", "dog", "eel"] * 2
    text = format_manifest(rows)
    assert text.endswith("\n")
    assert [json.loads(line) for line in text.splitlines()] == rows


def test_an_image_in_two_splits_is_listed_with_its_twin(make_folder, tmp_path):
    root = make_folder(tmp_path / "d")
    pairs = [("train/cat/0.png", "test/cat/0.png"), ("val/dog/1.png", "test/eel/2.png")]
    for source, copy in pairs:
        shutil.copy(root / source, root / copy)
    lines = refusal(Dataset.load, root).splitlines()
    assert lines[0] == "2 images stand in two splits, so a test score would be too good:"
    assert lines[1:3] == [f"  {root / a}  =  {root / b}" for a, b in pairs]
    assert lines[3:] == ["Remove one of each pair."]


def test_a_group_in_two_splits_is_an_error(make_folder, tmp_path):
    root = make_folder(tmp_path / "d", per_class=1)
    paths = [str(root / split / "cat" / "0.png") for split in PARTS]
    alone = Splits(["cat"], [Item(paths[0], 0, "p1")], [], [Item(paths[2], 0, "p2")])
    leaks.refuse_groups(alone.parts())
    shared = dataclasses.replace(alone, test=[Item(paths[2], 0, "p1")])
    assert refusal(leaks.refuse_groups, shared.parts()) == (
        "1 groups stand in two splits:\n  p1 (in test, train)\n"
        "Keep all images of a group in one split. If a table's column names no group, leave it "
        "out: dataset.group=null"
    )


def test_two_classes_with_one_spoken_name(make_folder, tmp_path):
    root = make_folder(tmp_path / "d", classes=("a_b", "a b", "c"))
    assert refusal(Dataset.load, root) == (
        "two classes have the name 'a b': 'a b', 'a_b'. "
        "Rename one, or give each a spoken name: dataset.classes='{a b: NAME, a_b: NAME, c: NAME}'"
    )


def test_one_class(make_folder, tmp_path):
    root = make_folder(tmp_path / "d", classes=("cat",), splits=())
    assert refusal(Dataset.load, root) == (
        f"{root} has one class with images, 'cat': expected at least two to tell apart, "
        "one folder each."
    )


@pytest.mark.parametrize(
    ("images", "reason"),
    [(0, "it holds no images"), (2, "2 images lie in it without a class folder")],
)
def test_a_folder_without_classes(make_folder, tmp_path, images, reason):
    root = tmp_path / "d"
    root.mkdir()
    make_folder(tmp_path / "other", splits=(), classes=("cat",), per_class=2)
    for path in list((tmp_path / "other" / "cat").iterdir())[:images]:
        shutil.copy(path, root)
    assert refusal(Dataset.load, root) == (
        f"{root} has no classes: {reason}. Expected one folder a class, such as "
        f"{root / 'cat' / '1.jpg'} and {root / 'dog' / '2.jpg'}."
    )


def test_a_folder_that_does_not_exist(tmp_path):
    card = DataCard("d", "folder", options={"root": str(tmp_path / "none")})
    assert refusal(Dataset.from_card, card) == (
        f"the folder {tmp_path / 'none'} does not exist (looked at {tmp_path / 'none'})"
    )


def test_train_without_test_says_what_to_do(make_folder, tmp_path):
    root = make_folder(tmp_path / "d", splits=("train",))
    assert refusal(Dataset.load, root) == (
        f"{root} has a train folder and no test folder. Put the images to be tested on into "
        f"{root / 'test'}, one folder a class; or point at {root / 'train'} to have it split."
    )


def test_an_empty_test_folder(make_folder, tmp_path):
    root = make_folder(tmp_path / "d", splits=("train",))
    (root / "test").mkdir()
    assert refusal(Dataset.load, root) == (f"{root / 'test'} holds no images in its class folders")


def test_a_class_in_test_that_train_lacks(make_folder, tmp_path):
    root = make_folder(tmp_path / "d")
    make_folder(root, splits=("test",), classes=("fox",), seed=9)
    assert refusal(Dataset.load, root) == (
        f"{root / 'test'} has classes without training images: fox. "
        "Add training images, or remove these folders."
    )


def test_a_card_chooses_and_names_classes(make_folder, tmp_path):
    make_folder(tmp_path / "d", classes=("c1", "c2", "c3"))
    card = tmp_path / "card.yaml"
    card.write_text(
        "name: zoo\nsource: folder\nroot: d\nclasses: {c3: house cat, c1: dog}\n"
        "templates: ['a {}', 'the {}']\n"
    )
    data = Dataset.load(card)
    assert data.classes == ["house cat", "dog"]
    assert [Path(i.path).parts[-2] for i in data.train[::6]] == ["c3", "c1"]
    assert data.task().texts() == [["a house cat", "the house cat"], ["a dog", "the dog"]]
    card.write_text("name: zoo\nsource: folder\nroot: d\nclasses: {c3: cat, c9: dog}\n")
    assert refusal(Dataset.load, card) == (
        f"{tmp_path / 'd' / 'train'} has no folder for the card's classes c9"
    )


def test_underscores_of_folder_names_are_spoken_as_spaces(make_folder, tmp_path):
    root = make_folder(tmp_path / "d", classes=("house_cat", "river__eel"))
    assert Dataset.load(root).classes == ["house cat", "river eel"]


def test_without_leaves_images_out_and_refuses_an_empty_class(animals):
    data = Dataset.load(animals)
    gone = [data.train[0].path, data.test[-1].path]
    left = data.without(gone)
    assert left.train == data.train[1:]
    assert left.test == data.test[:-1]
    assert left.val == data.val
    cats = [i.path for i in data.train if i.label == 0]
    assert refusal(data.without, cats) == "no readable training image is left in: cat"
    tests = [i.path for i in data.test]
    assert refusal(data.without, tests) == (
        "the test split of animals is empty: nothing can be measured"
    )


def test_several_names_stand_in_prompts_and_the_first_everywhere_else(animals, tmp_path):
    card = tmp_path / "card.yaml"
    card.write_text(
        f"name: zoo\nsource: folder\nroot: {animals}\ntemplates: ['a {{}}', 'the {{}}']\n"
        "classes: {cat: [house cat, tabby], dog: dog, eel: eel}\n"
        "descriptions: {house cat: [it meows, it purrs], dog: [it barks], eel: [it swims]}\n"
    )
    data = Dataset.load(card)
    assert data.classes == ["house cat", "dog", "eel"]
    names = ["a house cat", "the house cat", "a tabby", "the tabby"]
    assert data.task().texts()[:2] == [names, ["a dog", "the dog"]]
    assert data.task(prompts="descriptions").texts()[0] == ["it meows", "it purrs"]
    assert data.task(prompts="both").texts()[0] == [*names, "it meows", "it purrs"]
    assert [row["label"] for row in data.few_shot(1).manifest(data.classes)][:1] == ["house cat"]


def test_several_names_travel_with_the_delta(train_tiny, animals, tmp_path, tiny_model):
    from clip_adapt import load

    card = tmp_path / "card.yaml"
    card.write_text(
        f"name: zoo\nsource: folder\nroot: {animals}\n"
        "classes: {cat: [house cat, tabby], dog: dog, eel: eel}\n"
    )
    code, _, _ = train_tiny(card, "method=zero_shot")
    assert code == 0
    task = load(tmp_path / "out" / "adapter", model=tiny_model).method.task
    assert task.classes == ("house cat", "dog", "eel")
    assert task.texts()[0] == ["a photo of a house cat.", "a photo of a tabby."]
