"""A sweep tells the truth: what it keeps is what would be made now, what it names was written."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from clip_adapt.evaluation import resampling
from clip_adapt.runs.configuration import compose
from clip_adapt.system.files import hash_file

ANEW = "finished before with another configuration, so it runs anew"
FILES = ("results.csv", "results.md", "curve.png", "curve.svg", "index.html")
FAILING = """
from clip_adapt import Method

class Failing(Method):
    '''Fail, or be interrupted, at the seeds that the template names.'''

    def weights(self):
        seed, template = self.task.seed, self.task.templates[0]
        if f"seed {seed}" in template:
            raise RuntimeError("this seed cannot be")
        if f"until {seed}" in template:
            raise KeyboardInterrupt
        return super().weights()
"""


@pytest.fixture
def sweep(run_cli, tiny_model, monkeypatch):
    """A function that sweeps over the tiny CLIP: (exit code, stdout, stderr)."""
    monkeypatch.setattr(resampling, "RESAMPLES", 20)

    def swept(*words):
        usual = ["method=[zero_shot]", "shots=[1]", "seed=[1]", f"model={tiny_model}"]
        usual += ["tensorboard=false", "report=false", "output=out"]
        return run_cli("sweep", *usual, *words)

    return swept


@pytest.fixture
def write_card(animals):
    """A function that writes a card.yaml of the folder of animals: its path."""

    def write(path, **lines):
        values = {"name": "own", "source": "folder", "root": animals} | lines
        Path(path).write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
        return path

    return write


def sweep_again(sweep, *words):
    """Return whether the one run of a sweep was made anew, which its words must agree with."""
    code, out, err = sweep(*words)
    assert code == 0, err
    made, kept = re.search(r"^(\d) runs in .*, (\d) were finished before$", out, re.M).groups()
    assert (made, kept) in (("1", "0"), ("0", "1"))
    assert (ANEW in out) == (made == "1")
    return made == "1"


def rows():
    with open("out/results.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_card_that_says_the_same_in_other_words_keeps_its_run(sweep, write_card):
    card = write_card("own.yaml", classes="{eel: eel, cat: cat, dog: dog}")
    assert sweep(f"dataset={card}")[0] == 0
    assert not sweep_again(sweep, f"dataset={card}")
    write_card("own.yaml", classes="{eel: 'eel', cat: \"cat\", dog: dog}  # a comment")
    assert not sweep_again(sweep, f"dataset={card}")


CHANGES = {
    "spoken name": ({"classes": "{cat: cat, dog: dog}"}, {"classes": "{cat: tom, dog: dog}"}),
    "templates": ({}, {"templates": '["a drawing of a {}."]'}),
    "template order": ({"templates": '["a {}.", "{}."]'}, {"templates": '["{}.", "a {}."]'}),
    "descriptions": ({}, {"descriptions": "{cat: [a small lion.]}"}),
    "class order": ({"classes": "{cat: cat, dog: dog}"}, {"classes": "{dog: dog, cat: cat}"}),
}


@pytest.mark.parametrize(("before", "after"), CHANGES.values(), ids=CHANGES)
def test_a_changed_card_of_the_data_set_is_run_anew(sweep, write_card, before, after):
    card = write_card("own.yaml", **before)
    assert sweep(f"dataset={card}")[0] == 0
    write_card("own.yaml", **after)
    assert sweep_again(sweep, f"dataset={card}")
    assert not sweep_again(sweep, f"dataset={card}")


def test_a_leak_that_the_card_no_longer_allows_is_looked_at_again(sweep, write_card):
    card = write_card("own.yaml", on_leak="warn")
    assert sweep(f"dataset={card}")[0] == 0
    write_card("own.yaml", on_leak="error")
    assert sweep_again(sweep, f"dataset={card}")


@pytest.mark.parametrize("word", ["method=[mine.py]", "metrics=mine.py"])
def test_changed_code_of_the_user_is_run_anew(sweep, animals, word):
    examples = Path(__file__).parent.parent / "docs" / "examples"
    name = "kgcoop.py" if word.startswith("method") else "matthews.py"
    code = (examples / name).read_text(encoding="utf-8")
    words = f"dataset={animals}", word, "epochs=0"
    Path("mine.py").write_text(code, encoding="utf-8")
    assert sweep(*words)[0] == 0
    assert not sweep_again(sweep, *words)
    Path("mine.py").write_text(code + "\nCHANGED = True\n", encoding="utf-8")
    assert sweep_again(sweep, *words)
    assert not sweep_again(sweep, *words)


def test_code_that_is_edited_while_a_run_goes_on_is_not_the_run_s(animals, tiny_model):
    Path("mine.py").write_text(FAILING, encoding="utf-8")
    config = compose({"method": "mine.py", "dataset": str(animals), "model": str(tiny_model)})
    before = config.to_yaml()
    assert hash_file("mine.py") in before
    Path("mine.py").write_text(FAILING + "# edited\n", encoding="utf-8")
    assert config.to_yaml() == before


def test_classes_in_another_order_are_those_of_the_delta(sweep, write_card):
    for classes in (["cat", "dog", "eel"], ["eel", "dog", "cat"]):
        card = write_card("own.yaml", classes=f"{{{', '.join(f'{c}: {c}' for c in classes)}}}")
        assert sweep(f"dataset={card}")[0] == 0
        (file,) = Path("out").rglob("metrics.json")
        assert list(json.loads(file.read_text())["per_class"]) == classes


@pytest.mark.parametrize(("before", "after"), CHANGES.values(), ids=CHANGES)
def test_a_changed_card_of_test_on_is_run_anew(sweep, write_card, animals, before, after):
    words = (f"dataset={animals}", "protocol=cross_dataset", "test_on=there.yaml")
    write_card("there.yaml", name="there", **before)
    assert sweep(*words)[0] == 0
    assert not sweep_again(sweep, *words)
    write_card("there.yaml", name="there", **after)
    assert sweep_again(sweep, *words)
    assert not sweep_again(sweep, *words)


def test_a_card_of_test_on_that_names_other_images_is_run_anew(
    sweep, write_card, make_folder, animals
):
    there = make_folder(Path("there").absolute(), classes=("owl", "yak"), per_class=2, seed=3)
    words = (f"dataset={animals}", "protocol=cross_dataset", "test_on=[eels.yaml,there.yaml]")
    write_card("eels.yaml", name="eels")
    write_card("there.yaml", name="there")
    assert sweep(*words)[0] == 0
    write_card("there.yaml", name="there", root=there)
    assert sweep_again(sweep, *words)
    (file,) = Path("out").rglob("metrics.json")
    assert list(json.loads(file.read_text())["other"]["there"]["per_class"]) == ["owl", "yak"]


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"root": "other"}, id="other images"),
        pytest.param({"classes": "{cat: dog, dog: cat, eel: eel}"}, id="other labels"),
        pytest.param({"on_leak": "error"}, id="on_leak"),
    ],
)
def test_a_changed_card_of_calibration_images_is_run_anew(
    sweep, write_card, make_folder, animals, changed
):
    for seed, name in enumerate(("apart", "other"), start=5):
        make_folder(Path(name).absolute(), splits=(), per_class=5, seed=seed)
    words = (f"dataset={animals}", "conformal=0.4", "conformal_images=apart.yaml")
    before = {"name": "apart", "root": "apart", "on_leak": "warn"}
    write_card("apart.yaml", **before)
    assert sweep(*words)[0] == 0
    assert not sweep_again(sweep, *words)
    write_card("apart.yaml", **{**before, **changed})
    assert sweep_again(sweep, *words)
    assert not sweep_again(sweep, *words)


def named_files(out):
    """Return the files that a sweep says it has written."""
    return [name for name in FILES if name in out]


def test_a_sweep_whose_runs_all_fail_names_only_what_it_wrote(sweep, animals):
    Path("failing.py").write_text(FAILING)
    words = (f"dataset={animals}", "method=[failing.py]", "seed=[1,2]")
    code, out, _ = sweep(*words, 'templates=["seed 1, seed 2, a {}."]')
    assert code == 1 and "2 runs failed:\n" in out
    there = sorted(path.name for path in Path("out").iterdir() if path.is_file())
    assert sorted(named_files(out)) == there
    assert {"results.csv", "results.md"} <= set(there)


@pytest.fixture
def fail_second(sweep, write_card):
    """A function that sweeps over two seeds, then anew with seeds that fail: its second words."""

    def swept(*seeds):
        Path("failing.py").write_text(FAILING)
        card = write_card("own.yaml", templates='["a {}."]')
        words = (f"dataset={card}", "method=[failing.py]", "seed=[1,2]")
        assert sweep(*words)[0] == 0
        assert [row["seed"] for row in rows()] == ["1", "2"]
        write_card("own.yaml", templates=f'["{" ".join(f"seed {s}" for s in seeds)} {{}}."]')
        return words

    return swept


def test_the_old_result_of_a_failed_run_is_in_no_table(sweep, fail_second):
    words = fail_second(2)
    for _ in range(2):  # the run that failed is tried again, the other one is kept
        code, out, _ = sweep(*words)
        assert code == 1 and "1 runs failed:\n" in out
        assert [row["seed"] for row in rows()] == ["1"]
        assert "One seed each." in Path("out/results.md").read_text()


def count_rows():
    """Return how many rows the index has: the runs, and the setting that several share."""
    return Path("out/index.html").read_text().count('<tr><th scope="row"')


def test_the_old_result_of_a_failed_run_is_not_in_the_index(sweep, fail_second):
    words = fail_second(2)
    assert count_rows() == 2 + 1
    assert sweep(*words)[0] == 1
    assert count_rows() == 1


def test_old_pictures_are_not_said_to_be_written_when_all_runs_fail(sweep, fail_second):
    words = fail_second(1, 2)
    before = {name: Path("out", name).stat().st_mtime_ns for name in FILES}
    code, out, _ = sweep(*words)
    assert code == 1 and rows() == []
    for name in named_files(out):
        assert Path("out", name).stat().st_mtime_ns > before[name], name


def test_what_is_not_yet_made_anew_is_in_no_table(sweep, write_card):
    Path("failing.py").write_text(FAILING)
    card = write_card("own.yaml")
    words = (f"dataset={card}", "method=[failing.py]", "seed=[1,2,3]")
    assert sweep(*words)[0] == 0
    write_card("own.yaml", templates='["until 2, the {}."]')
    assert sweep(*words)[0] == 130
    assert [row["seed"] for row in rows()] == ["1"]


DAMAGED = ["", "{", "[]", "5", "[" * 100_000, '{"test": 5}', '{"test": {"accuracy": 5}}']


@pytest.mark.parametrize("content", DAMAGED)
def test_a_run_whose_numbers_are_damaged_is_made_anew(sweep, animals, content):
    assert sweep(f"dataset={animals}")[0] == 0
    (found,) = Path("out").glob("*/metrics.json")
    found.write_text(content)
    code, out, _ = sweep(f"dataset={animals}")
    assert code == 0 and "1 runs in" in out and "0 were finished before" in out
    assert json.loads(found.read_text())["test"]["accuracy"]["value"] >= 0
