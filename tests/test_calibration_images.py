"""Which images conformal sets are calibrated on: none that was seen, none that chose anything."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import clip_adapt
from clip_adapt.adapted import conformal
from clip_adapt.data.dataset import Dataset
from clip_adapt.data.items import Item, Support
from clip_adapt.errors import InputError
from clip_adapt.evaluation import calibration
from clip_adapt.inputs.features import FeatureCache

NAMES = ("cat", "dog", "eel")
APART = "conformal_images"  # the option that names images which were set aside


def lines_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture
def pictures(animals):
    """The paths of 18 different images."""
    return sorted(str(path) for path in (animals / "train").rglob("*.png"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_copy_of_a_support_image_is_left_out(pictures, tmp_path, split):
    copy = shutil.copy(pictures[0], tmp_path / "another name.png")
    seen, pool = [Item(pictures[0], 0)], [Item(copy, 0), Item(pictures[1], 0)]
    support = Support(seen, [], 1) if split == "train" else Support([], seen, 1)
    assert calibration.list_unused(pool, support) == pool[1:]


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_image_of_a_patient_in_the_support_is_left_out(pictures, split):
    seen = [Item(pictures[0], 0, "x"), Item(pictures[1], 0)]
    pool = [Item(pictures[2], 0, "x"), Item(pictures[3], 0, "y"), Item(pictures[4], 0)]
    support = Support(seen, [], 1) if split == "train" else Support([], seen, 1)
    assert calibration.list_unused(pool, support) == pool[1:]


def test_what_was_left_out_is_listed(pictures):
    items = [Item(path, 0) for path in pictures[:3]]
    calibration.require_unused(items, items)
    with pytest.raises(InputError) as caught:
        calibration.require_unused(items, [items[1]])
    assert str(caught.value).startswith("2 calibration images were used for adapting (train or val")
    assert f"\n  {pictures[0]}\n  {pictures[2]}\nRemove them" in str(caught.value)


@pytest.fixture
def write_table(make_folder, tmp_path):
    """A function that writes own.csv with one val image a class, and a card: its rows by split."""
    root = make_folder(tmp_path / "images", per_class=5)

    def write(more=()):
        rows = [
            (f"images/{split}/{name}/{i}.png", name, split, f"{split} {name} {i}")
            for split, count in (("train", 5), ("val", 1), ("test", 2))
            for name in NAMES
            for i in range(count)
        ]
        save_table("own.csv", [*rows, *more])
        Path("own.yaml").write_text("name: own\nsource: csv\nfile: own.csv\non_leak: warn\n")
        return root

    return write


def save_table(path, rows):
    lines = ["image,label,split,group", *(",".join(row) for row in rows)]
    Path(path).write_text("\n".join(lines) + "\n")


def test_a_run_calibrates_on_no_copy_of_a_val_image(train_tiny, write_table):
    copies = [(f"images/copy of {n}.png", n, "train", "") for n in NAMES]
    root = write_table(copies)
    for (copy, *_), name in zip(copies, NAMES, strict=True):
        shutil.copy(root / "val" / name / "0.png", copy)
    code, _, err = train_tiny("own.yaml", "conformal=0.4", "shots=1")
    assert code == 0, err
    support, calibrated = lines_of("out/support.jsonl"), lines_of("out/calibration.jsonl")
    val = {row["sha256"] for row in support if row["split"] == "val"}
    assert len(val) == 3
    assert val.isdisjoint(row["sha256"] for row in calibrated)
    drawn = [row["path"] for row in support if row["split"] == "train"]
    assert not any("copy" in path for path in drawn), "the seed draws a copy: take another one"
    pool = [str(root / "train" / n / f"{i}.png") for n in NAMES for i in range(5)]
    assert [row["path"] for row in calibrated] == [path for path in pool if path not in drawn]


@pytest.mark.parametrize(("split", "who"), [("val", ""), ("train", "val dog 0")])
def test_images_set_aside_that_val_has_seen_are_refused(
    train_tiny, write_table, make_folder, tmp_path, split, who
):
    root = write_table()
    apart = make_folder(tmp_path / "apart", splits=(), per_class=3, seed=9)
    rows = [(f"apart/{n}/{i}.png", n, "train", f"{n} {i}") for n in NAMES for i in range(3)]
    rows += [(f"apart/{n}/2.png", n, "test", "") for n in NAMES]
    rows = list({row[0]: row for row in rows}.values())
    words = ("own.yaml", "conformal=0.4", "shots=1", f"{APART}=apart.csv")
    # The val image itself under another name, or another image of its patient.
    shutil.copy(root / split / "dog" / "0.png", apart / "dog" / "seen.png")
    save_table("apart.csv", [*rows, ("apart/dog/seen.png", "dog", "train", who)])
    code, _, err = train_tiny(*words)
    assert code == 2
    assert err.startswith("error: 1 calibration images were used for adapting (train or val)")
    assert f"\n  {apart / 'dog' / 'seen.png'}\n" in err
    assert not Path("out").exists()
    save_table("apart.csv", rows)
    code, _, err = train_tiny(*words)
    assert code == 0, err
    assert len(lines_of("out/calibration.jsonl")) == 9


def test_all_splits_of_what_is_set_aside_count_under_our_labels(animals, make_folder, tmp_path):
    make_folder(tmp_path / "there", per_class=2, seed=9)
    card = tmp_path / "there.yaml"
    card.write_text("name: x\nsource: folder\nroot: there\nclasses: {eel: eel, cat: cat, dog: dog}")
    items = calibration.list_set_aside(Dataset.load(animals), Dataset.load(card))
    assert len(items) == 18
    assert {(Path(i.path).parts[-3], Path(i.path).parts[-2], i.label) for i in items} == {
        (split, name, label)
        for split in ("train", "val", "test")
        for label, name in enumerate(NAMES)
    }


def test_what_is_drawn_is_the_seeds_sample_of_what_is_left(pictures, caplog):
    pool = [Item(path, 0) for path in pictures]
    left = pool[6:]
    assert calibration.draw_images(left, None, 3) == left
    assert calibration.draw_images(left, len(left), 3) == left
    assert not caplog.records
    assert calibration.draw_images(left, 5, 3) == random.Random(3).sample(left, 5)
    assert calibration.draw_images(left, 13, 3) == left
    assert caplog.messages == ["12 calibration images are left, fewer than 13"]


def test_sets_are_calibrated_at_the_temperature_of_the_classifier(tiny_backbone, pictures):
    classifier = clip_adapt.zero_shot(NAMES, model=tiny_backbone)
    sharper = classifier.adjust(temperature=0.1)
    items = [Item(path, i % 3) for i, path in enumerate(pictures)]
    found = calibration.fit_sets(sharper, items, 0.2, FeatureCache(None)).conformal
    p = torch.cat([sharper.probabilities(pixels) for pixels in classifier.batches(pictures)])
    expected = conformal.fit_thresholds(p.numpy(), np.array([item.label for item in items]), 0.2)
    assert found == pytest.approx(expected, abs=1e-6)
    plain = calibration.fit_sets(classifier, items, 0.2, FeatureCache(None)).conformal
    assert plain["lac"] != pytest.approx(expected["lac"], abs=1e-3)


@pytest.mark.parametrize(
    ("scale", "right", "expected"),
    [
        (1.0, 5010, 249.9997),  # 1 / log(0.501 / 0.499)
        (1.0, 5001, 1000.0),  # 2500 is out of reach
        (0.01, 7500, 0.0091024),  # 0.01 / log 3
        (1e-6, 7500, 0.001),
    ],
)
def test_a_temperature_stays_within_its_bounds(scale, right, expected):
    logits = scale * torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(10_000, 1)
    labels = (torch.arange(10_000) >= right).long()
    assert calibration.find_temperature(logits, labels) == pytest.approx(expected, rel=1e-4)


def test_no_temperature_when_the_true_class_shares_the_first_place():
    logits = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    assert calibration.find_temperature(logits, torch.tensor([1, 2])) is None


def test_no_temperature_when_the_truth_has_the_mean_logit():
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert calibration.find_temperature(logits, torch.tensor([0, 1])) is None
