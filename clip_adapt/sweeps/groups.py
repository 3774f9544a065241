"""How a sweep makes its runs: one, or several that are trained side by side (side_by_side.py)."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
from collections.abc import Iterator
from typing import Any

from clip_adapt.runs.run import ReadyRun, run, start_run
from clip_adapt.runs.shared import Shared
from clip_adapt.sweeps.grid import Cell
from clip_adapt.training import side_by_side
from clip_adapt.training.fitting import Trained

log = logging.getLogger(__name__)

Metrics = dict[str, Any]


def describe_family(cell: Cell) -> str:
    """Return what is the same for runs that may be trained side by side."""
    values = cell.config.resolved()
    common = {k: v for k, v in values.items() if k not in (*side_by_side.OWN, "output")}
    return json.dumps(common, default=str)


def make_runs(
    cell: Cell, others: Iterator[Cell], shared: Shared
) -> Iterator[tuple[Cell, Metrics | Exception]]:
    """Make a run, and as many others beside it as its training and the memory allow.

    Args:
        cell: the run.
        others: of its family; no more are taken than go side by side with it.
        shared: what earlier runs of this process have loaded.

    Yields:
        each run with its metrics, or with what made it fail; a failing run disturbs no other.
    """
    with contextlib.ExitStack() as stack:
        group = [_Member(cell, shared, stack)]
        beside = group[0].count_room() - 1
        group += [_Member(other, shared, stack) for other in itertools.islice(others, beside)]
        try:
            outcomes = _train(group)
        except Exception as error:  # of all at once: memory, a full disk; alone a run may do better
            log.warning("%d runs cannot be trained side by side: %r", len(group), error)
            for member in group:
                member.end(error)
            yield from ((member.cell, _run_alone(member.cell, shared)) for member in group)
            return
        for member, outcome in zip(group, outcomes, strict=True):
            yield member.cell, member.end(outcome)


class _Member:
    """A run of a group from its start, from where on its folder is held, to its end."""

    def __init__(self, cell: Cell, shared: Shared, stack: contextlib.ExitStack) -> None:
        self.cell = cell
        self.held = stack.enter_context(contextlib.ExitStack())
        self.start: ReadyRun | Exception
        try:
            self.start = self.held.enter_context(start_run(cell.config, shared))
        except Exception as error:
            self.start = error

    def count_room(self) -> int:
        """Return how many runs like this one go side by side."""
        if isinstance(self.start, Exception):
            return 1
        try:
            return side_by_side.count_room(self.start.training)
        except Exception:  # a method that cannot make a step says so when it is trained
            return 1

    def end(self, trained: Trained | Exception) -> Metrics | Exception:
        """Finish the run, or leave its folder as it was; let go of the folder."""
        try:
            with self.held:
                if isinstance(trained, Exception):
                    raise trained
                assert isinstance(self.start, ReadyRun), "what is trained was started"
                metrics = self.start.finish(trained).metrics
                assert metrics is not None, "a finished run has metrics"
                return metrics
        except Exception as error:
            return error


def _train(group: list[_Member]) -> list[Trained | Exception]:
    # In the order of the runs; what failed at its start has failed.
    trainings = [m.start.training for m in group if isinstance(m.start, ReadyRun)]
    trained = iter(side_by_side.train_together(trainings) if trainings else [])
    return [
        next(trained) if isinstance(member.start, ReadyRun) else member.start for member in group
    ]


def _run_alone(cell: Cell, shared: Shared) -> Metrics | Exception:
    try:
        metrics = run(cell.config, shared).metrics
    except Exception as error:
        return error
    assert metrics is not None, "a finished run has metrics"
    return metrics
