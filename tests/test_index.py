"""The index over runs: what is best, with means and intervals, the curve, and links both ways."""

import re

import pytest
from finished_run import write_run
from html_page import Page

from clip_adapt.evaluation.reading import find_quantity
from clip_adapt.pages import facts, index_curve, settings
from clip_adapt.runs.pages import write_index, write_page, write_pages

ACCURACY = find_quantity("accuracy", {})


@pytest.fixture
def make_run(tmp_path):
    """A function that writes a run with an accuracy, and options in its config.yaml."""

    def make(name, value, each=1, seed=0, text=""):
        accuracy = {"value": value, "low": value - 0.1, "high": value + 0.1}
        before = {"accuracy": {"value": 0.25, "low": 0.2, "high": 0.3}}
        folder = write_run(
            tmp_path / name, ["a", "b"], each, seed, test={"accuracy": accuracy}, zero_shot=before
        )
        with open(folder / "config.yaml", "a", encoding="utf-8") as file:
            file.write(text)
        return folder

    return make


def read_settings(folder):
    return settings.list_settings(facts.read(path) for path in facts.find_finished(folder))


def test_runs_that_differ_in_their_seed_are_one_setting(make_run, tmp_path):
    for seed, value in enumerate((0.5, 0.6, 0.7)):
        make_run(f"s{seed}", value, seed=seed, text=f"output: s{seed}\ncache: {seed > 1}\n")
    make_run("t", 0.65, seed=0, text="lr: 0.1\n")
    three, one = read_settings(tmp_path)
    assert [run.folder.name for run in three.runs] == ["s0", "s1", "s2"]
    # t(0.975, 2) = 4.3027, standard deviation 0.1, root of 3
    assert three.estimate(ACCURACY) == {
        "value": pytest.approx(0.6),
        "low": pytest.approx(0.6 - 4.3027 * 0.1 / 3**0.5, abs=1e-5),
        "high": pytest.approx(0.6 + 4.3027 * 0.1 / 3**0.5, abs=1e-5),
    }
    assert one.estimate(ACCURACY) == {"value": 0.65, "low": 0.55, "high": pytest.approx(0.75)}
    assert settings.sort_settings([three, one], ACCURACY) == [one, three]
    nll = find_quantity("nll", {})
    assert one.estimate(nll) == {"value": None, "low": None, "high": None}


def test_an_interval_stays_within_what_can_be(make_run, tmp_path):
    make_run("s0", 0.7, seed=0), make_run("s1", 1.0, seed=1)
    (found,) = read_settings(tmp_path)
    estimate = found.estimate(ACCURACY)
    assert (estimate["low"], estimate["high"]) == (0.0, 1.0)


def test_a_setting_is_called_by_what_sets_it_apart(make_run, tmp_path):
    make_run("a", 0.5, text="lr: 0.1\nepochs: 3\n")
    make_run("b", 0.6, text="lr: 0.2\nepochs: 3\n")
    make_run("c", 0.7, each=2, text="lr: 0.2\nepochs: 3\n")
    assert [found.label for found in read_settings(tmp_path)] == [
        "made lr=0.1",
        "made lr=0.2",
        "made lr=0.2",
    ]


def test_the_index_starts_with_the_best(make_run, tmp_path):
    for name, value, shots in (("a", 0.3, 1), ("b", 0.9, 2), ("c", 0.6, 4)):
        for seed in (0, 1):
            folder = make_run(f"{name}{seed}", value + seed / 50, shots, seed)
            write_page(folder)
    page = Page(write_index(tmp_path).read_text(encoding="utf-8"))
    assert page.wrong == [] and page.open == []
    assert "6 runs of 3 settings, the best accuracy first" in page.text
    for first, second in (("91.0 %", "61.0 %"), ("61.0 %", "31.0 %")):
        assert page.text.index(first) < page.text.index(second)
    links = [a["href"] for a in page.all("a")]
    assert links == [f"{name}{seed}/report.html" for name in "bca" for seed in "01"]
    drawn = [a for a in page.all("div") if a.get("role") == "img"]
    assert len(drawn) == len(page.all("svg")) == 1
    regions = [a for a in page.all("div") if a.get("class") == "scroll"]
    assert [a["aria-label"] for a in regions] == ["settings", "runs"]
    assert all(a["tabindex"] == "0" for a in regions)


def test_lines_of_the_curve(make_run, tmp_path):
    for shots, value in ((1, 0.3), (4, 0.5), (2, 0.4)):
        make_run(f"a{shots}", value, shots, text="lr: 0.1\n")
        make_run(f"b{shots}", value + 0.1, shots, text="lr: 0.2\n")
    found = settings.sort_settings(read_settings(tmp_path), ACCURACY)
    first, second = index_curve.list_lines(found, ACCURACY)
    assert (first.name, second.name) == ("made lr=0.2", "made lr=0.1")
    assert first.shots == [1, 2, 4]
    assert first.values == pytest.approx([40, 50, 60])
    assert first.lows == pytest.approx([30, 40, 50])
    drawn = index_curve.draw(found, [ACCURACY])
    assert "made lr=0.2" in drawn and "var(--c1)" in drawn and "#101" not in drawn
    assert {"1", "2", "4"} <= {t.strip() for t in re.findall(r">([^<>]*)</text>", drawn)}
    one = [setting for setting in found if setting.shots == 1]
    assert index_curve.draw(one, [ACCURACY]) == index_curve.draw(found, []) == ""


def test_pages_and_index_lead_to_one_another(make_run, tmp_path):
    folder = make_run("many/one", 0.5)
    (tmp_path / "index.html").write_text("<html>somebody else's</html>")

    def links():
        page = Page((folder / "report.html").read_text(encoding="utf-8"))
        return [a["href"] for a in page.all("a") if a.get("class") != "frame"]

    write_page(folder)
    assert links() == []
    (tmp_path / "many" / ".sweep.lock").touch()  # the index comes at the end of a sweep
    write_page(folder)
    assert links() == ["../index.html"]
    (tmp_path / "many" / ".sweep.lock").unlink()
    write_page(folder)
    assert links() == []
    write_pages(str(tmp_path / "many"), all=True)
    assert links() == ["../index.html"]


def test_the_metric_of_a_sweep_leads_its_index(make_run, tmp_path):
    both = {"value": 0.5, "low": 0.4, "high": 0.6}
    for name, nll in (("a", 2.0), ("b", 1.0)):
        test = {"accuracy": both, "nll": {"value": nll, "low": nll, "high": nll}}
        write_run(tmp_path / name, ["a", "b"], 1, test=test)
        with open(tmp_path / name / "config.yaml", "a", encoding="utf-8") as file:
            file.write(f"lr: {nll}\n")
    page = Page(write_index(tmp_path, metric="nll").read_text(encoding="utf-8"))
    assert "2 runs, the best NLL first" in page.text
    assert page.text.index("1.000") < page.text.index("2.000")  # lower is better
