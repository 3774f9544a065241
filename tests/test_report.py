"""The page of a run and the index over runs: what stands on them, and that they stand alone."""

import base64
import hashlib
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from finished_run import INJECTED, write_run
from html_page import Page
from PIL import Image

from clip_adapt.evaluation.reading import find_quantity
from clip_adapt.pages import facts, numbers, pictures, plots, run_page, tables
from clip_adapt.pages.facts import ImagePredictions
from clip_adapt.runs.pages import write_index, write_page
from clip_adapt.system.files import hash_file


@pytest.fixture
def make_run(tmp_path):
    return lambda name="run", *args, **more: write_run(tmp_path / name, *args, **more)


def test_a_page_is_whole_and_needs_nothing_else(make_run):
    folder = make_run()
    page = Page(write_page(folder).read_text(encoding="utf-8"))
    assert page.wrong == [] and page.open == []
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "data"):
            value = attributes.get(name) or "#"
            shown = name == "href" and (folder / value).is_file()  # a picture's own file
            assert shown or value.startswith(("data:image/", "#")), (name, value)
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"url\((?!#)|@import|https?://", text)
    assert not page.all("link")


def test_scripts_run_by_their_hash_alone(make_run):
    many = [f"class {i}" for i in range(26)]
    for folder in (make_run("few"), make_run("many", many, 1)):
        text = write_page(folder).read_text(encoding="utf-8")
        (policy,) = (a["content"] for a in Page(text).all("meta") if "http-equiv" in a)
        found = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
        for script in found:
            digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy
        assert len(found) == (2 if folder.name == "many" else 1)
        scripts = re.search(r"script-src ([^;]*)", policy)[1]
        assert "unsafe" not in scripts and policy.startswith("default-src 'none'; ")


def test_a_class_name_cannot_put_markup_into_a_page(make_run):
    folder = make_run(
        learned=[{"title": INJECTED, "note": "", "columns": ["a"], "rows": [["<b>"]]}]
    )
    text = write_page(folder).read_text(encoding="utf-8")
    assert INJECTED not in text and "<b>" not in text.replace('<b style="left', "")
    assert INJECTED in Page(text).text


def test_every_picture_says_what_it_shows(make_run):
    page = Page(write_page(make_run()).read_text(encoding="utf-8"))
    assert len(page.all("img")) >= 12
    assert all(image["alt"] for image in page.all("img"))
    drawn = [a for a in page.all("div") if a.get("role") == "img"]
    assert len(drawn) == len(page.all("svg")) == 2
    assert all(len(a["aria-label"]) > 20 for a in drawn)


def test_the_numbers_of_a_page(make_run):
    text = Page(write_page(make_run()).read_text(encoding="utf-8")).text
    for part in (
        "made on pets",
        "4 shots a class, seed 0, backbone tiny; 3 classes, 12 test images",
        "50.0 % 95 % interval 40.0 to 90.0",
        "chance 33.3 %",
        "NLL lower is better 1.250 1.000 to 1.500 2.250 -1.000",
        "AUROC – 0.700 –",
        "trainable parameters 1,234",
        "size of the delta 5.7 kB",
        "time: total 2 min 10 s",
        "peak memory 1.5 GB",
        "python -m clip_adapt.train method=made",
        'run/adapter")',
    ):
        assert part in text, part


def test_better_and_worse_follow_the_direction_of_a_metric():
    ours, before = {"value": 0.3, "low": 0.2, "high": 0.4}, {"value": 0.2}
    sure = {"value": 0.1, "low": 0.05, "high": 0.15}
    accuracy, ece = (find_quantity(name, {}) for name in ("accuracy", "ece"))
    assert numbers.make_row(accuracy, ours, before, sure).better is True
    assert numbers.make_row(ece, ours, before, sure).better is False
    assert numbers.make_row(accuracy, ours, before, sure).change_range == "+5.0 to +15.0"
    assert numbers.make_row(accuracy, ours, None).better is None


@pytest.mark.parametrize(
    ("low", "high", "better"),
    [
        (-0.01, 0.2, None),
        (0.0, 0.2, None),
        (0.0004, 0.2, None),  # written +0.0
        (0.001, 0.2, True),
        (-0.3, -0.2, False),
        (-0.3, -0.0004, None),
        (None, None, None),
    ],
)
def test_a_change_that_may_be_chance_is_neither_better_nor_worse(low, high, better):
    value = {"value": 0.3 if better is not False else 0.1, "low": 0.2, "high": 0.4}
    difference = {"value": 0.1, "low": low, "high": high}
    row = numbers.make_row(find_quantity("accuracy", {}), value, {"value": 0.2}, difference)
    assert row.better is better


def test_the_interval_of_a_change_stands_on_the_page(make_run):
    difference = {
        "accuracy": {"value": 0.25, "low": 0.05, "high": 0.4},
        "nll": {"value": -1.0, "low": -2.5, "high": 0.25},
    }
    text = write_page(make_run(difference=difference)).read_text(encoding="utf-8")
    assert '<td class="num good">+25.0<span class="sub">+5.0 to +40.0</span></td>' in text
    assert '<td class="num muted">-1.000<span class="sub">-2.500 to +0.250</span></td>' in text
    assert '<td class="num muted">+6.0</td>' in text  # ECE: there is no interval
    assert 'class="num bad"' not in text


def hand_made():
    """Five images of three classes, the third without an image."""
    shares = [[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.3, 0.7, 0.0], [0.1, 0.6, 0.3], [0.55, 0.45, 0.0]]
    return ImagePredictions(
        [f"{i}.png" for i in range(5)], ["a", "b", "c"], np.array([0, 0, 1, 1, 1]), np.array(shares)
    )


def test_the_classes_and_confusions_of_a_page():
    p = hand_made()
    confusion = tables.count_confusions(p)
    assert confusion.tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    a, b, c = tables.list_classes(p, confusion)
    assert (a.images, a.recall, a.precision, a.mistaken) == (2, 0.5, 0.5, "b (1)")
    assert (b.images, b.recall, b.precision) == (3, pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (c.images, c.recall, c.mistaken) == (0, 0, "–")
    assert tables.list_confusions(confusion, p.classes, 9) == [
        ("a", "b", 1, 0.5),
        ("b", "a", 1, pytest.approx(1 / 3)),
    ]


def test_the_most_confident_mistakes_and_least_confident_hits_come_first():
    mistakes, hits = run_page._choose(hand_made())
    assert mistakes == [1, 4]  # 80 %, 55 %
    assert hits == [3, 2, 0]  # 60 %, 70 %, 90 %


def test_many_classes_are_a_picture_and_few_a_table(make_run):
    few = write_page(make_run("few")).read_text(encoding="utf-8")
    names = [f"class {i}" for i in range(40)]
    many = write_page(make_run("many", classes=names, each=1)).read_text(encoding="utf-8")
    assert 'class="matrix"' in few and 'class="heat"' not in few
    assert 'class="heat"' in many and 'class="matrix"' not in many
    assert all(name in Page(many).text for name in names)


def test_a_run_without_a_curve_says_so(make_run):
    page = Page(write_page(make_run(curve={})).read_text(encoding="utf-8"))
    assert "There is none: nothing was trained by epochs." in page.text
    assert len(page.all("svg")) == 1


def test_pictures_that_are_gone_leave_a_word(make_run):
    folder = make_run()
    shutil.rmtree(folder / "pictures")
    page = Page(write_page(folder).read_text(encoding="utf-8"))
    assert page.all("img") == []
    assert "the picture is not there any more" in page.text
    assert page.all("a") == [] and "0-0.png" in page.text  # names stay, links do not


def test_every_picture_has_its_name_below_it_and_leads_to_its_file(make_run):
    folder = make_run()
    page = Page(write_page(folder).read_text(encoding="utf-8"))
    links = [a for a in page.all("a") if a.get("class") == "frame"]
    assert len(links) == len(page.all("img"))
    for link in links:
        name = link["href"].rpartition("/")[2]
        assert link["href"] == f"pictures/{name}" and link["title"] == str(folder / link["href"])
        assert name in page.text


@pytest.mark.parametrize(
    ("path", "href"),
    [
        ("RUN/a b#?.png", "a%20b%23%3F.png"),
        ("RUN/javascript:alert(1)", "javascript%3Aalert%281%29"),
        ("RUN/../other/\udcff.png", "../other/%FF.png"),
        ("RUN/x%2e.png", "x%252e.png"),
    ],
)
def test_the_link_to_a_file_is_an_address_below_the_page(make_run, path, href):
    folder = make_run()
    place = str(folder)
    assert facts.read(folder).link_file(path.replace("RUN", place)) == href


def test_thumbnails_are_small_and_keep_the_shape(tmp_path):
    paths = [tmp_path / "wide.png", tmp_path / "tall.jpg", tmp_path / "none.png"]
    Image.new("RGB", (800, 400)).save(paths[0])
    Image.new("RGB", (600, 3000)).save(paths[1])
    digests = {str(path): hash_file(path) for path in paths[:2]}
    made = pictures.make_thumbnails(map(str, paths), digests)
    assert sorted(made) == [str(paths[1]), str(paths[0])]
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in made.values())
    parts = [base64.b64decode(made[str(path)].partition(",")[2]) for path in paths[:2]]
    sizes = [Image.open(io.BytesIO(part)).size for part in parts]
    assert sizes == [(pictures.EDGE, pictures.EDGE // 2), (29, pictures.EDGE)]
    small = pictures.make_thumbnails([str(paths[0])], digests, 40)[str(paths[0])]
    assert Image.open(io.BytesIO(base64.b64decode(small.partition(",")[2]))).size == (40, 20)


def test_plots_take_their_colours_from_the_page_and_share_no_id():
    drawn = plots.draw_learning_curve({"loss": [1.0, 0.5], "accuracy": [0.5, 1.0]})
    other = plots.draw_reliability(np.array([True, False]), np.array([0.9, 0.4]))
    ids = [re.findall(r' id="([^"]+)"', svg) for svg in (drawn, other)]
    assert ids[0] and ids[1] and not set(ids[0]) & set(ids[1])
    for svg, own in zip((drawn, other), ids, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) == set(own)
        assert set(re.findall(r"(?:fill|stroke): (#\w+)", svg)) == set()
        assert "var(--accent)" in svg and "font-family" not in svg


@pytest.mark.parametrize(
    ("losses", "low", "high"),
    [
        ([2.0, 2.0], 0, 2.1),
        ([3.0, float("nan"), 1.0], 0, 3.15),
        ([-1.0, 1.0], -1.1, 1.1),
        ([float("inf")], 0, 1.05),
    ],
)
def test_the_axis_of_the_loss_holds_every_value(losses, low, high):
    assert plots._choose_limits(losses) == pytest.approx((low, high))


def test_epochs_are_whole_numbers():
    drawn = plots.draw_learning_curve({"loss": [1.0, 0.9, 0.8], "accuracy": [0.5, 0.6, 0.7]})
    texts = {text.strip() for text in re.findall(r">([^<>]*)</text>", drawn)}
    assert {"1", "2", "3"} <= texts and not {"1.25", "1.50", "2.5"} & texts


def test_the_index_lists_every_run_and_links_to_its_page(make_run, tmp_path, run_cli):
    write_page(make_run("a/one", seed=1))
    make_run("a/two", seed=2, date="2026-11-25 17:20 UTC")
    (tmp_path / "a" / "curve.svg").write_text("<svg/>")
    damaged = make_run("a/three")
    (damaged / "metrics.json").write_text("{")
    code, out, err = run_cli("report", tmp_path / "a")
    assert (code, err, out.strip()) == (0, "", str(tmp_path / "a" / "index.html"))
    page = Page((tmp_path / "a" / "index.html").read_text(encoding="utf-8"))
    assert page.wrong == [] and page.open == []
    assert [a["href"] for a in page.all("a")] == ["curve.svg", "one/report.html"]
    assert "data set pets, model tiny" in page.text
    keys = [a["data-key"] for tag, a in page.elements if tag in ("td", "th") and "data-key" in a]
    heads = sum(a.get("scope") == "col" for a in page.all("th"))
    columns = 6  # of the one setting
    assert len(keys) == columns + 2 * (heads - columns)
    assert {"made", "4", "0.6", "0.7", "12", "1234", "130", "2026-11-25 17:20 UTC"} <= set(keys)
    assert "three" in page.text and "is damaged" in page.text


def test_the_index_of_an_empty_folder_is_refused(run_cli, tmp_path):
    (tmp_path / "runs").mkdir()
    code, _, err = run_cli("report", "runs")
    assert code == 2
    assert err == (
        "error: runs holds no finished run, which is a folder with a metrics.json and a "
        "config.yaml. Make one: python -m clip_adapt.train\n"
    )
    assert not (tmp_path / "runs" / "index.html").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere"], "error: no such folder: nowhere (looked at "),
        ([], "error: expected one folder, of a run or of many runs, not 0\n"),
        (["runs", "al=true"], "error: unknown option 'al' - did you mean 'all'?"),
    ],
)
def test_what_report_refuses(run_cli, words, expected):
    code, out, err = run_cli("report", *words)
    assert (code, out) == (2, "") and err.startswith(expected)


def test_an_unfinished_run_is_refused_by_its_name(make_run, run_cli):
    folder = make_run()
    (folder / "metrics.json").unlink()
    code, _, err = run_cli("report", folder)
    assert (code, err) == (2, f"error: {folder} holds no finished run: metrics.json is missing\n")


def test_damaged_predictions_are_refused_by_their_name(make_run, run_cli):
    folder = make_run()
    (folder / "predictions.csv").write_text("path,label\n")
    code, _, err = run_cli("report", folder)
    assert code == 2 and "predictions.csv cannot be read as predictions of a run" in err


def test_all_makes_every_page_anew(make_run, run_cli, tmp_path):
    make_run("a/one"), make_run("a/two")
    assert run_cli("report", tmp_path / "a", "all=true")[0] == 0
    assert sorted(p.parent.name for p in (tmp_path / "a").rglob("report.html")) == ["one", "two"]


def test_a_run_writes_its_page_unless_told_not_to(train_tiny, animals, tmp_path):
    code, _, err = train_tiny(animals, "method.n_ctx=2")
    assert code == 0, err
    page = Path("out/report.html").read_text(encoding="utf-8")
    metrics = json.loads(Path("out/metrics.json").read_text())
    assert Page(page).wrong == []
    assert "Nearest words of the context" in page
    assert list(metrics["curve"]) == ["loss", "accuracy", "lr"]
    assert [len(v) for v in metrics["curve"].values()] == [2, 2, 2]
    write_page(Path("out"))
    assert Path("out/report.html").read_text(encoding="utf-8") == page
    code, _, err = train_tiny(animals, "method.n_ctx=2", "report=false")
    assert code == 0, err
    assert not Path("out/report.html").exists()


def test_write_index_returns_its_place(make_run, tmp_path):
    make_run("a/one")
    assert write_index(tmp_path / "a") == tmp_path / "a" / "index.html"


def test_facts_know_the_command(make_run):
    assert facts.read(make_run()).command == "python -m clip_adapt.train method=made"
