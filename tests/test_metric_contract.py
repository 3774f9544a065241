"""Metrics as objects: their laws, how they are found, written and described, and an outside one."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef

from clip_adapt.errors import InputError
from clip_adapt.evaluation import finding, measuring, reading, resampling
from clip_adapt.evaluation.finding import find_metrics, list_shipped
from clip_adapt.evaluation.metric import Metric
from clip_adapt.evaluation.predictions import Predictions, Resampled
from clip_adapt.evaluation.quantities import (
    COVERAGE,
    EMPTY,
    PER_CLASS,
    RECALLS,
    SET_SIZE,
    UNITS,
    Quantity,
)
from clip_adapt.testing import METRIC_LAWS, check_metric

MATTHEWS = Path(__file__).parents[1] / "docs" / "examples" / "matthews.py"
SLOW = """
from sklearn.metrics import matthews_corrcoef
from clip_adapt.evaluation import Metric

slow = Metric(name="slow", spoken="slow", low=-1.0,
              value=lambda p: matthews_corrcoef(p.labels, p.predicted))
"""


@pytest.mark.parametrize("metric", list_shipped(), ids=lambda metric: metric.name)
def test_every_metric_that_ships_keeps_every_law(metric):
    check_metric(metric)


def test_the_example_metric_keeps_every_law():
    (matthews,) = find_metrics(str(MATTHEWS))
    check_metric(matthews)


ACCURACY = next(metric for metric in list_shipped() if metric.name == "accuracy")
BROKEN = {
    "it_is_described_as_it_is": {},
    "perfect_predictions_are_the_best": {"better": "lower"},
    "it_is_within_its_range": {"value": lambda p: 2.0},
    "resampled_once_each_is_the_value": {"resampled": lambda r: r.accuracy + 0.01},
    "resamples_are_repeated_images": {"resampled": lambda r: np.full(len(r.total), 0.5)},
    "the_order_of_images_does_not_matter": {"value": lambda p: float(p.is_right[0])},
}


@pytest.mark.parametrize("law", METRIC_LAWS, ids=lambda law: law.__name__)
def test_a_law_notices_what_it_is_for(law, monkeypatch):
    broken = replace(ACCURACY, **BROKEN[law.__name__])
    law(ACCURACY)
    if law.__name__ == "it_is_described_as_it_is":
        monkeypatch.setattr(Quantity, "describe", lambda q: {**describe(q), "unit": "nats"})
    with pytest.raises(AssertionError):
        law(broken)


describe = Quantity.describe


def test_the_metrics_that_ship_in_their_order():
    rows = [(m.name, m.spoken, m.unit, m.better, m.headline) for m in list_shipped()]
    assert rows == [
        ("accuracy", "accuracy", "per cent", "higher", True),
        ("balanced_accuracy", "balanced accuracy", "per cent", "higher", True),
        ("macro_f1", "macro F1", "per cent", "higher", False),
        ("cohen_kappa", "Cohen's kappa", "none", "higher", False),
        ("auroc", "AUROC", "none", "higher", True),
        ("average_precision", "average precision", "none", "higher", False),
        ("ece", "ECE", "per cent", "lower", False),
        ("brier", "Brier score", "none", "lower", False),
        ("nll", "NLL", "nats", "lower", False),
    ]
    assert all(metric.resampled is not None for metric in list_shipped())


def test_every_quantity_has_one_name_and_one_unit():
    every = [*list_shipped(), *RECALLS, COVERAGE, SET_SIZE, EMPTY]
    assert len({q.name for q in every}) == len({q.spoken for q in every}) == len(every)
    assert {q.unit for q in every} == set(UNITS)
    assert {q.unit for q in RECALLS} == {"per cent"}
    # A number of one class is written as the mean over the classes is.
    of_class = {q.name: q.unit for q in PER_CLASS}
    for one, mean in (("f1", "macro_f1"), ("recall", "balanced_accuracy"), ("auroc", "auroc")):
        assert of_class[one] == reading.find_quantity(mean, {}).unit


@pytest.mark.parametrize(
    ("unit", "value", "change", "title"),
    [
        ("per cent", "49.1 % (45.2 to 53.0)", "-12.3", "it in %"),
        ("none", "0.491 (0.452 to 0.530)", "-0.123", "it"),
        ("nats", "0.491 (0.452 to 0.530)", "-0.123", "it in nats"),
        ("classes", "0.49 classes (0.45 to 0.53)", "-0.12", "it in classes"),
    ],
)
def test_how_a_unit_is_written(unit, value, change, title):
    quantity = Quantity(name="it", spoken="it", unit=unit)
    assert quantity.write_estimate({"value": 0.491, "low": 0.452, "high": 0.53}) == value
    assert quantity.write_estimate({"value": 0.491, "low": None, "high": None}) in value
    assert quantity.write_value(None) == "not defined"
    assert quantity.write_value(-1e-9)[0] == "0"  # zero has no minus
    assert quantity.write_change(-0.123) == change
    assert quantity.write_title() == title
    assert quantity.write_spread(0.491, 0.02).count("±") == 1


def test_better_has_a_direction_or_none():
    higher, lower, neither = (
        Quantity(name="it", spoken="it", better=better) for better in ("higher", "lower", None)
    )
    for one, two in ((0.2, 0.1), (0.1, 0.2)):
        assert higher.is_better(one, two) is (one > two)
        assert lower.is_better(one, two) is (one < two)
        assert neither.is_better(one, two) is None
    assert higher.is_better(0.1, 0.1) is higher.is_better(None, 0.1) is None
    assert (higher.best, lower.best, neither.best) == (1.0, 0.0, None)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"name": "my metric"}, "a metric is called 'my metric': use letters, digits, _ and @"),
        ({"unit": "percent"}, "metric it: unknown unit 'percent' - did you mean 'per cent'?"),
        ({"low": 1.0}, r"metric it: low=1\.0 is not below high=1\.0"),
    ],
)
def test_a_quantity_that_cannot_be(facts, message):
    with pytest.raises(InputError, match=message):
        Quantity(**{"name": "it", "spoken": "it", **facts})


def test_a_name_that_nothing_describes_is_written_plainly():
    found = reading.find_quantity("of_another_version", {"metrics": {}})
    assert (found.spoken, found.unit, found.better) == ("of another version", "none", None)


# Without a twin


def sample(n=60):
    stream = np.random.default_rng(0)
    labels = stream.integers(3, size=n)
    p = stream.dirichlet(np.ones(3), size=n)
    return labels, p


def test_a_metric_without_a_twin_is_resampled_image_by_image(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    (slow,), (matthews,) = find_metrics("slow.py"), find_metrics(str(MATTHEWS))
    labels, p = sample()
    measured = measuring.measure(labels, p, "abc", more=[slow, matthews])
    assert len(measured.samples["matthews"]) == 1000
    assert len(measured.samples["slow"]) == resampling.FEWEST
    assert measured.samples["slow"] == pytest.approx(measured.samples["matthews"][:200], abs=1e-12)
    assert measured.table["slow"]["value"] == measured.table["matthews"]["value"]
    apart = measuring.compare(measured, measured)["slow"]
    assert apart == {"value": 0, "low": 0, "high": 0}


def test_the_blocks_change_no_resample_of_a_metric_without_a_twin(tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text(SLOW)
    labels, p = sample(20)
    whole = measuring.measure(labels, p, "abc", more=find_metrics("slow.py")).samples["slow"]
    monkeypatch.setattr(resampling, "BLOCK", 7 * len(labels))
    again = measuring.measure(labels, p, "abc", more=find_metrics("slow.py")).samples["slow"]
    assert again.tolist() == whole.tolist()


# Found


def test_a_metric_of_a_file_and_of_an_entry_point(tmp_path, monkeypatch):
    (matthews,) = find_metrics([str(MATTHEWS)])
    assert (matthews.name, matthews.low) == ("matthews", -1.0)
    assert find_metrics(None) == find_metrics([]) == ()
    package = tmp_path / "my_metrics"
    package.mkdir()
    (package / "__init__.py").write_text(SLOW)
    facts = tmp_path / "my_metrics-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: my-metrics\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(
        f"[{finding.KIND.group}]\nmine = my_metrics:slow\nall = my_metrics\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (slow,) = find_metrics("mine")
    assert slow.name == "slow" and find_metrics(["all", str(MATTHEWS)]) == (slow, matthews)
    with pytest.raises(InputError, match="unknown metric 'mime' - did you mean 'mine'"):
        find_metrics("mime")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("none.py", r"metric file none\.py does not exist \(looked at /"),
        ("empty.py", r"empty\.py must define at least one Metric"),
        ("broken.py", r"metric file broken\.py fails on import: ZeroDivisionError"),
        ("accuracy", "metrics=accuracy: every run is measured by accuracy, so leave it out"),
        ("clash.py", r"metrics=clash\.py: there is another metric called 'accuracy'"),
        (["slow.py", "slow.py"], "there is another metric called 'slow'"),
        ("matthews", r"unknown metric 'matthews'\. Installed: none; or give the path of your own"),
    ],
)
def test_what_cannot_be_found(tmp_path, names, message):
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "empty.py").write_text("import math\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "clash.py").write_text(SLOW.replace('"slow"', '"accuracy"'))
    with pytest.raises(InputError, match=message):
        find_metrics(names)


# The example, end to end


def matthews_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return matthews_corrcoef([r["label"] for r in rows], [r["prediction"] for r in rows])


def test_the_example_metric_is_the_librarys():
    (matthews,) = find_metrics(str(MATTHEWS))
    labels, p = sample(200)
    expected = matthews_corrcoef(labels, p.argmax(1))
    weights = np.random.default_rng(1).integers(0, 3, (200, 8)).astype(np.float64)
    found = matthews.resample(Resampled(Predictions(labels, p), weights))
    assert matthews.measure(Predictions(labels, p)) == expected
    for value, counts in zip(found, weights.T, strict=True):
        exact = matthews_corrcoef(labels, p.argmax(1), sample_weight=counts)
        assert value == pytest.approx(exact, abs=1e-12)


def test_a_metric_from_outside_in_a_run_and_an_evaluation(train_tiny, animals, run_cli, tmp_path):
    code, out, err = train_tiny(animals, f"metrics=[{MATTHEWS}]")
    assert code == 0, err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    row = metrics["test"]["matthews"]
    assert row["value"] == pytest.approx(matthews_of(tmp_path / "out" / "predictions.csv"))
    assert row["low"] <= row["value"] <= row["high"]
    assert set(metrics["difference"]) == set(metrics["test"]) == set(metrics["zero_shot"])
    assert metrics["metrics"] == {
        "matthews": {
            "spoken": "Matthews correlation",
            "unit": "none",
            "better": "higher",
            "headline": False,
            "range": [-1.0, 1.0],
        }
    }
    text = f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
    card = (tmp_path / "out" / "adapter" / "README.md").read_text()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Matthews correlation" in page and f"{row['value']:.3f}" in page
    assert "| Matthews correlation |" in card and f"{text} |\n" in card
    assert "Matthews correlation" in out and text in out
    words = (
        "evaluate",
        "model=tiny.yaml",
        "out/adapter",
        f"dataset={animals}",
        f"metrics={MATTHEWS}",
    )
    code, out, err = run_cli(*words)
    assert code == 0 and text in out, err
    code, out, err = run_cli(*words, "json=true")
    assert code == 0, err
    assert json.loads(out)["test"]["matthews"] == row
    assert run_cli("report", "out")[0] == 0  # the metric's file is not asked for
    assert (tmp_path / "out" / "report.html").read_text() == page


def test_a_metric_from_outside_leads_a_sweep(run_cli, animals, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(resampling, "RESAMPLES", 20)
    words = ["method=[zero_shot,linear_probe]", "shots=2", "seed=[1,2]", "tensorboard=false"]
    words += [f"dataset={animals}", f"model={tiny_model}", "output=out", "report=false"]
    code, _, err = run_cli("sweep", *words, "metric=matthews")
    assert code == 2 and "unknown metric 'matthews'" in err and "auroc" in err
    code, out, err = run_cli("sweep", *words, "metric=matthews", f"metrics=[{MATTHEWS}]")
    assert code == 0, err
    with open(tmp_path / "out" / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    for row in rows:
        expected = matthews_of(Path(row["folder"]) / "predictions.csv")
        assert float(row["matthews"]) == pytest.approx(expected, abs=1e-6)
    summary = (tmp_path / "out" / "results.md").read_text()
    assert summary.startswith("# Matthews correlation on the test split")
    assert "%" not in summary.partition("| |")[2]
    assert "test Matthews correlation" in (tmp_path / "out" / "curve.svg").read_text()
    assert "Matthews correlation 0." in out or "Matthews correlation -0." in out


def test_a_headline_metric_from_outside_stands_in_the_index(train_tiny, animals, run_cli, tmp_path):
    (tmp_path / "own.py").write_text(SLOW.replace("low=-1.0", "low=-1.0, headline=True"))
    code, _, err = train_tiny(animals, "metrics=own.py", "report=false", "output=runs/one")
    assert code == 0, err
    assert run_cli("report", "runs")[0] == 0
    page = (tmp_path / "runs" / "index.html").read_text()
    for title in ("accuracy", "balanced accuracy", "AUROC", "slow", "zero-shot accuracy"):
        assert f'type="button">{title}</button>' in page, title
    assert 'type="button">ECE</button>' not in page


@pytest.mark.parametrize("verb", ["train", "sweep", "evaluate"])
def test_a_metric_that_is_not_there_is_refused_first(run_cli, animals, verb, everything_in):
    words = [] if verb != "evaluate" else ["nowhere/adapter"]
    code, _, err = run_cli(verb, *words, f"dataset={animals}", "metrics=none.py", "output=out")
    assert code == 2 and "metric file none.py does not exist" in err
    assert everything_in("out") is None


# Intervals


def test_an_interval_is_moved_so_that_its_resamples_mean_the_value():
    # Resamples that lie 0.2 above the value, as those of average precision do.
    samples = 0.7 + np.linspace(-0.1, 0.1, 201)
    found = resampling.make_estimate(0.5, samples, 0.0, 1.0)
    ends = np.quantile(samples, [0.025, 0.975]) - 0.2
    assert (found["low"], found["high"]) == pytest.approx(tuple(ends), abs=1e-12)
    assert found["low"] < 0.5 < found["high"]
    assert (found["low"] + found["high"]) / 2 == pytest.approx(0.5)


def test_an_interval_ends_where_values_end_and_leaves_out_what_is_not_defined():
    samples = np.array([0.0, 0.5, 1.0, math.nan] * 50)
    found = resampling.make_estimate(0.9, samples, 0.0, 1.0)
    assert found == {"value": 0.9, "low": pytest.approx(0.4), "high": 1.0}
    nothing = {"value": None, "low": None, "high": None}
    assert resampling.make_estimate(math.nan, samples, 0.0, 1.0) == nothing
    assert resampling.make_estimate(0.5, samples[3:4], 0.0, 1.0) == nothing


def test_units_are_groups_and_every_image_without_one():
    units = resampling.find_units(6, ["b", None, "a", "b", None, "a"])
    assert units[0] == units[3] and units[2] == units[5]
    assert len(set(units.tolist())) == 4 and set(units.tolist()) == {0, 1, 2, 3}
    # A patient who is called like an image alone is a group of its own.
    assert len(set(resampling.find_units(2, ["alone 1", None]).tolist())) == 2
    assert resampling.find_units(3, None).tolist() == [0, 1, 2]


def test_how_many_resamples_are_drawn():
    for n, n_classes, count in ((1000, 13, 1000), (20_000, 100, 1000), (20_000, 200, 500),
                                (50_000, 1000, 200)):  # fmt: skip
        assert resampling.count_resamples(n, n_classes) == count
        assert resampling.describe_bootstrap(n, n_classes, None)["resamples"] == count


def test_as_many_resamples_are_drawn_as_are_said(monkeypatch):
    labels, p = sample(30)
    monkeypatch.setattr(resampling, "RESAMPLES", 37)
    measured = measuring.measure(labels, p, "abc")
    said = resampling.describe_bootstrap(30, 3, None)["resamples"]
    assert {len(samples) for samples in measured.samples.values()} == {37} == {said}


def test_a_value_without_a_name_of_its_own_is_a_mean():
    x = np.array([0.0, 1.0, 3.0, 4.0])
    found = resampling.estimate_mean(x, None, 0, high=5.0)
    weights = np.concatenate(list(resampling.draw_resamples(4, None, 1000, 0)), axis=1)
    samples = x @ weights / weights.sum(0)
    ends = 2.0 + np.quantile(samples - samples.mean(), [0.025, 0.975])
    assert found["value"] == 2.0
    assert (found["low"], found["high"]) == pytest.approx(tuple(ends))


def test_a_metric_is_made_by_keyword():
    with pytest.raises(TypeError):
        Metric("accuracy", "accuracy")


def test_the_metric_of_the_page_keeps_every_law(tmp_path):
    page = (MATTHEWS.parents[1] / "metrics.md").read_text()
    (tmp_path / "short.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1])
    (short,), (matthews,) = find_metrics("short.py"), find_metrics(str(MATTHEWS))
    check_metric(short)
    assert short.describe() == matthews.describe()
    fields = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]*) \|", page, re.MULTILINE)))
    assert fields == [*Metric.__dataclass_fields__]
