"""Metrics: scikit-learn's values, resamples that equal repeated images, intervals that repeat."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as library
from torchmetrics.functional.classification import multiclass_calibration_error

from clip_adapt.evaluation import measuring, resampling
from clip_adapt.evaluation.finding import list_shipped
from clip_adapt.evaluation.predictions import Predictions, Resampled, measure_ranking

CLASSES = ["a", "b", "c", "d"]


def sample(n=60, n_classes=4, seed=0, ties=True):
    """Return random labels (N,) and probabilities (N, C); with ties, scores repeat often."""
    stream = np.random.default_rng(seed)
    labels = stream.integers(n_classes, size=n)
    logits = stream.normal(size=(n, n_classes))
    logits[np.arange(n), labels] += 1
    if ties:
        logits = np.round(logits)
    p = np.exp(logits)
    return labels, p / p.sum(1, keepdims=True)


def by_library(y, p):
    """Return every metric straight from scikit-learn and torchmetrics, classes all present."""
    best, every = p.argmax(1), range(p.shape[1])
    one_hot = np.eye(p.shape[1])[y]
    return {
        "accuracy": library.accuracy_score(y, best),
        "balanced_accuracy": library.balanced_accuracy_score(y, best),
        "macro_f1": library.f1_score(y, best, average="macro"),
        "cohen_kappa": library.cohen_kappa_score(y, best),
        "auroc": library.roc_auc_score(y, p, multi_class="ovr", average="macro"),
        "average_precision": library.average_precision_score(one_hot, p, average="macro"),
        "ece": float(
            multiclass_calibration_error(torch.tensor(p), torch.tensor(y), p.shape[1], n_bins=15)
        ),
        "brier": library.brier_score_loss(y, p, labels=every, scale_by_half=False) / 2,
        "nll": library.log_loss(y, p, labels=every),
    }


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [True, False])
def test_values_are_the_librarys(seed, ties):
    y, p = sample(seed=seed, ties=ties)
    table = measuring.measure(y, p, CLASSES).table
    expected = by_library(y, p)
    assert list(table) == list(expected)
    for name, value in expected.items():
        assert table[name]["value"] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [True, False])
def test_resamples_are_the_librarys_on_repeated_images(seed, ties):
    y, p = sample(seed=seed, ties=ties)
    weights = np.concatenate(list(resampling.draw_resamples(len(y), None, 6, seed)), axis=1)
    resampled = Resampled(Predictions(y, p), weights)
    found = {metric.name: metric.resample(resampled) for metric in list_shipped()}
    for index, counts in enumerate(weights.T.astype(int)):
        drawn = np.repeat(np.arange(len(y)), counts)
        for name, value in by_library(y[drawn], p[drawn]).items():
            assert found[name][index] == pytest.approx(value, abs=1e-6), name


def test_per_class_numbers_are_the_librarys():
    y, p = sample(seed=3)
    measured = measuring.measure(y, p, CLASSES)
    precision, recall, f1, support = library.precision_recall_fscore_support(y, p.argmax(1))
    for c, name in enumerate(CLASSES):
        row = measured.per_class[name]
        assert row["support"] == support[c]
        expected = {"precision": precision[c], "recall": recall[c], "f1": f1[c]}
        expected["auroc"] = library.roc_auc_score(y == c, p[:, c])
        expected["average_precision"] = library.average_precision_score(y == c, p[:, c])
        for metric, value in expected.items():
            assert row[metric]["value"] == pytest.approx(value, abs=1e-6), (name, metric)
            assert row[metric]["low"] <= value <= row[metric]["high"]
    assert measured.confusion == library.confusion_matrix(y, p.argmax(1)).tolist()


def test_weights_of_any_size_rank_as_in_the_library():
    stream = np.random.default_rng(0)
    positive = stream.random(50) < 0.3
    scores = np.round(stream.normal(size=50) + positive, 1)
    weights = stream.random((50, 4))
    auroc, average = measure_ranking(positive, scores, weights)
    for r, w in enumerate(weights.T):
        one = library.roc_auc_score(positive, scores, sample_weight=w)
        other = library.average_precision_score(positive, scores, sample_weight=w)
        assert (auroc[r], average[r]) == pytest.approx((one, other), abs=1e-6)


def test_intervals_repeat_with_the_seed_and_hold_the_value():
    y, p = sample(n=200)
    first, again, other = (measuring.measure(y, p, CLASSES, seed=s) for s in (1, 1, 2))
    assert first.table == again.table and first.per_class == again.per_class
    assert first.table["accuracy"]["value"] == other.table["accuracy"]["value"]
    assert first.table["accuracy"] != other.table["accuracy"]
    for name, row in first.table.items():
        assert row["low"] < row["value"] < row["high"], name


def test_the_width_is_that_of_the_binomial():
    y, p = sample(n=400, ties=False)
    row = measuring.measure(y, p, CLASSES).table["accuracy"]
    deviation = np.sqrt(row["value"] * (1 - row["value"]) / 400)
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * deviation, rel=0.1)


def test_the_blocks_change_no_resample_of_a_test_set(monkeypatch):
    y, p = sample()
    whole = measuring.measure(y, p, CLASSES).table
    monkeypatch.setattr(resampling, "BLOCK", 7 * len(y))
    assert measuring.measure(y, p, CLASSES).table == whole


def test_whole_groups_are_drawn():
    groups = ["x", None, "x", "y", None]
    weights = np.concatenate(list(resampling.draw_resamples(5, groups, 100, 0)), axis=1)
    assert (weights[0] == weights[2]).all()
    assert any((weights[1] != weights[4]).tolist())
    # Four units are drawn: x counts twice, and None is a unit of its own each time.
    assert (weights[[0, 1, 3, 4]].sum(0) == 4).all()
    assert resampling.describe_bootstrap(5, 4, groups)["units"] == 4
    assert resampling.describe_bootstrap(5, 4, None) == {
        "resamples": 1000, "seed": 0, "unit": "image", "units": 5,
    }  # fmt: skip


def test_images_of_one_patient_are_no_independent_evidence():
    y, p = sample(n=50, ties=False)
    copies = np.repeat(np.arange(50), 8)
    alone = measuring.measure(y, p, CLASSES).table["accuracy"]
    naive = measuring.measure(y[copies], p[copies], CLASSES).table["accuracy"]
    grouped = measuring.measure(y[copies], p[copies], CLASSES, [str(i) for i in copies])
    width = {
        name: row["high"] - row["low"]
        for name, row in (("alone", alone), ("naive", naive), ("g", grouped.table["accuracy"]))
    }
    assert width["naive"] < 0.5 * width["alone"]
    assert width["g"] == pytest.approx(width["alone"], rel=0.15)


def test_one_class_alone_is_said_and_not_crashed():
    _, p = sample(n=10)
    y = np.full(10, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measured = measuring.measure(y, p, CLASSES)
    nothing = {"value": None, "low": None, "high": None}
    for name in ("auroc", "average_precision"):
        assert measured.table[name] == nothing
        assert measured.per_class["c"][name] == nothing
    share = float((p.argmax(1) == 2).mean())
    assert measured.table["accuracy"]["value"] == share
    assert measured.table["balanced_accuracy"]["value"] == share
    assert measured.per_class["a"]["support"] == 0
    assert measured.per_class["a"]["recall"] == nothing
    json.dumps(measured.table, allow_nan=False)
    assert measuring.list_notes(y, CLASSES) == [
        "all test images are of one class, 'c': AUROC and average precision are not defined, "
        "kappa says nothing, and balanced accuracy is the accuracy"
    ]


def test_an_absent_class_is_left_out_and_said():
    y, p = sample(seed=1)
    p = p[y != 3] / p[y != 3].sum(1, keepdims=True)
    y = y[y != 3]
    measured = measuring.measure(y, p, CLASSES)
    expected = np.mean([library.roc_auc_score(y == c, p[:, c]) for c in range(3)])
    assert measured.table["auroc"]["value"] == pytest.approx(expected, abs=1e-9)
    assert measured.table["auroc"]["low"] < expected < measured.table["auroc"]["high"]
    assert measuring.list_notes(y, CLASSES)[0].startswith("no test image of d: left out of")
    assert measuring.list_notes(np.arange(4), CLASSES) == []


def test_a_paired_difference_is_narrower_than_its_parts():
    y, p = sample(n=300, ties=False)
    worse = p.copy()
    worse[:15] = np.roll(worse[:15], 1, axis=1)
    a, b = measuring.measure(y, p, CLASSES), measuring.measure(y, worse, CLASSES)
    found = measuring.compare(a, b)
    for name, row in found.items():
        assert row["value"] == pytest.approx(a.table[name]["value"] - b.table[name]["value"])
    width = found["accuracy"]["high"] - found["accuracy"]["low"]
    assert width < 0.7 * (a.table["accuracy"]["high"] - a.table["accuracy"]["low"])
    same = measuring.compare(a, a)["accuracy"]
    assert same == {"value": 0, "low": 0, "high": 0}


def test_a_certain_and_wrong_answer_costs_a_finite_likelihood():
    p = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    row = measuring.measure(np.array([0, 1, 1]), p, ["a", "b"]).table["nll"]
    assert row["value"] == pytest.approx(-np.log(np.finfo(np.float64).eps) / 3)


def test_large_test_sets_are_resampled_less_often():
    assert resampling.count_resamples(1000, 13) == 1000
    assert resampling.count_resamples(50_000, 1000) == 200
    assert 200 < resampling.count_resamples(30_300, 101) < 1000


def degenerate(seed):
    """Return a test set of few images: a class or two are lost in many resamples."""
    stream = np.random.default_rng(seed)
    n, n_classes = int(stream.integers(2, 15)), int(stream.integers(2, 5))
    y = stream.integers(0, n_classes, n)
    kinds = [
        np.full((n, n_classes), 0.1) + (1 - 0.1 * n_classes) * np.eye(n_classes)[0],
        np.full((n, n_classes), 1 / n_classes),
        np.eye(n_classes)[y],
        stream.dirichlet(np.full(n_classes, 0.2), n),
    ]
    groups = [f"g{i}" for i in stream.integers(0, 3, n)] if seed % 2 else None
    return y, kinds[seed // 2 % 4], groups


@pytest.mark.parametrize("seed", range(24))
def test_every_interval_holds_its_value_however_odd_the_test_set_is(seed, monkeypatch):
    monkeypatch.setattr(resampling, "RESAMPLES", 300)
    y, p, groups = degenerate(seed)
    other = np.roll(p, 1, axis=1)
    names = CLASSES[: p.shape[1]]
    ours, theirs = (measuring.measure(y, q, names, groups, seed) for q in (p, other))
    sets = resampling.estimate_mean(p.max(1) == p[:, 0], groups, seed)
    rows = {**ours.table, "sets": sets}
    rows |= {f"difference of {k}": row for k, row in measuring.compare(ours, theirs).items()}
    rows |= {f"{c} {q}": ours.per_class[c][q] for c in names for q in ("recall", "f1", "auroc")}
    for name, row in rows.items():
        if row["value"] is not None:
            assert row["low"] <= row["value"] <= row["high"], (name, row)


def test_an_interval_of_resamples_that_lie_beside_the_value_ends_at_it():
    # Nine of ten resamples have the value; moved by their mean, all percentiles lie beside it.
    samples = np.array([0.5] * 90 + [1.0] * 10)
    row = resampling.make_estimate(0.5, samples, 0.0, 1.0)
    assert row == {"value": 0.5, "low": pytest.approx(0.45), "high": pytest.approx(0.95)}
    row = resampling.make_estimate(0.5, np.array([0.5] * 990 + [1.0] * 10), 0.0, 1.0)
    assert row == {"value": 0.5, "low": pytest.approx(0.495), "high": 0.5}
    row = resampling.make_estimate(0.5, np.array([0.5] * 990 + [0.0] * 10), 0.0, 1.0)
    assert row == {"value": 0.5, "low": 0.5, "high": pytest.approx(0.505)}
