"""A temperature from val, conformal sets that keep their promise, and no image used twice."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import clip_adapt
from clip_adapt.adapted import conformal
from clip_adapt.data.items import Item, Support
from clip_adapt.errors import InputError
from clip_adapt.evaluation import calibration


def drawn(n, spread, stream, n_classes=6):
    """Return probabilities (n, C) and labels that follow a sharper or flatter truth."""
    logits = stream.normal(size=(n, n_classes)) * spread
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([stream.choice(n_classes, p=row) for row in p])
    wrong = p**0.5  # the model is less sure than the truth: the promise must hold all the same
    return wrong / wrong.sum(1, keepdims=True), labels


@pytest.mark.parametrize("score", ["lac", "aps"])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2])
def test_coverage_is_what_was_promised(score, alpha):
    stream = np.random.default_rng(7)
    p, labels = drawn(4000, 2.0, stream)
    covered, sizes = [], []
    for _ in range(200):
        order = stream.permutation(len(labels))
        ours, others = order[:150], order[150:650]
        thresholds = conformal.fit_thresholds(p[ours], labels[ours], alpha)
        inside = conformal.choose_sets(p[others], thresholds, score)
        covered.append(inside[np.arange(len(others)), labels[others]].mean())
        sizes.append(inside.sum(1).mean())
    assert np.mean(covered) == pytest.approx(1 - alpha, abs=0.02)
    assert 1 < np.mean(sizes) < 6
    if score == "aps":
        assert inside.any(1).all()


def test_the_scores_by_hand():
    p = np.array([[0.5, 0.2, 0.3], [0.25, 0.5, 0.25]])
    assert conformal.lac(p) == pytest.approx(1 - p)
    assert conformal.aps(p) == pytest.approx(np.array([[0, 0.8, 0.5], [0.5, 0, 0.5]]))


def test_the_threshold_by_hand():
    scores = np.arange(1, 20) / 100  # 19 of them
    assert conformal.find_threshold(scores, 0.1) == 0.18  # the ceil(20 * 0.9) = 18th
    assert conformal.find_threshold(scores[:9], 0.1) == 0.09  # the 9th of 9
    with pytest.raises(InputError) as caught:
        conformal.fit_thresholds(np.full((8, 2), 0.5), np.zeros(8, int), 0.1)
    assert str(caught.value).startswith(
        "conformal=0.1 needs at least 9 calibration images, there are 8. Use fewer shots,"
    )


@pytest.mark.parametrize("true", [0.2, 1.0, 5.0])
def test_the_temperature_is_the_most_likely_one(true):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(400, 5, generator=generator)
    labels = torch.multinomial((logits / true).softmax(1), 1, generator=generator)[:, 0]
    found = calibration.find_temperature(logits, labels)
    grid = torch.logspace(-2, 2, 4001, dtype=torch.float64)
    losses = [float(cross_entropy(logits.double() / t, labels)) for t in grid]
    assert found == pytest.approx(float(grid[int(np.argmin(losses))]), rel=2e-3)
    assert found == pytest.approx(true, rel=0.3)


def test_no_temperature_where_the_likelihood_has_no_maximum():
    logits = torch.eye(4) * 3
    assert calibration.find_temperature(logits, torch.arange(4)) is None
    assert calibration.find_temperature(logits, (torch.arange(4) + 1) % 4) is None
    labels = torch.tensor([0, 1, 2, 0])
    assert calibration.find_temperature(logits, labels) == pytest.approx(3 / np.log(9), rel=1e-6)


@pytest.fixture
def adapt(make_folder, tiny_model, tmp_path, monkeypatch):
    """A function that adapts the tiny CLIP to a folder of its own: the finished classifier."""
    monkeypatch.setattr("clip_adapt.evaluation.resampling.RESAMPLES", 20)

    def run(folder=None, output="run", **options):
        usual = {"method": "coop", "shots": 2, "epochs": 2, "tensorboard": False} | options
        usual |= {"model": tiny_model, "device": "cpu", "output": str(tmp_path / output)}
        return clip_adapt.adapt(folder or tmp_path / "own", **usual)

    make_folder(tmp_path / "own", per_class=10)
    return run


def lines_of(path):
    """Return the rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def logits_on(model, folder, split):
    """Return the logits and labels of a split, straight through the towers."""
    classes = enumerate(model.classes)
    items = [(p, c) for c, name in classes for p in sorted((folder / split / name).iterdir())]
    pixels = torch.cat(list(model.batches([p for p, _ in items])))
    return model.logits(pixels), torch.tensor([c for _, c in items])


def test_calibrate_fits_val_and_is_kept_by_the_delta(adapt, tmp_path):
    plain = adapt(output="plain")
    model = adapt(calibrate=True)
    support = lines_of(tmp_path / "run/support.jsonl")
    val = [row for row in support if row["split"] == "val"]
    pixels = torch.cat(list(model.batches([row["path"] for row in val])))
    labels = torch.tensor([model.classes.index(row["label"]) for row in val])
    assert len(val) == 6
    assert model.temperature == pytest.approx(
        calibration.find_temperature(model.logits(pixels), labels), rel=1e-3
    )
    assert model.temperature != 1
    assert model.metrics["temperature"] == model.temperature
    again = clip_adapt.load(tmp_path / "run" / "adapter", backbone=model.backbone)
    assert again.temperature == model.temperature
    assert torch.equal(model.logits(pixels), plain.logits(pixels))
    expected = (plain.logits(pixels) / model.temperature).softmax(1)
    assert torch.allclose(again.probabilities(pixels), expected)
    assert model.metrics["zero_shot"] == plain.metrics["zero_shot"]
    assert model.metrics["test"]["nll"] != plain.metrics["test"]["nll"]
    assert model.metrics["test"]["auroc"]["value"] is not None


def test_a_temperature_that_cannot_be_found_is_said(adapt, monkeypatch, caplog):
    monkeypatch.setattr(calibration, "find_temperature", lambda logits, labels: None)
    model = adapt(calibrate=True)
    assert model.temperature == 1
    note, *_ = model.metrics["notes"]
    assert note.startswith("the temperature stays 1: on these 6 val images")
    assert note in caplog.text


def test_calibrate_without_val_is_refused_before_training(adapt, tmp_path):
    shutil.rmtree(tmp_path / "own" / "val")
    with pytest.raises(InputError, match="calibrate=true fits the temperature on validation image"):
        adapt(calibrate=True)
    assert not (tmp_path / "run").exists()


def test_the_sets_of_a_run(adapt, tmp_path):
    model = adapt(conformal=0.2)
    rows = lines_of(tmp_path / "run/calibration.jsonl")
    support = lines_of(tmp_path / "run/support.jsonl")
    assert {row["split"] for row in rows} == {"calibration"}
    assert len(rows) == 3 * (10 - 2) == model.conformal["n"]
    assert not {row["sha256"] for row in rows} & {row["sha256"] for row in support}
    assert all("/train/" in row["path"] for row in rows)
    pixels = torch.cat(list(model.batches([row["path"] for row in rows])))
    labels = np.array([model.classes.index(row["label"]) for row in rows])
    expected = conformal.fit_thresholds(model.probabilities(pixels).numpy(), labels, 0.2)
    assert model.conformal == pytest.approx(expected, abs=1e-5)
    again = clip_adapt.load(tmp_path / "run" / "adapter", backbone=model.backbone)
    assert again.conformal == model.conformal
    logits, labels = logits_on(again, tmp_path / "own", "test")
    p = again.softmax(logits).numpy()
    for score in ("lac", "aps"):
        inside = conformal.choose_sets(p, again.conformal, score)
        said = model.metrics["conformal"][score]
        hits = inside[np.arange(len(labels)), labels.numpy()]
        assert said["coverage"]["value"] == pytest.approx(hits.mean())
        assert said["set_size"]["value"] == pytest.approx(inside.sum(1).mean())
    assert model.metrics["conformal"]["n_calibration"] == 24


def test_sets_of_pictures(adapt, run_cli, tmp_path):
    model = adapt(conformal=0.2)
    paths = sorted(str(p) for p in (tmp_path / "own" / "test").rglob("*.png"))[:4]
    for score in ("lac", "aps"):
        sets = model.predict_sets(paths, score=score)
        for path, found in zip(paths, sets, strict=True):
            row = next(model.rows([path]))
            inside = conformal.choose_sets(row[None].numpy(), model.conformal, score)[0]
            assert {name for name, _ in found} == {
                name for name, yes in zip(model.classes, inside, strict=True) if yes
            }
            assert [p for _, p in found] == sorted((p for _, p in found), reverse=True)
            alone = model.predict_sets(path, score=score)
            assert [name for name, _ in alone] == [name for name, _ in found]
    adapter = tmp_path / "run" / "adapter"
    code, out, err = run_cli(
        "predict", "model=tiny.yaml", adapter, *paths, "json=true", "score=aps", "top_k=1"
    )
    assert code == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["set"] for line in lines] == [[name for name, _ in one] for one in sets]
    assert all(len(line["predictions"]) == 1 for line in lines)
    code, out, _ = run_cli("predict", "model=tiny.yaml", adapter, paths[0], "score=aps")
    assert f"set at 80%: {', '.join(name for name, _ in sets[0])}" in out


def test_sets_of_a_delta_without_thresholds(adapt, run_cli, tmp_path):
    model = adapt()
    picture = tmp_path / "own" / "test" / "cat" / "0.png"
    with pytest.raises(InputError, match="no conformal sets: train it with conformal="):
        model.predict_sets(picture)
    assert "conformal" not in model.metrics
    assert not (tmp_path / "run" / "calibration.jsonl").exists()
    _, out, _ = run_cli(
        "predict", "model=tiny.yaml", tmp_path / "run" / "adapter", picture, "json=true"
    )
    assert "set" not in json.loads(out)


def test_an_unknown_score_is_refused(adapt, tmp_path):
    model = adapt(conformal=0.2)
    with pytest.raises(InputError, match="unknown score 'apps' - did you mean 'aps'"):
        model.predict_sets(tmp_path / "own" / "test" / "cat" / "0.png", score="apps")


def test_a_number_of_calibration_images_is_drawn_by_the_seed(adapt, tmp_path):
    drawn = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        adapt(conformal=0.2, conformal_images=12, seed=seed, output=name)
        drawn.append((tmp_path / name / "calibration.jsonl").read_text())
    assert len(drawn[0].splitlines()) == 12
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_run_that_used_every_image_has_none_to_calibrate_on(adapt, tmp_path):
    with pytest.raises(InputError) as caught:
        adapt(conformal=0.1, shots=10)
    assert str(caught.value).startswith(
        "conformal= needs labelled images that were not used for adapting, and all 30 were: "
        "using an image for both is refused"
    )
    assert not (tmp_path / "run").exists()


def test_too_few_images_for_the_promise(adapt, tmp_path):
    with pytest.raises(InputError, match=r"conformal=0\.02 needs at least 49 calibration images, "):
        adapt(conformal=0.02)
    assert not (tmp_path / "run").exists()


def test_images_that_were_set_aside_for_calibrating(adapt, make_folder, tmp_path):
    make_folder(tmp_path / "aside", splits=(), per_class=8, seed=9)
    model = adapt(conformal=0.2, conformal_images=str(tmp_path / "aside"))
    assert model.conformal["n"] == 24
    rows = lines_of(tmp_path / "run/calibration.jsonl")
    assert all(row["path"].startswith(str(tmp_path / "aside")) for row in rows)


def test_calibrating_on_images_that_were_adapted_on_is_refused(adapt, make_folder, tmp_path):
    make_folder(tmp_path / "aside", splits=(), per_class=8, seed=9)
    model = adapt()
    used = [row["path"] for row in lines_of(tmp_path / "run/support.jsonl")]
    shutil.rmtree(tmp_path / "run")
    copy = tmp_path / "aside" / "cat" / "copy.png"
    shutil.copy(next(p for p in used if "/cat/" in p), copy)
    with pytest.raises(InputError) as caught:
        adapt(conformal=0.2, conformal_images=str(tmp_path / "aside"))
    assert str(caught.value).startswith("1 calibration images were used for adapting (train or val")
    assert f"\n  {copy}\n" in str(caught.value)
    assert not (tmp_path / "run").exists()
    assert model.conformal is None


def test_calibrating_on_images_that_are_tested_on_is_refused(adapt, make_folder, tmp_path):
    make_folder(tmp_path / "aside", splits=(), per_class=8, seed=9)
    tested = tmp_path / "own" / "test" / "dog" / "3.png"
    shutil.copy(tested, tmp_path / "aside" / "dog" / "copy.png")
    with pytest.raises(InputError, match="1 images stand in two splits"):
        adapt(conformal=0.2, conformal_images=str(tmp_path / "aside"))
    assert not (tmp_path / "run").exists()


def test_images_of_a_patient_who_was_adapted_on_are_left_out(animals):
    paths = sorted(str(p) for p in (animals / "train").rglob("*.png"))[:6]
    items = [Item(p, 0, g) for p, g in zip(paths, ["x", "x", "y", "z", None, None], strict=True)]
    support = Support([items[0], items[4]], [items[3]], 1)
    assert calibration.list_unused(items, support) == [items[2], items[5]]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("conformal=0", "conformal=0: expected a number, above 0 and at most 0.5 or null"),
        ("conformal=0.9", "conformal=0.9: expected a number, above 0 and at most 0.5 or null"),
        (
            "conformal_images=5",
            "conformal_images is given without conformal: add conformal=0.1, or drop it",
        ),
        ("calibrate=perhaps", "calibrate=perhaps: expected true or false"),
    ],
)
def test_options_that_cannot_be(train_tiny, animals, word, message):
    code, _, err = train_tiny(animals, word)
    assert (code, err.strip()) == (2, f"error: {message}")
