"""Captions: the loss, its mask, pairs from a table, retrieval, and a run from end to end."""

import csv
import dataclasses
import functools
import json
import math
from pathlib import Path

import numpy as np
import open_clip.loss
import pytest
import torch
import torch.multiprocessing
import torch.nn.functional as F
from PIL import Image

import clip_adapt
from clip_adapt.adapted import delta
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config import yamls
from clip_adapt.config.run_options import RunOptions
from clip_adapt.data import catalog
from clip_adapt.data.captions import Captions
from clip_adapt.data.dataset import Dataset
from clip_adapt.data.items import Item
from clip_adapt.data.task import Task
from clip_adapt.errors import InputError
from clip_adapt.evaluation import retrieval
from clip_adapt.method.contract import Method
from clip_adapt.objectives import Data
from clip_adapt.runs.configuration import compose
from clip_adapt.system.files import locate_resource
from clip_adapt.training import contrastive
from clip_adapt.training.examples import Examples
from clip_adapt.training.loop import train
from clip_adapt.training.pair_step import PairStep
from clip_adapt.training.recipe import Recipe

NAMES = ("red", "green", "blue", "grey", "white", "black")


class Turn(Method):
    """A linear residual on image features: its own file is what a user would write."""

    works_on_other_classes = True
    trains_on_captions = True

    def __init__(self, backbone, task):
        super().__init__(backbone, task)
        shape = backbone.embed_dim, backbone.embed_dim
        self.turn = torch.nn.Parameter(torch.zeros(shape, dtype=backbone.dtype))

    def image_features(self, z):
        return F.normalize(z + z @ self.turn, dim=1)


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    made = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    return F.normalize(made, dim=-1).unbind()


@pytest.fixture
def pairs(tmp_path):
    """A table of 18 pictures of 6 colours, two captions each, in three splits."""
    stream = np.random.default_rng(0)
    folder = tmp_path / "pairs"
    folder.mkdir()
    lines = ["image,caption,split"]
    for i in range(18):
        noise = stream.integers(0, 255, (40, 40, 3)).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
        split = ("train", "train", "test")[i % 3] if i else "val"
        lines += [f"{i}.png,{NAMES[i % 6]} noise,{split}", f"{i}.png,picture {i},{split}"]
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder / "pairs.csv"


def load(path, **options):
    return Dataset.from_card(catalog.find_dataset(str(path), {"source": "pairs", **options}))


def refused(path, **options):
    with pytest.raises(InputError) as caught:
        load(path, **options)
    return str(caught.value)


# The loss


def by_hand(z, t, scale, wrong):
    """CLIP's loss with plain sums; ``wrong[i][j]`` says whether text j is a negative of image i."""
    n, total = len(z), 0.0
    s = [[scale * sum(a * b for a, b in zip(u, v, strict=True)) for v in t] for u in z]
    for i in range(n):
        row = sum(math.exp(s[i][j]) for j in range(n) if j == i or wrong[i][j])
        column = sum(math.exp(s[j][i]) for j in range(n) if j == i or wrong[j][i])
        total += (math.log(row) + math.log(column)) / 2 - s[i][i]
    return total / n


def test_the_loss_is_the_formula_and_open_clips(features):
    z, t = features
    every = [[True] * 6] * 6
    scale = torch.tensor(7.0, dtype=torch.float64)
    ours = contrastive.compute_loss(z, t, scale)
    assert float(ours) == pytest.approx(by_hand(z.tolist(), t.tolist(), 7.0, every), abs=1e-12)
    theirs = open_clip.loss.ClipLoss()(z, t, scale)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_what_is_right_for_an_image_is_no_negative_of_it(features):
    z, t = features
    same = torch.eye(6, dtype=torch.bool)
    same[0, 3] = same[4, 1] = True  # caption 3 fits image 0 as well; the reverse is not said
    wrong = (~same).tolist()
    ours = contrastive.compute_loss(z, t, torch.tensor(7.0), same=same)
    assert float(ours) == pytest.approx(by_hand(z.tolist(), t.tolist(), 7.0, wrong), abs=1e-12)
    assert float(ours) < float(contrastive.compute_loss(z, t, torch.tensor(7.0)))
    everything = torch.ones(6, 6, dtype=torch.bool)
    assert float(contrastive.compute_loss(z, t, torch.tensor(7.0), same=everything)) == 0


def test_the_sigmoid_loss_is_the_formula_and_open_clips(features):
    z, t = features
    scale, bias = torch.tensor([7.0, -3.0], dtype=torch.float64).unbind()
    ours = contrastive.compute_loss(z, t, scale, bias)
    plain = sum(
        math.log1p(math.exp(-(1 if i == j else -1) * (7.0 * float(z[i] @ t[j]) - 3.0)))
        for i in range(6)
        for j in range(6)
    )
    assert float(ours) == pytest.approx(plain / 6, abs=1e-12)
    torch.testing.assert_close(ours, open_clip.loss.SigLipLoss()(z, t, scale, bias))
    same = torch.zeros(6, 6, dtype=torch.bool)
    same[2, 5] = True
    left = math.log1p(math.exp(7.0 * float(z[2] @ t[5]) - 3.0))
    masked = contrastive.compute_loss(z, t, scale, bias, same)
    assert float(masked) == pytest.approx((plain - left) / 6, abs=1e-12)


# Captions of images


def items_of(*captions):
    return [Item(str(i), 0, None, tuple(texts)) for i, texts in enumerate(captions)]


def test_captions_are_numbered_once_and_copies_share_theirs():
    made = Captions.of(items_of(["a", "b"], ["b"], ["c"], ["d"]), ["k", "l", "m", "k"])
    assert made.texts == ["a", "b", "c", "d"]
    assert made.own == [[0, 1, 3], [1], [2], [0, 1, 3]]
    right = made.right(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 3]))
    assert right.int().tolist() == [[1, 1, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [1, 1, 0, 1]]


def test_an_image_draws_each_of_its_captions_and_only_those():
    made = Captions.of(items_of(["a", "b", "c"], ["d"]), ["k", "l"])
    drawn = torch.stack([made.draw(torch.Generator().manual_seed(s)) for s in range(60)])
    assert set(drawn[:, 0].tolist()) == {0, 1, 2}
    assert set(drawn[:, 1].tolist()) == {3}
    again = made.draw(torch.Generator().manual_seed(5))
    assert torch.equal(again, drawn[5])


# Training


def plain_training(method, z, captions, recipe):
    """SGD over the loader's order with autograd on the written-out loss, captions drawn alike."""
    turn, stream = torch.zeros_like(method.turn), torch.Generator().manual_seed(recipe.seed)
    loader = Examples(z, torch.arange(len(z))).loader(
        recipe, torch.Generator().manual_seed(recipe.seed)
    )
    t = method.backbone.encode_text(captions.texts)
    for _ in range(recipe.epochs):
        drawn = captions.draw(stream)
        for inputs, images in loader:
            turn.requires_grad_()
            s = method.backbone.logit_scale * F.normalize(inputs[:, 0] + inputs[:, 0] @ turn, dim=1)
            s = s @ t[drawn[images]].T
            for i, image in enumerate(images.tolist()):
                for j, text in enumerate(drawn[images].tolist()):
                    if i != j and text in captions.own[image]:
                        s = s - torch.zeros_like(s).index_put_(
                            (torch.tensor(i), torch.tensor(j)), torch.tensor(1e9, dtype=s.dtype)
                        )
            both = s.logsumexp(1).mean() + s.logsumexp(0).mean()
            (gradient,) = torch.autograd.grad(both / 2 - s.diagonal().mean(), turn)
            turn = (turn - recipe.lr * gradient).detach()
    return turn


def problem_of(backbone, count=12):
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(count, 1, backbone.embed_dim, generator=generator, dtype=backbone.dtype)
    items = items_of(*([f"number {i % 9}", f"thing {i}"] for i in range(count)))
    captions = Captions.of(items, [str(i) for i in range(count)])
    return Turn(backbone, Task(())), F.normalize(z, dim=-1), captions


def trained(method, z, captions, recipe, dedup=True):
    make_step = functools.partial(PairStep, captions=captions, val_captions=captions, dedup=dedup)
    examples = Examples(z, torch.arange(len(z)))
    return train(method, examples, recipe, val=examples, make_step=make_step)


def test_training_equals_sgd_by_hand(double_backbone):
    recipe = Recipe(
        epochs=3, batch_size=5, lr=0.01, momentum=0.0, weight_decay=0.0, schedule="constant"
    )
    method, z, captions = problem_of(double_backbone)
    curve = trained(method, z, captions, recipe)
    expected = plain_training(Turn(double_backbone, Task(())), z, captions, recipe)
    torch.testing.assert_close(method.turn.detach(), expected, rtol=1e-9, atol=1e-12)
    assert len(curve) == 3 and set(curve[0]) == {"loss", "accuracy", "lr"}
    other = Turn(double_backbone, Task(()))
    trained(other, z, captions, recipe, dedup=False)
    assert not torch.allclose(other.turn, method.turn, atol=1e-6)


def test_a_backbone_with_a_bias_learns_by_the_sigmoid_loss(double_backbone):
    bias = torch.nn.Parameter(torch.tensor(-2.0, dtype=torch.float64), requires_grad=False)
    double_backbone.model.logit_bias = bias
    method, z, captions = problem_of(double_backbone)
    curve = trained(method, z, captions, Recipe(epochs=1, batch_size=12), dedup=False)
    drawn = captions.draw(torch.Generator().manual_seed(1))
    t = double_backbone.encode_text([captions.texts[i] for i in drawn.tolist()])
    expected = open_clip.loss.SigLipLoss()(z[:, 0], t, double_backbone.logit_scale, bias)
    assert curve[0]["loss"] == pytest.approx(float(expected), rel=1e-6)


def test_select_val_keeps_the_weights_of_the_best_recall(tiny_backbone):
    method, z, captions = problem_of(tiny_backbone)
    recipe = Recipe(epochs=8, batch_size=6, lr=0.3, momentum=0.0, select="val")
    curve = trained(method, z, captions, recipe)
    scores = [row["val_recall@1"] for row in curve]
    t = tiny_backbone.encode_text(captions.texts)
    with torch.no_grad():
        found = retrieval.rank_pairs(method.image_features(z[:, 0]), t, captions.own)
    assert found.recall(1) == max(scores)
    assert min(scores) < max(scores)


def test_features_of_a_method_decide_its_logits_and_not_zero_shots(tiny_backbone):
    method = Turn(tiny_backbone, Task(("cat", "dog", "eel")))
    torch.nn.init.normal_(method.turn)
    z = F.normalize(torch.randn(4, 16, generator=torch.Generator().manual_seed(3)), dim=1)
    w = tiny_backbone.encode_text(["a photo of a cat.", "a photo of a dog.", "a photo of a eel."])
    turned = F.normalize(z + z @ method.turn, dim=1)
    torch.testing.assert_close(method(z), tiny_backbone.logit_scale * turned @ w.T)
    torch.testing.assert_close(method.zero_shot_logits(z), tiny_backbone.logit_scale * z @ w.T)


# Pairs from a table


def test_an_image_has_all_captions_of_its_rows(pairs):
    data = load(pairs)
    assert (len(data.train), len(data.val), len(data.test), data.classes) == (11, 1, 6, [])
    first = data.train[0]
    assert first.path == str(pairs.parent / "1.png")
    assert first.captions == ("green noise", "picture 1")
    assert [caption.line for caption in first.captions] == [4, 5]


def test_columns_of_other_names_and_no_splits(pairs):
    text = pairs.read_text().replace("image,caption,split", "picture;words;x").replace(",", ";")
    pairs.write_text(text)
    assert "no column for the image: it has picture, words, x" in refused(pairs)
    assert "dataset.caption=COLUMN" in refused(pairs, image="picture")
    data = load(pairs, image="picture", caption="words")
    assert (len(data.train), len(data.val), len(data.test)) == (11, 2, 5)
    assert load(pairs, image="picture", caption="words").test == data.test


def test_groups_stay_in_one_split(pairs):
    lines = pairs.read_text().splitlines()
    rows = [f"{line.rsplit(',', 1)[0]},{i // 6}" for i, line in enumerate(lines[1:])]
    pairs.write_text("\n".join(["image,caption,patient", *rows]))
    data = load(pairs)
    groups = [{item.group for item in part} for part in data.parts().values()]
    assert sum(map(len, groups)) == 6 and groups[0] and groups[2]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("picture 4,", " ,", "caption is empty in 1 rows (lines 11)"),
        ("4.png,", "44.png,", "1 images of"),
        ("4.png,picture 4,train", "4.png,picture 4,test", "differ in split, lines 10 ('train')"),
        ("4.png,picture 4,train", "../4.png,picture 4,train", "line 11: '../4.png' leaves"),
        ("picture 4,train", "picture 4,trian", "did you mean 'train'?"),
        (",test", ",val", "has no rows of the split test"),
        ("picture 4,", "NaN,", "caption is empty (NaN) in 1 rows (lines 11)"),
        ("picture 4,", "None,", "caption is empty (None) in 1 rows (lines 11)"),
        ("image,caption,split", "image,caption,set", ""),
    ],
)
def test_a_table_that_cannot_be_used(pairs, old, new, message):
    text = pairs.read_text()
    changed = text.replace(old, new) if old == ",test" else text.replace(old, new, 1)
    assert changed != text
    pairs.write_text(changed)
    if message:
        assert message in refused(pairs)
    else:
        assert load(pairs).inventory.columns["split"] == "set"


def write_captions(pairs, *captions, split=("train", "train", "test")):
    """Write a table of the pictures with these captions, one a picture."""
    rows = [f"{i}.png,{text},{split[i % len(split)]}" for i, text in enumerate(captions)]
    pairs.write_text("\n".join(["image,caption,split", *rows]) + "\n")
    return pairs


def test_one_caption_for_all_images_is_refused(pairs):
    write_captions(pairs, *["a fundus  photograph"] * 9)
    assert refused(pairs) == (
        f"{pairs}: all 9 images have the caption 'a fundus photograph', and nothing tells them "
        "apart. Write what each shows."
    )


def test_captions_of_several_images_are_counted(pairs):
    write_captions(pairs, "a", "b", "a", "c", "c", "a", "d", "e", "f")
    assert load(pairs).inventory.notes == (
        "5 of 9 images share a caption with another; the most common, 'a', stands at 3",
    )
    assert load(pairs).inventory.columns == {
        "image": "image", "caption": "caption", "split": "split", "group": None,
    }  # fmt: skip
    write_captions(pairs, *"abcdefghi")
    assert load(pairs).inventory.notes == ()


def test_rows_of_an_image_repeat_its_path_and_its_group_is_named_once(pairs):
    lines = pairs.read_text().splitlines()
    rows = [f"{line.rsplit(',', 1)[0]},{i // 2}" for i, line in enumerate(lines[1:])]
    pairs.write_text("\n".join(["image,caption,patient", *rows]))
    assert load(pairs).inventory.columns["group"] == "patient"


def draw(pairs, **given):
    config = compose({"method": "lora", "objective": "contrastive", "dataset": str(pairs), **given})
    dataset = load(pairs)
    return config.objective.draw(config.options, Data(dataset, dataset)).support.notes


def test_batches_in_which_a_caption_has_no_other_beside_it(pairs):
    message = problems(dataset=str(pairs), batch_size=1)
    assert message.startswith("batch_size=1 cannot be used with objective=contrastive: a caption ")
    assert "Give at least 2" in message
    write_captions(pairs, *"abcdefghijklmno", split=("train", "train", "train", "test", "test"))
    assert draw(pairs, batch_size=4, drop_last=True) == draw(pairs, batch_size=3) == []
    assert draw(pairs, batch_size=4, drop_last=False) == [
        "the last batch of every epoch holds one image with its caption, which teaches nothing: "
        "drop_last=true leaves it out"
    ]
    assert draw(pairs) == [
        "9 training images are fewer than batch_size=128: a batch holds all of them"
    ]


def test_one_caption_in_a_split_is_refused(pairs):
    for split, captions in (("test", "abxcdxefx"), ("train", "xxaxxbxxc")):
        with pytest.raises(InputError) as caught:
            draw(write_captions(pairs, *captions))
        count = captions.count("x")
        assert str(caught.value) == (
            f"all {count} images of the {split} split have the caption 'x', and nothing tells them "
            "apart. Write what each shows."
        )
    alone = write_captions(pairs, *"abcdef", split=["train"] * 5 + ["test"])
    assert draw(alone, batch_size=4) == [
        "there is one test image: its captions are found whatever is learned"
    ]


def problems(**given):
    with pytest.raises(InputError) as caught:
        compose({"method": "lora", "objective": "contrastive", **given})
    return str(caught.value)


def test_objective_and_data_set_must_fit(pairs, animals):
    message = problems(dataset=str(animals))
    assert "has classes (source: folder), and objective=contrastive learns from captions" in message
    assert "objective=classify, or a table with an image and a caption column" in message
    card = pairs.parent / "card.yaml"
    card.write_text("name: mine\nsource: pairs\nfile: pairs.csv\n")
    message = problems(dataset=str(card), objective="classify")
    assert "mine has captions (source: pairs)" in message
    assert "use objective=contrastive, or a folder of class folders" in message
    assert compose({"dataset": str(card), "objective": "contrastive"}).dataset.name == "mine"
    with pytest.raises(InputError, match="or train on its captions: objective=contrastive"):
        Dataset.load(pairs)


@pytest.mark.parametrize(
    "option", ["guard", "calibrate", "class_balanced", "label_smoothing", "conformal", "protocol"]
)
def test_options_of_classes_are_refused(pairs, option):
    value = {"label_smoothing": 0.1, "conformal": 0.1, "protocol": "base_to_new"}.get(option, True)
    message = problems(dataset=str(pairs), **{option: value})
    assert f"{option}={value} cannot be used with objective=contrastive" in message
    message = problems(objective="classify", dataset="eyes", dedup=False)
    assert message.startswith("dedup=False cannot be used with objective=classify: ")


def test_the_recipe_of_captions_stands_in_the_place_of_a_methods_own(pairs):
    recipe = yamls.read_yaml(locate_resource("configs") / "objective" / "contrastive.yaml")
    assert set(recipe) < {field.name for field in dataclasses.fields(RunOptions)}
    for name in ("lora", "coop"):
        made = compose({"method": name, "dataset": str(pairs), "objective": "contrastive"})
        assert {key: getattr(made.options, key) for key in recipe} == recipe
        assert (made.dataset.source, made.cpu_recipe) == ("pairs", {})
    own = compose({"dataset": str(pairs), "objective": "contrastive", "epochs": 3, "lr": 0.5})
    assert (own.options.epochs, own.options.lr) == (3, 0.5)
    assert "give the length as epochs=10" in problems(dataset=str(pairs), iterations_per_shot=5)


# Retrieval


def test_ranks_against_counting(features):
    z, t = features
    own = [[1], [0, 2], [3], [3], [4], [5, 0]]
    found = retrieval.rank_pairs(z, t, own)
    of_pairs = []
    for i, texts in enumerate(own):
        scores = [float(z[i] @ t[j]) for j in range(6)]
        best = max(scores[j] for j in texts)
        rank = sum(s >= best for j, s in enumerate(scores) if j not in texts)
        assert int(found.of_images[i]) == rank
        for j in texts:
            right = [k for k in range(6) if j in own[k]]  # any image with that caption
            scores = [float(z[k] @ t[j]) for k in range(6)]
            best = max(scores[k] for k in right)
            of_pairs.append(sum(s >= best for k, s in enumerate(scores) if k not in right))
    assert found.of_pairs.tolist() == of_pairs
    assert found.image.tolist() == [0, 1, 1, 2, 3, 4, 5, 5]


def test_features_that_are_all_the_same_retrieve_nothing():
    same = torch.ones(12, 4) / 2
    found = retrieval.rank_pairs(same, same, [[i] for i in range(12)])
    table = retrieval.measure(found).table
    assert {row["value"] for row in table.values()} == {0.0}


def test_recalls_with_intervals_over_images_and_groups():
    found = retrieval.Ranks(
        torch.tensor([0, 4, 9, 30]), torch.tensor([0, 7, 2, 0, 0]), torch.tensor([0, 0, 1, 2, 3])
    )
    measured = retrieval.measure(found)
    values = {name: row["value"] for name, row in measured.table.items()}
    assert values == {
        "image_to_text_recall@1": 0.25,
        "image_to_text_recall@5": 0.5,
        "image_to_text_recall@10": 0.75,
        "text_to_image_recall@1": 0.6,
        "text_to_image_recall@5": 0.8,
        "text_to_image_recall@10": 1.0,
    }
    for row in measured.table.values():
        assert row["low"] <= row["value"] <= row["high"]
    grouped = retrieval.measure(found, ["a", "a", "b", "b"]).samples["image_to_text_recall@5"]
    assert set(np.unique(grouped)) == {0.0, 0.5, 1.0}  # both groups, or one of them twice


# A run


@pytest.fixture
def train_pairs(train_tiny, pairs):
    def run(*words):
        return train_tiny(pairs, "objective=contrastive", "batch_size=4", *words)

    return run


def test_a_run_on_captions(train_pairs, pairs, tmp_path, everything_in, run_cli):
    code, out, err = train_pairs("method=lora", "lr=0.01", "shots=4")
    assert code == 0, err
    folder = tmp_path / "out"
    assert everything_in(folder) == [
        "adapter/README.md",
        "adapter/adapter.safetensors",
        "adapter/images_seen.safetensors",
        "config.yaml",
        "images.jsonl",
        "metrics.json",
        "report.html",
        "retrieval.csv",
        "support.jsonl",
    ]
    metrics = json.loads((folder / "metrics.json").read_text())
    names = [f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    assert list(metrics["test"]) == list(metrics["zero_shot"]) == names
    assert (metrics["n_test"], metrics["n_captions"], metrics["n_texts"]) == (6, 12, 8)
    assert metrics["n_support"] == 11 and any(
        "shots=4 draws nothing" in note for note in metrics["notes"]
    )
    assert "image to text recall@1" in out and "'classes=[cat, dog]'" in out
    rows = [json.loads(line) for line in (folder / "support.jsonl").read_text().splitlines()]
    assert len(rows) == 11 and rows[0]["captions"] == ["green noise", "picture 1"]
    with open(folder / "retrieval.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert json.loads(table[0]["captions"]) == ["blue noise", "picture 2"]
    assert float(table[0]["cos1"]) >= float(table[0]["cos2"])
    assert "Classes: none" in (folder / "adapter" / "README.md").read_text()
    picture = pairs.parent / "2.png"
    code, out, err = run_cli("predict", "model=tiny.yaml", folder / "adapter", picture)
    assert code == 2 and "has no classes" in err and 'classes="[cat, dog]"' in err
    code, out, err = run_cli(
        "predict", "model=tiny.yaml", folder / "adapter", picture, "classes=[cat, dog]", "json=true"
    )
    assert code == 0, err
    assert {row["class"] for row in json.loads(out)["predictions"]} == {"cat", "dog"}


def test_a_delta_from_captions_gives_what_it_measured(train_pairs, pairs, tmp_path):
    code, _, err = train_pairs("method=lora", "lr=0.01")
    assert code == 0, err
    model = clip_adapt.load(tmp_path / "out" / "adapter", model="tiny.yaml")
    texts = ["red noise", "picture 5"]
    tuned = model.method.tuned.encode_text(texts)
    assert torch.equal(model.encode_text(texts), tuned)
    assert not torch.allclose(tuned, model.backbone.encode_text(texts), atol=1e-4)
    test = load(pairs).test
    captions = Captions.of(test, [item.path for item in test])
    pixels = torch.cat(list(model.batches([item.path for item in test])))
    found = retrieval.rank_pairs(
        model.encode_image(pixels), model.encode_text(captions.texts), captions.own
    )
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())["test"]
    again = retrieval.measure(found).table
    assert {n: r["value"] for n, r in again.items()} == {n: r["value"] for n, r in written.items()}
    with pytest.raises(InputError, match="has no classes"):
        model.probabilities(pixels)
    classes = model.for_classes(["red", "blue"], template="{} noise")
    w = model.encode_text(["red noise", "blue noise"])
    expected = (model.backbone.logit_scale * model.encode_image(pixels) @ w.T).softmax(1)
    torch.testing.assert_close(classes.probabilities(pixels), expected)
    with pytest.raises(InputError, match="given twice"):
        model.for_classes(["red", "red"])


def test_evaluate_measures_retrieval_as_the_run_did(train_pairs, pairs, animals, run_cli):
    code, _, err = train_pairs("method=coop", "method.n_ctx=2", "lr=0.01")
    assert code == 0, err
    written = json.loads(Path("out/metrics.json").read_text())
    code, out, err = run_cli(
        "evaluate", "model=tiny.yaml", "out/adapter", f"dataset={pairs}", "json=true"
    )
    assert code == 0, err
    result = json.loads(out)
    assert (result["test"], result["n_texts"]) == (written["test"], written["n_texts"])
    other = write_captions(pairs, *"xyxyx", split=("test", "train"))
    code, _, err = run_cli("evaluate", "model=tiny.yaml", "out/adapter", f"dataset={other}")
    assert code == 2 and "images of the test split have the caption 'x', and nothing tells" in err
    code, _, err = run_cli("evaluate", "model=tiny.yaml", "out/adapter", f"dataset={animals}")
    assert code == 2 and "add classes=dataset" in err
    code, out, err = run_cli(
        "evaluate", "model=tiny.yaml", "out", f"dataset={animals}", "classes=dataset", "json=true"
    )
    assert code == 0, err
    assert "accuracy" in out


def test_coop_learns_a_context_before_captions(train_pairs, tmp_path):
    code, _, err = train_pairs("method=coop", "method.n_ctx=2", "lr=0.01", "select=val")
    assert code == 0, err
    model = clip_adapt.load(tmp_path / "out" / "adapter", model="tiny.yaml")
    expected = model.backbone.encode_prompts(model.method.ctx, ["red noise"])
    assert torch.equal(model.encode_text(["red noise"]), expected.detach())
    _, tensors = delta.read(delta.locate(tmp_path / "out"))
    assert list(tensors) == ["ctx"]
    curve = json.loads((tmp_path / "out" / "metrics.json").read_text())["curve"]
    assert list(curve) == ["loss", "accuracy", "lr", "val_recall@1"]


def test_the_same_seed_gives_the_same_delta(train_pairs, tmp_path):
    found = []
    for name in ("a", "b"):
        code, _, err = train_pairs("method.n_ctx=2", f"output={name}")
        assert code == 0, err
        found.append(delta.read(delta.locate(tmp_path / name))[1]["ctx"])
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=zero_shot"], "nothing to train with method=zero_shot. Use one of: "),
        (["method=linear_probe"], "method=linear_probe"),
        (["method=coop", "method.csc=true"], "belongs to classes or to their logits"),
    ],
)
def test_methods_that_cannot_learn_from_captions(train_pairs, words, message, everything_in):
    code, _, err = train_pairs(*words)
    assert code == 2 and message in err and "coop" in err and "lora" in err
    assert everything_in("out") is None


def test_captions_that_are_too_long_are_listed(train_pairs, pairs, everything_in):
    pairs.write_text(pairs.read_text().replace("picture 4,", "word " * 90 + ","))
    code, _, err = train_pairs("method=lora")
    assert code == 2 and "1 captions are longer than the 77 tokens" in err
    assert "line 11: 92 tokens: 'word word" in err
    pairs.write_text(pairs.read_text().replace("word " * 90, "word " * 70))
    code, _, err = train_pairs("method=coop", "method.n_ctx=16")
    assert code == 2 and "line 11: a prompt of 88 tokens" in err
    assert everything_in("out") is None


def test_an_image_of_two_splits_is_refused(train_pairs, pairs):
    (pairs.parent / "2.png").write_bytes((pairs.parent / "1.png").read_bytes())
    code, _, err = train_pairs("method=lora")
    assert code == 2 and "stand in two splits" in err


def test_texts_of_a_frozen_tower_are_encoded_once(tiny_backbone, monkeypatch):
    method, z, captions = problem_of(tiny_backbone)
    calls, encode = [], Backbone.encode_text

    def counted(self, texts):
        calls.append(texts)
        return encode(self, texts)

    monkeypatch.setattr(Backbone, "encode_text", counted)
    trained(method, z, captions, Recipe(epochs=4, batch_size=6))
    assert calls == [captions.texts]
