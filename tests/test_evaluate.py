"""Several deltas on one test set, and what an evaluation refuses."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest

from clip_adapt.adapted import delta
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.evaluation import resampling
from clip_adapt.evaluation.predictions import Predictions, Resampled
from clip_adapt.runs.deltas import measure_deltas

CLASSES = ["cat", "dog", "eel"]


@pytest.fixture
def deltas(train_tiny, animals, tmp_path):
    """Two deltas of one data set: their folders."""
    for name, words in (("one", ()), ("two", ("method=linear_probe", "method.C=1"))):
        code, _, err = train_tiny(animals, *words, f"output={name}")
        assert code == 0, err
    return tmp_path / "one" / "adapter", tmp_path / "two" / "adapter"


def probabilities(path):
    """Return the labels and the probabilities of a predictions.csv."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    p = np.array([[float(row[f"p:{name}"]) for name in CLASSES] for row in rows])
    return np.array([CLASSES.index(row["label"]) for row in rows]), p


def test_several_deltas_with_paired_differences(deltas, run_cli, animals, tmp_path):
    code, out, err = run_cli(
        "evaluate", "model=tiny.yaml", *deltas, f"dataset={animals}", "json=true", "output=both"
    )
    assert code == 0, err
    result = json.loads(out)
    assert json.loads((tmp_path / "both" / "metrics.json").read_text()) == result
    assert list(result["deltas"]) == ["one", "two"]
    samples = {}
    for name in ("one", "two"):
        alone = json.loads((tmp_path / name / "metrics.json").read_text())
        for kind in ("test", "zero_shot", "per_class", "confusion", "n_test"):
            assert result["deltas"][name][kind] == alone[kind], (name, kind)
        labels, p = probabilities(tmp_path / "both" / name / "predictions.csv")
        blocks = list(resampling.draw_resamples(18, None, resampling.RESAMPLES, 0))
        weights = np.concatenate(blocks, axis=1)
        samples[name] = Resampled(Predictions(labels, p), weights).accuracy
    (row,) = [row["accuracy"] for title, row in result["differences"].items()]
    assert list(result["differences"]) == ["two - one"]
    apart = samples["two"] - samples["one"]
    ends = row["value"] + np.quantile(apart - apart.mean(), [0.025, 0.975])
    assert (row["low"], row["high"]) == pytest.approx(tuple(ends))
    values = [result["deltas"][name]["test"]["accuracy"]["value"] for name in ("one", "two")]
    assert row["value"] == pytest.approx(values[1] - values[0])


def test_what_a_comparison_prints(deltas, run_cli, animals):
    code, out, err = run_cli("evaluate", "model=tiny.yaml", *deltas, f"dataset={animals}")
    assert code == 0, err
    assert "18 test images (95 % intervals)" in out
    first = [line.strip("│┃ ").split("  ")[0].split(" │")[0] for line in out.splitlines()]
    for row in ("zero-shot", "one", "two", "one - zero-shot", "two - zero-shot", "two - one"):
        assert first.count(row) == 1, (row, out)


def test_several_deltas_load_one_backbone(deltas, animals, monkeypatch):
    loaded = []
    original = Backbone.from_card.__func__

    def counted(cls, *args, **kwargs):
        loaded.append(args)
        return original(cls, *args, **kwargs)

    monkeypatch.setattr(Backbone, "from_card", classmethod(counted))
    result = measure_deltas(
        [str(d) for d in deltas], dataset=str(animals), model="tiny.yaml", device="cpu"
    )
    assert len(loaded) == 1
    assert result["n_test"] == 18


def test_one_delta_given_twice(deltas, run_cli, animals):
    code, _, err = run_cli("evaluate", deltas[0], deltas[0], f"dataset={animals}")
    assert (code, err) == (2, f"error: a delta is given twice: {deltas[0]}\n")


def test_no_delta_at_all(run_cli, animals):
    code, _, err = run_cli("evaluate", f"dataset={animals}")
    assert (code, err) == (2, "error: expected a delta (a folder adapter/), or several\n")


def test_deltas_of_different_classes(deltas, train_tiny, run_cli, make_folder, tmp_path):
    other = make_folder(tmp_path / "d", classes=("cat", "dog"), per_class=4)
    code, _, err = train_tiny(other, "output=other")
    assert code == 0, err
    code, _, err = run_cli(
        "evaluate",
        "model=tiny.yaml",
        deltas[0],
        tmp_path / "other" / "adapter",
        f"dataset={other}",
        "output=no",
    )
    assert (code, err) == (
        2,
        "error: one and other tell different classes apart, so their numbers cannot be compared: "
        "only one of them knows eel\n",
    )
    assert not (tmp_path / "no").exists()


def test_deltas_that_hold_their_classes_in_another_order(
    deltas, train_tiny, run_cli, make_folder, animals, tmp_path
):
    card = tmp_path / "turned.yaml"
    card.write_text(
        f"name: turned\nsource: folder\nroot: {animals}\nclasses: {{eel: eel, cat: cat, dog: dog}}"
    )
    code, _, err = train_tiny(card, "method=zero_shot", "output=turned")
    assert code == 0, err
    assert (
        delta.read(tmp_path / "turned/adapter/adapter.safetensors")[0].task["classes"][0] == "eel"
    )
    code, out, err = run_cli(
        "evaluate",
        "model=tiny.yaml",
        deltas[0],
        tmp_path / "turned/adapter",
        f"dataset={animals}",
        "json=true",
    )
    assert code == 0, err
    result = json.loads(out)
    one, turned = result["deltas"]["one"], result["deltas"]["turned"]
    assert turned["test"]["accuracy"] == one["zero_shot"]["accuracy"]
    for name, row in (("turned - one", one["difference"]),):
        assert result["differences"][name]["accuracy"]["value"] == -row["accuracy"]["value"]


def test_one_class_alone_in_the_test_split(deltas, run_cli, make_folder, tmp_path):
    root = make_folder(tmp_path / "lone", per_class=3)
    for name in ("dog", "eel"):
        shutil.rmtree(root / "test" / name)
    code, out, err = run_cli(
        "evaluate", "model=tiny.yaml", deltas[0], f"dataset={root}", "json=true", "output=lone2"
    )
    assert code == 0, err
    result = json.loads(out)
    assert result["test"]["auroc"] == {"value": None, "low": None, "high": None}
    assert result["test"]["accuracy"]["value"] is not None
    assert result["difference"]["auroc"]["value"] is None
    note = (
        "all test images are of one class, 'cat': AUROC and average precision are not defined, "
        "kappa says nothing, and balanced accuracy is the accuracy"
    )
    assert result["notes"] == [note]
    code, out, _ = run_cli("evaluate", "model=tiny.yaml", deltas[0], f"dataset={root}")
    assert code == 0
    assert f"note: {note}" in out and "not defined" in out
    code, out, _ = run_cli("evaluate", "model=tiny.yaml", *deltas, f"dataset={root}")
    assert code == 0 and "not defined" in out


def test_a_run_with_one_class_alone_in_the_test_split(train_tiny, make_folder, tmp_path):
    root = make_folder(tmp_path / "lone", per_class=3)
    for name in ("dog", "eel"):
        shutil.rmtree(root / "test" / name)
    code, _, err = train_tiny(root, "conformal=0.4", "shots=1")
    assert code == 0, err
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["test"]["auroc"]["value"] is None
    assert (
        "| AUROC | not defined | not defined |" in (tmp_path / "out/adapter/README.md").read_text()
    )
    assert written["notes"][0].startswith("all test images are of one class, 'cat'")


def test_a_test_split_of_nothing_that_can_be_read(deltas, run_cli, make_folder, tmp_path):
    root = make_folder(tmp_path / "bad", per_class=2)
    for path in (root / "test").rglob("*.png"):
        path.write_bytes(b"")
    words = ("evaluate", "model=tiny.yaml", deltas[0], f"dataset={root}")
    code, _, err = run_cli(*words, "on_bad_image=skip", "output=no")
    assert (code, err) == (
        2,
        "error: no image of bad is left to measure on: of 6 images 6 were not readable. Give "
        "images that can be read.\n",
    )
    assert not (tmp_path / "no").exists()
    code, _, err = run_cli(*words)
    assert code == 2 and err.startswith("error: 6 images cannot be read:")


def test_an_output_that_cannot_be_written_is_refused_first(deltas, run_cli, animals, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run_cli(
        "evaluate", "model=tiny.yaml", deltas[0], f"dataset={animals}", "output=file/below"
    )
    assert code == 2
    assert err.startswith("error: cannot write into file/below: a part of this path is a file")


def test_the_data_sets_own_classes(deltas, run_cli, make_folder, tmp_path):
    other = make_folder(tmp_path / "other", classes=("owl", "ant"), per_class=3, seed=5)
    words = (f"dataset={other}", "classes=dataset", "json=true", "output=own")
    code, out, err = run_cli("evaluate", "model=tiny.yaml", deltas[0], *words)
    assert code == 0, err
    assert list(json.loads(out)["per_class"]) == ["ant", "owl"]
    code, _, err = run_cli("evaluate", "model=tiny.yaml", deltas[1], *words)
    assert (code, err) == (
        2,
        "error: classes=dataset: what linear_probe trained for two belongs to its own classes "
        "(cat, dog, eel) and cannot be used on others\n",
    )
