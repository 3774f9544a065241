"""The laws that every metric keeps, as a function that tests call.

from clip_adapt.testing import check_metric
check_metric(matthews)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator

import numpy as np

from clip_adapt.evaluation.metric import Metric
from clip_adapt.evaluation.predictions import Predictions, Resampled
from clip_adapt.evaluation.quantities import Quantity

TOLERANCE = 1e-9


def check_metric(metric: Metric) -> None:
    """Run every law; the first that is broken raises an AssertionError which says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning a resample would be a thousand of them
        for law in METRIC_LAWS:
            law(metric)


def it_is_described_as_it_is(metric: Metric) -> None:
    """What metrics.json says of it gives back its name, words, unit, direction and range."""
    again = Quantity.from_description(metric.name, metric.describe())
    for field in Quantity.__dataclass_fields__:
        assert getattr(again, field) == getattr(metric, field), f"{field} is not described"


def perfect_predictions_are_the_best(metric: Metric) -> None:
    """Certain and right, every image gives the best end of the range, where there is one."""
    if metric.best is None or math.isinf(metric.best):
        return
    labels = np.arange(12) % 3
    value = metric.measure(Predictions(labels, np.eye(3)[labels]))
    assert abs(value - metric.best) < TOLERANCE, f"perfect predictions give {value}"


def it_is_within_its_range(metric: Metric) -> None:
    """Values, of the whole and of resamples, lie in the range or are NaN."""
    for p in _list_cases():
        values = [metric.measure(p), *metric.resample(Resampled(p, _draw_weights(p)))]
        for value in values:
            inside = metric.low - TOLERANCE <= value <= metric.high + TOLERANCE
            assert inside or math.isnan(value), f"{value} lies outside its range"


def resampled_once_each_is_the_value(metric: Metric) -> None:
    """Weights of one give the value, NaN where the value is NaN."""
    for p in _list_cases():
        once = metric.resample(Resampled(p, np.ones((len(p.labels), 1))))
        assert once.shape == (1,), f"one resample gives the shape {once.shape}"
        _require_equal(once[0], metric.measure(p), "drawn once each, images give")


def resamples_are_repeated_images(metric: Metric) -> None:
    """A resample gives what the value gives on the images repeated as often as they are drawn."""
    for p in _list_cases():
        r = Resampled(p, _draw_weights(p))
        found = metric.resample(r)
        assert found.shape == r.total.shape, f"{len(r.total)} resamples give {found.shape}"
        for value, repeated in zip(found, r.repeat(), strict=True):
            _require_equal(value, metric.measure(repeated), "a resample gives")


def the_order_of_images_does_not_matter(metric: Metric) -> None:
    """Shuffled images give the same value."""
    for p in _list_cases():
        order = np.random.default_rng(1).permutation(len(p.labels))
        shuffled = Predictions(p.labels[order], p.probabilities[order])
        _require_equal(metric.measure(shuffled), metric.measure(p), "in another order it is")


METRIC_LAWS: tuple[Callable[[Metric], None], ...] = (
    it_is_described_as_it_is,
    perfect_predictions_are_the_best,
    it_is_within_its_range,
    resampled_once_each_is_the_value,
    resamples_are_repeated_images,
    the_order_of_images_does_not_matter,
)


def _list_cases() -> Iterator[Predictions]:
    # Two classes and four, with ties and without, a class that no image is of, one class alone.
    for seed, n_classes in enumerate((2, 4, 4)):
        stream = np.random.default_rng(seed)
        labels = stream.integers(n_classes, size=40)
        logits = stream.normal(size=(40, n_classes))
        logits[np.arange(40), labels] += 1
        p = np.exp(logits if seed == 1 else np.round(logits))
        p /= p.sum(1, keepdims=True)
        yield Predictions(labels, p)
        yield Predictions(np.minimum(labels, n_classes - 2), p)
    yield Predictions(np.zeros(6, np.int64), np.full((6, 3), 1 / 3))


def _draw_weights(p: Predictions) -> np.ndarray:
    counts = np.random.default_rng(7).multinomial(
        len(p.labels), np.full(len(p.labels), 1 / len(p.labels)), 5
    )
    return np.ascontiguousarray(counts.T, dtype=np.float64)


def _require_equal(value: float, expected: float, what: str) -> None:
    equal = math.isclose(value, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    assert equal or (math.isnan(value) and math.isnan(expected)), f"{what} {value}, not {expected}"
