"""The page of a run on captions, and the table of retrieval that it is made from."""

import base64
import csv
import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from html_page import Page
from PIL import Image

from clip_adapt.data import scan
from clip_adapt.data.items import Item, format_manifest
from clip_adapt.errors import InputError
from clip_adapt.evaluation import resampling, retrieval
from clip_adapt.evaluation.retrieval import Retrieval
from clip_adapt.pages import facts, plots, retrieval_page, retrieval_table
from clip_adapt.pages.retrieval_table import Answer, ScoredText
from clip_adapt.system.files import write_text

SCRIPT = """<script>alert('x')</script> & "quoted" """.strip()
PIPED = 'left | right, "both"'
WAYS = ("image_to_text", "text_to_image")


def found_of(cosines, texts, own, paths=None):
    """A Retrieval whose images have these cosines with the texts (N, M)."""
    z, t = torch.tensor(cosines, dtype=torch.float64), torch.eye(len(texts), dtype=torch.float64)
    items = [
        Item(path, 0, None, tuple(texts[i] for i in mine))
        for path, mine in zip(paths or [f"{i}.png" for i in range(len(own))], own, strict=True)
    ]
    ranks = retrieval.rank_pairs(z, t, own)
    measured = retrieval.measure(ranks)
    return Retrieval(items, list(texts), own, z, t, ranks, measured, measured)


def hand_made(paths=None):
    """Three images and three texts: ranks 1, 2 and 3 of images, 1, 3, 2 and 1 of captions."""
    cosines = [[0.9, 0.5, 0.1], [0.8, 0.2, 0.3], [0.4, 0.6, 0.4]]
    return found_of(cosines, ["a dog", PIPED, SCRIPT], [[0], [1, 2], [0]], paths)


@pytest.fixture
def make_run(tmp_path):
    """A function that writes the files of a finished run on captions."""

    def make(found=None, name="run", training=2, command="train me", **metrics):
        folder = tmp_path / name
        folder.mkdir()
        if found is None:
            paths = [str(folder / f"{i}.png") for i in range(3)]
            for path in paths:
                Image.new("RGB", (30, 20), "teal").save(path)
            found = hand_made(paths)
        support = [
            {"path": item.path, "captions": [f"pair {i}", *item.captions], "split": "train"}
            for i in range(training)
            for item in [found.items[i % len(found.items)]]
        ]
        text = f"# {command}\nmethod: {{name: made}}\ndataset: {{name: pets}}\n"
        write_text(folder / "config.yaml", f"{text}model: {{name: tiny}}\nseed: 3\n")
        write_text(folder / "support.jsonl", "".join(json.dumps(r) + "\n" for r in support))
        paths = [item.path for item in found.items]
        write_text(folder / "images.jsonl", format_manifest(scan.list_digests(paths)))
        write_text(folder / "retrieval.csv", retrieval.write_csv(found))
        usual = {
            **found.facts(),
            "n_support": training,
            "notes": [],
            "curve": {"loss": [2.0, 1.5], "accuracy": [0.1, 0.4], "lr": [0.1, 0.1]},
            "seconds": {"total": 2.0},
            "trainable_parameters": 64,
            "adapter_bytes": 100,
            "peak_memory_bytes": 1e9,
            "versions": {"torch": "9.9"},
        }
        write_text(folder / "metrics.json", json.dumps({**usual, "command": command, **metrics}))
        return folder

    return make


def render(folder):
    return retrieval_page.render(facts.read(folder))


# The table


def test_the_table_of_a_hand_made_case():
    lines = retrieval.write_csv(hand_made()).splitlines()
    assert lines[0] == (
        "path,captions,text1,cos1,text2,cos2,text3,cos3,rank,right,right_cos,wrong,wrong_cos,"
        "image_ranks"
    )
    near = '0.png,"[""a dog""]",a dog,0.9000,"left | right, ""both""",0.5000,'
    assert lines[1].startswith(near)
    first, second, _ = csv.reader(lines[1:])
    assert first[6:] == [SCRIPT, "0.1000", "1", "a dog", "0.900000", PIPED, "0.500000", "[1]"]
    assert second[:2] == ["1.png", json.dumps([PIPED, SCRIPT])]
    assert second[2:7] == ["a dog", "0.8000", SCRIPT, "0.3000", PIPED]
    assert second[7:] == ["0.2000", "2", SCRIPT, "0.300000", "a dog", "0.800000", "[3, 2]"]


def test_what_is_written_is_read_again(tmp_path):
    path = tmp_path / "retrieval.csv"
    write_text(path, retrieval.write_csv(hand_made()))
    first, second, third = retrieval_table.read_answers(path, "remedy")
    assert first == Answer(
        path="0.png",
        captions=["a dog"],
        nearest=[ScoredText("a dog", 0.9), ScoredText(PIPED, 0.5), ScoredText(SCRIPT, 0.1)],
        rank=1,
        right=ScoredText("a dog", 0.9),
        wrong=ScoredText(PIPED, 0.5),
        image_ranks=[1],
    )
    assert first.margin == pytest.approx(0.4) and first.put_before == []
    assert second.captions == [PIPED, SCRIPT] and second.image_ranks == [3, 2]
    assert second.put_before == [ScoredText("a dog", 0.8)]
    # A wrong text that is as near as the right one stands before it.
    assert third.rank == 3 and third.put_before == [ScoredText(PIPED, 0.6), ScoredText(SCRIPT, 0.4)]


def test_ranks_of_the_table_are_the_recalls_of_the_run(tmp_path):
    generator = torch.Generator().manual_seed(0)
    cosines = F.normalize(torch.randn(40, 30, generator=generator, dtype=torch.float64))
    own = [[i % 30, (7 * i + 3) % 30] if i % 3 else [i % 30] for i in range(40)]
    found = found_of(cosines.tolist(), [f"text {i}" for i in range(30)], own)
    path = tmp_path / "retrieval.csv"
    write_text(path, retrieval.write_csv(found))
    rows = retrieval_table.count_ranks(retrieval_table.read_answers(path, ""), (1, 5, 10))
    assert [row.ranks for row in rows] == ["1", "2 to 5", "6 to 10", "beyond 10"]
    for way, share in zip(WAYS, ("image_share", "caption_share"), strict=True):
        upto = np.cumsum([getattr(row, share) for row in rows])
        recalls = [found.ours.table[f"{way}_recall@{k}"]["value"] for k in (1, 5, 10)]
        assert upto == pytest.approx([*recalls, 1.0])
    assert sum(row.images for row in rows) == 40 and sum(row.captions for row in rows) == 66


def test_blocks_of_the_table_do_not_move_a_row(monkeypatch):
    whole = retrieval.write_csv(hand_made())
    monkeypatch.setattr(retrieval, "BLOCK", 2)
    assert retrieval.write_csv(hand_made()) == whole


def test_copies_of_an_image_share_their_captions():
    found = found_of([[0.2, 0.9], [0.2, 0.9]], ["a", "b"], [[0, 1], [0, 1]])
    items = [Item("1.png", 0, None, ("a",)), Item("2.png", 0, None, ("b",))]
    written = retrieval.write_csv(replace(found, items=items))
    for row in csv.DictReader(io.StringIO(written)):
        assert json.loads(row["captions"]) == ["a", "b"] and row["rank"] == "1"
        assert (row["wrong"], row["wrong_cos"]) == ("", "")


def test_medians_and_chance():
    answers = [
        Answer("", ["a"], [], 4, ScoredText("a", 0), None, [1]),
        Answer("", ["a", "b"], [], 2, ScoredText("a", 0), None, [1, 9]),
        Answer("", ["b", "c"], [], 9, ScoredText("b", 0), None, [8, 3]),
        Answer("", ["c"], [], 3, ScoredText("c", 0), None, [3]),
    ]
    assert retrieval_table.find_medians(answers) == (3, 3)
    # 6 right ones of 4 images in 3 texts; every caption has 2 of 4 images.
    assert retrieval_table.estimate_chance(answers) == pytest.approx((6 / 4 / 3, 2 / 4))
    assert [a.rank for a in retrieval_table.choose_misses(answers, 3)] == [9, 4, 3]


def test_the_narrowest_hits_come_first():
    pairs = [(0.5, 0.3), (0.5, 0.499), (0.2, None), (0.9, 0.8)]
    answers = [
        Answer(
            str(i),
            ["a"],
            [],
            1,
            ScoredText("a", ours),
            ScoredText("b", other) if other else None,
            [1],
        )
        for i, (ours, other) in enumerate(pairs)
    ]
    assert [a.path for a in retrieval_table.choose_hits(answers, 9)] == ["1", "3", "0", "2"]


# The page


def test_the_texts_of_a_page(make_run):
    page = Page(render(make_run()))
    assert page.wrong == [] and page.open == []
    for part in (
        "made on pets 2 training images with captions, seed 3, backbone tiny; "
        "3 test images with 4 captions, 3 different texts",
        "Half of the images have it at rank 2 or before, half of the captions at rank 1 or before",
        "rank image to text text to image 1 1 33.3 % 2 50.0 % 2 to 5 2 66.7 % 2 50.0 % "
        "6 to 10 0 0.0 % 0 0.0 % beyond 10 0 0.0 % 0 0.0 %",
        f"Narrowest hits The right text is the first, and a wrong one is close behind it. "
        f"0.png ahead by 0.400000 rank text cosine 1 a dog ✓ right 0.9000 {PIPED} 0.5000 "
        "a dog finds its image at rank 1",
        f"rank 3 of 3 rank text cosine 1 {PIPED} 0.6000 2 {SCRIPT} 0.4000 "
        "3 a dog ✓ right 0.4000 a dog finds its image at rank 1",
        f"rank 2 of 3 rank text cosine 1 a dog 0.8000 2 {SCRIPT} ✓ right 0.3000 "
        f"{PIPED} finds its image at rank 3 {SCRIPT} finds its image at rank 2",
        f"Training pairs What it learned from: 2 images in all, listed in support.jsonl. "
        f"0.png pair 0 a dog 1.png pair 1 {PIPED} {SCRIPT}",
        "the share of images that are nearest to their own caption",
        "pets.predict",
        "train me",
    ):
        assert part in page.text, part
    assert page.text.index("rank 3 of 3") < page.text.index("rank 2 of 3")
    assert "On val" not in page.text and "Near-duplicates" not in page.text


def test_the_headline_stands_beside_zero_shot_and_chance(make_run):
    row = {"value": 0.25, "low": 0.125, "high": 0.5}
    test = {f"{way}_recall@{k}": {**row} for way in WAYS for k in (1, 5, 10)}
    zero_shot = {name: {**row, "value": 0.75} for name in test}
    page = Page(render(make_run(test=test, zero_shot=zero_shot)))
    for way in ("image to text", "text to image"):
        pattern = rf"{way} recall@1 \S+( %)? 95 % interval .{{5,20}} zero-shot \S+( %)? chance \S+"
        assert len(re.findall(pattern, page.text)) == 1
    assert len([a for a in page.all("span") if a.get("class") == "range"]) == 6


def test_captions_put_no_markup_into_a_page(make_run):
    text = render(make_run())
    assert "<script" not in text and '"quoted"' not in text
    page = Page(text)
    assert page.text.count(SCRIPT) >= 3
    assert f"{PIPED}; the nearest text is: a dog" in [image["alt"] for image in page.all("img")]


def test_a_page_needs_nothing_else(make_run):
    folder = make_run()
    text = render(folder)
    page = Page(text)
    assert not re.search(r"url\((?!#)|@import|https?://", text)
    assert not page.all("script") and not page.all("link")
    assert all((Path(folder) / a["href"]).is_file() for a in page.all("a"))
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert all(image["alt"] for image in page.all("img"))
    (drawn,) = [a for a in page.all("div") if a.get("role") == "img"]
    assert "over 2 epochs, the last loss 1.500" in drawn["aria-label"]


def test_pictures_that_are_gone_leave_a_word(make_run):
    folder = make_run()
    for path in folder.glob("*.png"):
        path.unlink()
    page = Page(render(folder))
    assert page.all("img") == []
    assert page.text.count("the picture is not there any more") == 5


def test_one_caption_of_several_images(make_run):
    found = found_of([[0.9, 0.8], [0.1, 0.5], [0.3, 0.2]], ["shared", "own"], [[0], [0, 1], [0]])
    page = Page(render(make_run(found)))
    assert "3 test images with 4 captions, 2 different texts" in page.text
    assert "1 3 100.0 % 3 75.0 % 2 to 5 0 0.0 % 1 25.0 %" in page.text
    assert "There is no miss." in page.text and "every text is right" in page.text
    assert page.text.count("shared finds its image at rank 1") == 3


def test_one_test_image(make_run):
    page = Page(render(make_run(found_of([[0.9, 0.8]], ["one", "two"], [[0, 1]]))))
    assert page.wrong == [] and page.open == []
    assert "1 test image with 2 captions, 2 different texts" in page.text
    assert "There is no miss." in page.text
    assert "every text is right rank text cosine 1 one ✓ right 0.9000 one finds" in page.text


def test_features_that_are_all_the_same_have_no_hit(make_run):
    found = found_of([[0.5] * 8] * 8, "abcdefgh", [[i] for i in range(8)])
    page = Page(render(make_run(found)))
    assert "There is no hit." in page.text
    assert "and 2 more" in page.text and "rank 8 of 8" in page.text


def test_many_images_give_a_page_of_bounded_size(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr(resampling, "RESAMPLES", 20)
    n, wide = 5000, 40
    stream = np.random.default_rng(0)
    paths = [str(tmp_path / f"{i}.jpg") for i in range(n)]
    Image.fromarray(stream.integers(0, 255, (300, 300, 3), dtype=np.uint8)).save(paths[0])
    for path in paths[1:]:
        os.link(paths[0], path)
    texts = [f"text {i} {'long ' * 60}" for i in range(wide)]
    cosines = np.round(stream.uniform(-1, 1, (n, wide)), 3).tolist()
    own = [[(i + j) % wide for j in range(1 + i % 9)] for i in range(n)]
    text = render(make_run(found_of(cosines, texts, own, paths), training=n))
    page = Page(text)
    assert len(page.all("img")) == 12 + 12 + 48
    assert len(text) < 1.5e6
    assert "5,000 test images" in page.text and "one in 105 is shown" in page.text
    assert "and 2 more" in page.text  # captions of a training image that has eight


def test_near_duplicates_stand_side_by_side(make_run):
    folder = make_run()
    header = "path,split,looks_like,of_split,bits_of_256\n"
    rows = [f"{folder}/{i}.png,test,{folder}/2.png,train,{20 - i}\n" for i in range(2)]
    write_text(folder / "near_duplicates.csv", header + "".join(rows))
    page = Page(render(folder))
    assert "2 in all, listed in near_duplicates.csv" in page.text
    assert page.text.index("19 of 256 bits differ") < page.text.index("20 of 256 bits differ")
    alts = [image["alt"] for image in page.all("img")]
    assert alts.count("test image") == alts.count("train image that looks like it") == 2


def test_the_curve_of_captions(make_run):
    curve = {"loss": [2.0, 1.0], "accuracy": [0.1, 0.5], "val_recall@1": [0.2, 0.3]}
    text = render(make_run(curve=curve))
    assert "On val: recall at 1" in Page(text).text
    svg = text[text.index("<svg") : text.index("</svg>")]
    assert all(f">{word}</text>" in svg for word in ("in the batch", "val", "share in %", "loss"))
    drawn = plots.draw_learning_curve({"loss": [1.0], "accuracy": [0.5], "val_accuracy": [0.5]})
    assert all(f">{w}</text>" in drawn for w in ("support set", "val", "accuracy in %"))
    assert "There is none" in Page(render(make_run(name="none", curve={}))).text


def test_notes_and_learned_words_stand_on_the_page(make_run):
    learned = [{"title": "Words", "note": "", "columns": ["word"], "rows": [["of"]] * 101}]
    text = Page(render(make_run(notes=["mind the gap"], learned=learned))).text
    assert "mind the gap" in text and "What was learned Words Words word of of" in text
    assert "and 1 more rows in metrics.json" in text


def edit(old, new):
    return lambda text: text.replace(old, new)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: "", "StopIteration()"),
        (lambda text: text.splitlines()[0] + "\n", "there is no image in it"),
        (lambda text: "path,captions,text1,cos1\na.png,x | y,x,0.5\n", "there is no column rank"),
        (edit('"[""a dog""]"', "a dog"), "JSONDecodeError"),
        (edit('"[""a dog""]"', "[]"), "expected a list of str, not []"),
        (edit('"[""a dog""]"', "[1]"), "expected a list of str, not [1]"),
        (edit("0.900000", "much"), "could not convert string to float: 'much'"),
        (edit("[1]", "[0]"), "do not fit its captions"),
        (edit("[1]", '"[1, 2]"'), "do not fit its captions"),
        (edit("[1]", "[1],"), "zip() argument 2 is longer"),
        (lambda text: text + '"', "unexpected end of data"),
        (None, "FileNotFoundError"),
    ],
)
def test_a_damaged_table_is_refused_with_the_remedy(make_run, damage, reason):
    path = make_run(command="python -m clip_adapt.train method=made") / "retrieval.csv"
    if damage is None:
        path.unlink()
    else:
        write_text(path, damage(path.read_text(encoding="utf-8")))
    with pytest.raises(InputError) as error:
        render(path.parent)
    message = str(error.value)
    assert message.startswith(f"{path} cannot be read as the retrieval of a run: ")
    assert reason in message
    assert message.endswith("Run again: python -m clip_adapt.train method=made")


def test_a_table_of_other_images_is_refused(make_run):
    folder = make_run(n_test=4)
    with pytest.raises(InputError, match=r"holds 3 images, and 4 were measured. Run again: train"):
        render(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("support.jsonl", "{"),
        ("near_duplicates.csv", ""),
        ("near_duplicates.csv", "path\nx,y\n"),
        ("near_duplicates.csv", "path,split,looks_like,of_split,bits_of_256\na,test,b,train,few\n"),
    ],
)
def test_other_damaged_files_are_refused_by_their_name(make_run, name, content):
    folder = make_run()
    write_text(folder / name, content)
    with pytest.raises(InputError) as error:
        render(folder)
    assert str(error.value).startswith(f"{folder / name} is damaged: ")
    assert str(error.value).endswith("Run again: train me")


def test_the_page_of_a_real_run(train_tiny, tmp_path):
    stream = np.random.default_rng(0)
    lines = ["image,caption,split"]
    for i in range(12):
        Image.fromarray(stream.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(f"{i}.png")
        split = "test" if i % 3 == 0 else "train"
        lines += [f"{i}.png,{('red', 'blue')[i % 2]} noise,{split}", f"{i}.png,picture {i},{split}"]
    Path("pairs.csv").write_text("\n".join(lines) + "\n")
    words = ("objective=contrastive", "batch_size=4", "method.n_ctx=2")
    code, _, err = train_tiny("pairs.csv", *words)
    assert code == 0, err
    page = Page(render(tmp_path / "out"))
    written = json.loads(Path("out/metrics.json").read_text())
    assert page.wrong == [] and page.open == []
    assert "8 training images with captions" in page.text
    assert "4 test images with 8 captions, 6 different texts" in page.text
    answers = retrieval_table.read_answers(tmp_path / "out" / "retrieval.csv", "")
    first = retrieval_table.count_ranks(answers, (1,))[0]
    values = [written["test"][f"{way}_recall@1"]["value"] for way in WAYS]
    assert [first.image_share, first.caption_share] == values
    for image in page.all("img"):
        data = base64.b64decode(image["src"].partition(",")[2])
        assert Image.open(io.BytesIO(data)).size == (40, 40)
