"""Measuring on test images: metrics with intervals, protocols, retrieval, calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_adapt.system.lazy import export_lazily

if TYPE_CHECKING:
    from clip_adapt.evaluation.metric import Metric
    from clip_adapt.evaluation.predictions import Predictions, Resampled

__all__ = ["Metric", "Predictions", "Resampled"]

__getattr__ = export_lazily(
    __name__, {"Metric": "metric", "Predictions": "predictions", "Resampled": "predictions"}
)
