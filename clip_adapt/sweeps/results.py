"""What a sweep found: one row per run, and mean and standard deviation over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clip_adapt.evaluation.quantities import Quantity
from clip_adapt.sweeps.grid import Cell
from clip_adapt.system.text import csv_text
from clip_adapt.system.text.showing import write_markdown

SEED, SHOTS = "seed", "shots"


@dataclass(frozen=True)
class Result:
    """A finished run of a sweep with its metrics.json."""

    cell: Cell
    metrics: dict[str, Any]

    def value(self, metric: str, kind: str = "test") -> float | None:
        """Return a metric's value; None when it is not defined."""
        return (self.metrics[kind].get(metric) or {}).get("value")

    @property
    def shots(self) -> int:
        """The shots of the run."""
        return self.cell.config.options.shots


@dataclass(frozen=True)
class Point:
    """A metric over the seeds of one setting.

    Attributes:
        shots: of the setting.
        mean: over the seeds.
        deviation: that of a sample (n - 1 in the denominator); 0 for a single seed.
        seeds: how many there are.
    """

    shots: int
    mean: float
    deviation: float
    seeds: int


def group_points(results: Sequence[Result], metric: str) -> dict[str, list[Point]]:
    """Return for every setting but shots and seed its points, in order of the shots."""
    found: dict[str, dict[int, list[float]]] = {}
    varied = _list_varied(results)
    for result in results:
        value = result.value(metric)
        if value is not None:
            of_shots = found.setdefault(write_label(result, varied), {})
            of_shots.setdefault(result.shots, []).append(value)
    return {
        name: [_make_point(shots, values) for shots, values in sorted(of_shots.items())]
        for name, of_shots in found.items()
    }


def list_zero_shot(results: Sequence[Result], metric: str) -> list[float]:
    """Return the values of zero-shot CLIP that stand beside the runs, each once.

    There are several when the sweep varies the data set, the backbone or the prompts.
    """
    values = [result.value(metric, "zero_shot") for result in results]
    return sorted({value for value in values if value is not None})


def leave_out_zero_shot(
    results: Sequence[Result], found: dict[str, list[Point]]
) -> dict[str, list[Point]]:
    """Return the series without those whose every run is zero-shot CLIP to the last digit."""
    varied = _list_varied(results)
    other = {write_label(r, varied) for r in results if r.metrics["test"] != r.metrics["zero_shot"]}
    return {name: points for name, points in found.items() if name in other}


def write_label(result: Result, varied: Sequence[str]) -> str:
    """Return what a run is called: its method, and what else is varied (``coop n_ctx=4``)."""
    values = result.cell.values
    others = [f"{key.removeprefix('method.')}={values[key]}" for key in varied if key in values]
    return " ".join([result.cell.config.method.name, *others])


def write_table(results: Sequence[Result]) -> str:
    """Return a CSV table, one row per run: what it is, every metric with its interval, its cost."""
    varied = _list_varied(results)
    names = list(dict.fromkeys(name for r in results for name in r.metrics["test"]))
    measured = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    head = ["method", "dataset", "model", SHOTS, SEED, *varied, *measured]
    head += [f"zero_shot_{name}" for name in names[:1]]
    head += ["trainable_parameters", "seconds_fit", "seconds_total", "folder"]
    return csv_text.write_table([head, *(_make_row(r, varied, names) for r in results)])


def write_summary(
    results: Sequence[Result], metric: Quantity, command: str, failed: Sequence[tuple[str, str]]
) -> str:
    """Return a Markdown page: mean and standard deviation over the seeds, and what failed."""
    lines = [f"# {write_markdown(metric.spoken)} on the test split", "", f"    {command}", ""]
    found = group_points(results, metric.name)
    shots = sorted({point.shots for points in found.values() for point in points})
    if found:
        lines += ["| | " + " | ".join(_write_shots(s) for s in shots) + " |"]
        lines += ["|---" + "|--:" * len(shots) + "|"]
        for name, points in found.items():
            by_shots = {point.shots: point for point in points}
            cells = [_write_cell(by_shots.get(s), metric) for s in shots]
            lines.append(f"| {write_markdown(name)} | " + " | ".join(cells) + " |")
        before = ", ".join(map(metric.write_value, list_zero_shot(results, metric.name)))
        counts = sorted({p.seeds for points in found.values() for p in points})
        lines += ["", f"Zero-shot: {before}. {_count_seeds(counts)}"]
    if failed:
        said = [f"- {write_markdown(name)}: {write_markdown(reason)}" for name, reason in failed]
        lines += ["", "## Failed", "", *said]
    return "\n".join(lines) + "\n"


def _list_varied(results: Sequence[Result]) -> list[str]:
    keys = dict.fromkeys(key for result in results for key in result.cell.values)
    return [key for key in keys if key not in ("method", SHOTS, SEED)]


def _make_point(shots: int, values: list[float]) -> Point:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return Point(shots, statistics.fmean(values), deviation, len(values))


def _make_row(result: Result, varied: list[str], names: list[str]) -> list[Any]:
    c, m = result.cell.config, result.metrics
    row: list[Any] = [c.method.name, c.dataset.name, c.model.name, c.options.shots, c.options.seed]
    row += [result.cell.values.get(key, "") for key in varied]
    for name in names:
        entry = m["test"].get(name) or {}
        row += [_write_exactly(entry.get(part)) for part in ("value", "low", "high")]
    row += [_write_exactly(result.value(name, "zero_shot")) for name in names[:1]]
    seconds = m["seconds"]
    row += [m["trainable_parameters"], seconds["fit"], seconds["total"]]
    return [*row, result.cell.folder.as_posix()]


def _write_exactly(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _write_shots(shots: int) -> str:
    return f"{shots} shot{'s' * (shots > 1)}"


def _write_cell(point: Point | None, metric: Quantity) -> str:
    if point is None:
        return ""
    if point.seeds == 1:
        return metric.write_value(point.mean)
    return metric.write_spread(point.mean, point.deviation)


def _count_seeds(counts: list[int]) -> str:
    if counts == [1]:
        return "One seed each."
    many = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"Mean ± standard deviation over {many} seeds."
