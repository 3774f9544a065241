"""The contract of a metric: a number of the predictions, and its twin for all resamples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clip_adapt.evaluation.predictions import Floats, Predictions, Resampled
from clip_adapt.evaluation.quantities import Quantity
from clip_adapt.system.quiet import ignore_warnings


@dataclass(frozen=True, kw_only=True)
class Metric(Quantity):
    """A number of a test set. A file of metrics/, or one of a user's own, defines one or more.

    Attributes:
        value: of the predictions as they are; NaN where they do not define it.
        resampled: the same of every resample (R,), NaN likewise. Without it ``value`` is asked for
            each resample in turn, which is slower, so that fewer are drawn (``FEWEST``).
    """

    value: Callable[[Predictions], float]
    resampled: Callable[[Resampled], Floats] | None = None

    def measure(self, p: Predictions) -> float:
        """Return the value of the predictions; NaN where they do not define it."""
        # scikit-learn warns of classes that are predicted but absent, of one class alone, and of
        # rows in float32 that sum to 1 within 1e-6 only. The first are left out, which is meant;
        # the second gives NaN, which list_notes() puts into words; the third is no loss.
        with ignore_warnings(UserWarning):
            return float(self.value(p))

    def resample(self, r: Resampled) -> Floats:
        """Return the value of every resample (R,)."""
        if self.resampled is not None:
            return self.resampled(r)
        return np.array([self.measure(p) for p in r.repeat()], dtype=np.float64)
