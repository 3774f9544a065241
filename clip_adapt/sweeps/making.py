"""How a sweep makes its runs: one, or several that are trained side by side (together.py)."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
from collections.abc import Iterator
from typing import Any

from clip_adapt.runs.run import Started, run, started
from clip_adapt.runs.shared import Shared
from clip_adapt.sweeps.grid import Cell
from clip_adapt.training import side_by_side
from clip_adapt.training.fitting import Trained

log = logging.getLogger(__name__)

Metrics = dict[str, Any]


def kin(cell: Cell) -> str:
    """Return what is the same for runs that may be trained side by side."""
    values = cell.config.resolved()
    common = {k: v for k, v in values.items() if k not in (*side_by_side.OWN, "output")}
    return json.dumps(common, default=str)


def make(
    cell: Cell, others: Iterator[Cell], shared: Shared
) -> Iterator[tuple[Cell, Metrics | Exception]]:
    """Make a run, and as many others beside it as its training and the memory allow.

    Args:
        cell: the run.
        others: of its ``kin``; no more are taken than go side by side with it.
        shared: what earlier runs of this process have loaded.

    Yields:
        each run with its metrics, or with what made it fail; a failing run disturbs no other.
    """
    if cell.config.options.objective == "contrastive":
        yield cell, _alone(cell, shared)
        return
    with contextlib.ExitStack() as stack:
        runs = [_Making(cell, shared, stack)]
        beside = runs[0].room() - 1
        runs += [_Making(other, shared, stack) for other in itertools.islice(others, beside)]
        try:
            outcomes = _train(runs)
        except Exception as error:  # of all at once: memory, a full disk; alone a run may do better
            log.warning("%d runs cannot be trained side by side: %r", len(runs), error)
            for making in runs:
                making.end(error)
            yield from ((making.cell, _alone(making.cell, shared)) for making in runs)
            return
        for making, outcome in zip(runs, outcomes, strict=True):
            yield making.cell, making.end(outcome)


class _Making:
    """A run from its start, from where on its folder is held, to its end."""

    def __init__(self, cell: Cell, shared: Shared, stack: contextlib.ExitStack) -> None:
        self.cell = cell
        self.held = stack.enter_context(contextlib.ExitStack())
        self.at: Started | Exception
        try:
            self.at = self.held.enter_context(started(cell.config, shared))
        except Exception as error:
            self.at = error

    def room(self) -> int:
        """Return how many runs like this one go side by side."""
        try:
            return side_by_side.most(self.at.training) if isinstance(self.at, Started) else 1
        except Exception:  # a method that cannot make a step says so when it is trained
            return 1

    def end(self, trained: Trained | Exception) -> Metrics | Exception:
        """Finish the run, or leave its folder as it was; let go of the folder."""
        try:
            with self.held:
                if isinstance(trained, Exception):
                    raise trained
                assert isinstance(self.at, Started), "what is trained was started"
                metrics = self.at.finish(trained).metrics
                assert metrics is not None, "a finished run has metrics"
                return metrics
        except Exception as error:
            return error


def _train(runs: list[_Making]) -> list[Trained | Exception]:
    # In the order of the runs; what failed at its start has failed.
    trainings = [making.at.training for making in runs if isinstance(making.at, Started)]
    trained = iter(side_by_side.train_together(trainings) if trainings else [])
    return [next(trained) if isinstance(making.at, Started) else making.at for making in runs]


def _alone(cell: Cell, shared: Shared) -> Metrics | Exception:
    try:
        metrics = run(cell.config, shared).metrics
    except Exception as error:
        return error
    assert metrics is not None, "a finished run has metrics"
    return metrics
