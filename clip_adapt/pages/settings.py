"""Runs that differ in their seed alone, as one line of the index: their mean and its interval."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import t as student

from clip_adapt.config.run_options import NEUTRAL
from clip_adapt.evaluation.quantities import Estimate, Quantity
from clip_adapt.pages.facts import Facts
from clip_adapt.system.text.showing import show_line

NAMED = ("method", "dataset", "model", "shots")  # they have columns of their own


@dataclass(frozen=True)
class Setting:
    """Runs of one configuration.

    Attributes:
        runs: one for every seed.
        label: the method, and the options in which it differs from others of that method.
    """

    runs: list[Facts]
    label: str

    @property
    def shots(self) -> int | None:
        """The shots of the runs; None where that is not a number."""
        shots = self.runs[0].config.get("shots")
        return shots if isinstance(shots, int) else None

    def estimate(self, quantity: Quantity) -> Estimate:
        """Return the mean over the runs with its 95 % interval.

        Over several seeds it is Student's, and tells how another draw may fare; of a single run, or
        where the seed changes nothing, it is that of the run, over test images.
        """
        found = [run.metrics["test"].get(quantity.name) or {} for run in self.runs]
        values = [one["value"] for one in found if one.get("value") is not None]
        if not values:
            return {"value": None, "low": None, "high": None}
        mean = statistics.fmean(values)
        if len(set(values)) == 1:
            return {**found[0], "value": mean}
        error = statistics.stdev(values) / len(values) ** 0.5
        half = float(student.ppf(0.975, len(values) - 1)) * error
        low, high = max(quantity.low, mean - half), min(quantity.high, mean + half)
        return {"value": mean, "low": low, "high": high}


def list_settings(runs: Iterable[Facts]) -> list[Setting]:
    """Return the settings of runs, in the order in which each appears first."""
    found: dict[str, list[Facts]] = {}
    for run in runs:
        options = {k: v for k, v in run.config.items() if k not in {*NEUTRAL, "seed"}}
        found.setdefault(json.dumps(options, sort_keys=True, default=str), []).append(run)
    flat = {key: _flatten(group[0].config) for key, group in found.items()}
    return [
        Setting(group, _write_label(group[0], flat[key], flat.values()))
        for key, group in found.items()
    ]


def sort_settings(settings: Sequence[Setting], quantity: Quantity) -> list[Setting]:
    """Return the settings of each data set together, the best of them first."""
    sign = 1 if quantity.better == "lower" else -1

    def key(setting: Setting) -> tuple[str, bool, float]:
        value = setting.estimate(quantity)["value"]
        return setting.runs[0].dataset, value is None, sign * (value or 0.0)

    return sorted(settings, key=key)


def _write_label(run: Facts, own: Mapping[str, Any], every: Iterable[Mapping[str, Any]]) -> str:
    # Among the settings of the same method: what has several values.
    same = [other for other in every if other.get("method.name") == own.get("method.name")]
    varied = [k for k in own if any(other.get(k) != own[k] for other in same)]
    others = [
        k for k in varied if k not in NEUTRAL and k != "seed" and k.split(".")[0] not in NAMED
    ]
    others += [k for k in varied if k.startswith("method.")]
    words = [f"{k.removeprefix('method.')}={own[k]}" for k in others]
    return show_line(" ".join([run.title, *words]))


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
