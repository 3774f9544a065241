"""Whether pages can be read: contrast, what a keyboard and a screen reader find, hostile names."""

import re
from importlib import resources

import numpy as np
import pytest
from finished_run import write_run
from html_page import Page

from clip_adapt.pages import heat, plots
from clip_adapt.runs.pages import write_page

TEMPLATES = resources.files("clip_adapt.pages") / "templates"
READABLE = 4.5  # WCAG 2.2, 1.4.3, level AA: text of usual size


@pytest.fixture
def make_run(tmp_path):
    return lambda name="run", *args, **more: write_run(tmp_path / name, *args, **more)


def read_palettes():
    """The colours of the page by name: light, dark and printed."""
    css = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    blocks = [
        dict(re.findall(r"--([\w]+): (#\w+);", b))
        for b in re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    ]
    light, dark, printed = blocks
    return {"light": light, "dark": light | dark, "print": light | printed}


def parse_colour(text):
    digits = text[1:] if len(text) == 7 else "".join(2 * c for c in text[1:])
    return np.array([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])


def find_contrast(one, other):
    """The contrast of two colours by WCAG's formula, from 1 to 21."""

    def luminance(rgb):
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_formula_of_contrast():
    black, white, grey = (parse_colour(c) for c in ("#000", "#ffffff", "#767676"))
    assert find_contrast(black, white) == pytest.approx(21)
    assert find_contrast(white, grey) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("mode", ["light", "dark", "print"])
def test_every_shade_of_the_matrix_can_be_read(mode):
    colours = {name: parse_colour(c) for name, c in read_palettes()[mode].items()}
    for hue in ("right", "wrong"):
        for share in range(101):
            shade = share / 100 * colours[hue] + (1 - share / 100) * colours["card"]
            assert find_contrast(colours["ink"], shade) >= READABLE, (hue, share)
    css = (TEMPLATES / "run.css").read_text(encoding="utf-8")
    assert "color-mix(in srgb, var(--hue) calc(var(--v) * 100%), var(--card))" in css
    assert not re.search(r"\.matrix[^{]*td[^{]*\{[^}]*[; {]color:", css)  # one ink for all


@pytest.mark.parametrize("mode", ["light", "dark", "print"])
def test_every_colour_of_text_can_be_read(mode):
    colours = {name: parse_colour(c) for name, c in read_palettes()[mode].items()}
    for name in ("ink", "muted", "accent", "second", "good", "bad"):
        assert find_contrast(colours[name], colours["paper"]) >= READABLE, name
    for name in ("ink", "muted"):
        assert find_contrast(colours[name], colours["card"]) >= READABLE, name
    for name in (f"c{i}" for i in range(6)):  # lines: 1.4.11
        assert find_contrast(colours[name], colours["paper"]) >= 3, name


def test_what_scrolls_is_reached_by_keyboard_and_has_a_name(make_run):
    learned = [{"title": "Words", "note": "", "columns": ["a"], "rows": [["b"]]}]
    for number, each in ((3, 4), (30, 1)):
        names = [f"class {i}" for i in range(number)]
        text = write_page(make_run(f"run{number}", names, each, learned=learned)).read_text()
        page = Page(text)
        regions = [a for tag, a in page.elements if tag == "pre" or a.get("class") == "scroll"]
        assert len(regions) >= 7
        assert all(a["tabindex"] == "0" and a["role"] == "region" for a in regions)
        labels = [a["aria-label"] for a in regions]
        assert all(labels) and len(set(labels)) == len(labels)
        assert len(page.all("table")) == sum(a.get("class") == "scroll" for a in regions)


def test_learned_words_are_folded_and_not_printed(make_run):
    learned = [{"title": "Words", "note": "", "columns": ["a"], "rows": [["nonsense"]]}]
    text = write_page(make_run(learned=learned)).read_text(encoding="utf-8")
    section = text[
        text.index('<section class="screen">') : text.index(
            "</section>", text.index("What was learned")
        )
    ]
    assert section.index("<details><summary>Words</summary>") < section.index("nonsense")
    assert re.search(r"@media print \{.*\.screen \{ display: none; \}", text, re.DOTALL)


def test_nothing_of_a_table_is_left_out_on_a_phone():
    for name in ("style.css", "run.css"):
        css = (TEMPLATES / name).read_text(encoding="utf-8")
        phone = css[css.index("@media (max-width") :].partition("@media print")[0]
        hidden = re.findall(r"([^{};/]+)\{[^}]*display: none", phone)
        # The bar beside a number, and names beside the picture of many classes.
        assert {h.strip() for h in hidden} <= {".meter", ".heat ol"} or not hidden, hidden


HOSTILE = [
    "<script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "' autofocus onfocus='alert(1)",
    "\u202eevil\u2066",
    "x" * 300,
    "long words " * 27,
    "{{ 7 * 7 }}",
    "</title></svg><img src=x onerror=alert(1)>",
]


@pytest.mark.parametrize("more", [0, 25])
def test_hostile_names_are_shown_and_nothing_else(make_run, more):
    names = [*HOSTILE, *(f"class {i}" for i in range(more))]
    page = Page(write_page(make_run(classes=names, each=2)).read_text(encoding="utf-8"))
    assert page.wrong == [] and page.open == []
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    for name in HOSTILE:
        shown = name.replace("\u202e", r"\u202e").replace("\u2066", r"\u2066").strip()
        assert " ".join(shown.split()) in page.text, name
    assert "\u202e" not in page.text and "49" not in re.findall(r"\{\{.*?\}\}|49", page.text)


# The picture of many classes


def test_classes_that_are_taken_for_one_another_stand_together():
    confusion = np.diag([5] * 6)
    for a, b in ((0, 3), (1, 5), (2, 4)):
        confusion[a, b] = confusion[b, a] = 4
    order = heat.order_classes(confusion)
    assert sorted(order) == list(range(6))
    assert {frozenset(order[i : i + 2]) for i in (0, 2, 4)} == {
        frozenset(pair) for pair in ((0, 3), (1, 5), (2, 4))
    }
    assert heat.order_classes(np.diag([5] * 6)) == list(range(6))


def test_every_cell_of_the_picture_has_a_name_at_its_place():
    confusion = np.array([[3, 0, 1], [0, 0, 0], [2, 0, 2]])
    drawn = heat.draw_heat(confusion, ["a", "b", "c"])
    order = heat.order_classes(confusion)
    at = {words: (order[x], order[y]) for x, y, words in drawn.cells}
    assert at == {
        "a recognised: 3 of 4": (0, 0),
        "a taken for c: 1 of 4": (2, 0),
        "c taken for a: 2 of 4": (0, 2),
        "c recognised: 2 of 4": (2, 2),
    }
    assert [name for _, name in drawn.axis] == ["abc"[i] for i in order]
    assert [place for place, _ in drawn.axis] == pytest.approx([50 / 3, 50, 250 / 3])


def test_many_classes_start_with_the_worst_and_fold_the_rest(make_run):
    names = [f"class {i}" for i in range(120)]
    text = write_page(make_run(classes=names, each=2)).read_text(encoding="utf-8")
    worst, drawn, table = (
        text.index(part)
        for part in ("The 20 most frequent confusions", 'class="heat"', "all 120 classes: recall")
    )
    assert worst < drawn < table
    folded = text[table - 40 : text.index("</details>", table)]
    assert "<details><summary>all 120" in folded and folded.count('<th scope="row"') == 120
    assert 'class="sortable"' in folded and folded.count('<button class="sort"') == 6
    titles = re.findall(r"<path d=[^>]*><title>(.*?)</title>", text)
    assert len(titles) >= 120 and all(re.search(r": \d+ of 2$", title) for title in titles)
    assert len(text) < 1_200_000


# Reliability


def test_sparse_bins_are_open_and_not_joined():
    confidence = np.repeat([0.15, 0.25, 0.35, 0.55, 0.65, 0.75], [17, 12, 2, 10, 10, 9])
    bins = plots.list_bins(np.arange(60) % 2 == 0, confidence)
    assert [(b.place, b.count, b.sparse) for b in bins] == [
        (1, 17, False),
        (2, 12, False),
        (3, 2, True),
        (5, 10, False),
        (6, 10, False),
        (7, 9, True),
    ]
    assert [(a.place, b.place) for a, b in plots.list_joined(bins)] == [(1, 2), (5, 6)]


def test_the_interval_of_a_bin_is_wilsons():
    # 8 of 10: 0.490 to 0.943, as in Agresti and Coull 1998.
    (found,) = plots.list_bins(np.arange(10) < 8, np.full(10, 1.0))
    assert (found.place, found.right, found.said) == (9, 0.8, 1.0)
    assert (found.low, found.high) == pytest.approx((0.490, 0.943), abs=5e-4)


def test_the_counts_of_the_bins_stand_over_their_bars():
    drawn = plots.draw_reliability(np.ones(20, bool), np.repeat([0.35, 0.95], [3, 17]))
    assert {"3", "17"} <= {t.strip() for t in re.findall(r">([^<>]*)</text>", drawn)}
