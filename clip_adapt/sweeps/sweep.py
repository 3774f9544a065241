"""A sweep: every combination of methods, shots, seeds and any other option.

A run is finished when its metrics.json is there and its configuration is the same; such a run is
kept. Started by ``accelerate launch``, every process takes runs that nobody else works on. Runs
that differ in their seed, learning rate or the like alone are trained side by side where they can.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_adapt.errors import InputError, explain_unknown
from clip_adapt.system import locks
from clip_adapt.system.files import write_text
from clip_adapt.system.launch import joining
from clip_adapt.system.run_files import CURVE, INDEX, RESULTS, SUMMARY, SWEEP_LOCK
from clip_adapt.system.text.showing import write_command

if TYPE_CHECKING:
    from clip_adapt.evaluation.quantities import Quantity
    from clip_adapt.runs.shared import Shared
    from clip_adapt.sweeps.grid import Cell
    from clip_adapt.sweeps.results import Result

log = logging.getLogger(__name__)

POLL = 1.0  # seconds between looks at runs that other processes work on
# Set by accelerate launch and torchrun. Here each process trains alone, so they must not be seen
# by what would otherwise join the processes to one training.
LAUNCH = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

Say = Callable[[str], None]


@dataclass
class Sweep:
    """A sweep's runs and how far it is.

    Attributes:
        folder: where everything goes.
        cells: its runs.
        metric: what the summary and the curve show.
        command: the command line that gives it.
        leads: True in the one process that writes the tables.
        processes: how many share the runs.
        failed: what failed in this process: a run's name and the reason.
        made: how many runs were made by this process.
        kept: how many were finished before.
        current: folders whose metrics.json is known to be of the configuration that is asked for.
    """

    folder: Path
    cells: list[Cell]
    metric: str
    command: str
    leads: bool = True
    processes: int = 1
    failed: dict[str, str] = field(default_factory=dict)
    made: int = 0
    kept: int = 0
    current: set[Path] = field(default_factory=set)

    def make_all(self, shared: Shared, say: Say) -> None:
        """Make every run that is not finished, then write the tables and the curve."""
        pending = {cell.folder: cell for cell in self.cells}
        while pending:
            before = len(pending)
            for cell in self.cells:
                if cell.folder in pending:  # it was not made beside an earlier one
                    self._make(cell, pending, shared, say)
            if len(pending) == before:
                if not self.leads:
                    return
                time.sleep(POLL)
        self.write_pictures()

    def list_results(self) -> list[Result]:
        """Return the runs that are finished as they are asked for, in the order of the command.

        A folder may hold an older run of another configuration that is yet to be made anew, or
        whose new run failed: its numbers are no part of this sweep.
        """
        from clip_adapt.runs.finished import read_metrics
        from clip_adapt.sweeps.results import Result

        return [
            Result(cell, read_metrics(cell.folder)) for cell in self.cells if self._is_current(cell)
        ]

    def write_tables(self) -> None:
        """Write results.csv and results.md of what is finished so far."""
        from clip_adapt.sweeps import results

        if self.leads:
            found = self.list_results()
            failed = list(self.failed.items())
            text = results.write_summary(found, self._find_metric(found), self.command, failed)
            write_text(self.folder / RESULTS, results.write_table(found))
            write_text(self.folder / SUMMARY, text)

    def write_pictures(self) -> None:
        """Write the curve and the index page."""
        from clip_adapt.runs import pages
        from clip_adapt.sweeps import curve, results

        found = self.list_results()
        series = results.group_points(found, self.metric)
        if not self.leads:
            return
        if not series:  # pictures of an earlier sweep would show what is no part of this one
            for name in (f"{CURVE}.png", f"{CURVE}.svg", INDEX):
                (self.folder / name).unlink(missing_ok=True)
            return
        before = results.list_zero_shot(found, self.metric)
        names = {result.cell.config.dataset.name for result in found}
        models = {result.cell.config.model.name for result in found}
        title = f"{', '.join(sorted(names))}, backbone {', '.join(sorted(models))}"
        lines = results.leave_out_zero_shot(found, series)
        curve.draw_curve(self.folder, lines, before, self._find_metric(found), title)
        pages.write_index(self.folder, [result.cell.folder for result in found], self.metric)

    def _find_metric(self, found: list[Result]) -> Quantity:
        # Every run of the sweep measures the same, so each describes the metric.
        from clip_adapt.evaluation.reading import find_quantity

        return find_quantity(self.metric, found[0].metrics if found else {})

    def _make(self, cell: Cell, pending: dict[Path, Cell], shared: Shared, say: Say) -> None:
        # Take a run off ``pending``, and those made beside it; not what another process works on.
        from clip_adapt.sweeps.groups import make_runs

        with contextlib.ExitStack() as claims:
            if not self._claim(cell, claims):
                return
            if not self._is_wanted(cell, say):
                self.kept += 1
                self.current.add(cell.folder)
                say(f"{self._name(cell)}: finished before")
                del pending[cell.folder]
                self.write_tables()
                return
            beside = self._claim_family(cell, pending, claims, say)
            for made, outcome in make_runs(cell, beside, shared):
                self._report(made, outcome, say)
                del pending[made.folder]
                self.write_tables()

    def _claim_family(
        self, cell: Cell, pending: dict[Path, Cell], claims: contextlib.ExitStack, say: Say
    ) -> Iterator[Cell]:
        # Claim, one by one, runs that may go beside this one; others are left to other processes.
        families = self._families
        alike = [c for c in pending.values() if families[c.folder] == families[cell.folder]]
        others = (c for c in alike if c is not cell)
        wanted = (c for c in others if self._claim(c, claims) and self._is_wanted(c, say))
        return itertools.islice(wanted, math.ceil(len(alike) / self.processes) - 1)

    @functools.cached_property
    def _families(self) -> dict[Path, str]:
        from clip_adapt.sweeps.groups import describe_family

        return {cell.folder: describe_family(cell) for cell in self.cells}

    def _claim(self, cell: Cell, claims: contextlib.ExitStack) -> bool:
        name = cell.folder.name
        claim = locks.hold_lock(self.folder / ".claims" / f"{name}.lock", f"the run {name}")
        with contextlib.suppress(locks.BusyError):
            claims.enter_context(claim)
            return True
        return False

    def _is_wanted(self, cell: Cell, say: Say) -> bool:
        changes = _find_changes(cell)
        if changes:
            say(f"{self._name(cell)}: finished before with another configuration, so it runs anew:")
            say("\n".join(f"    {line}" for line in changes))
        return changes != []

    def _is_current(self, cell: Cell) -> bool:
        if cell.folder.name in self.failed:
            return False
        if cell.folder not in self.current and _find_changes(cell) == []:
            self.current.add(cell.folder)  # by another process
        return cell.folder in self.current

    def _report(self, cell: Cell, outcome: dict[str, Any] | Exception, say: Say) -> None:
        name = self._name(cell)
        if isinstance(outcome, Exception):  # a failing run must not stop the others
            refused = isinstance(outcome, InputError)
            lines = str(outcome).splitlines() or [repr(outcome)]
            reason = lines[0] if refused else f"{type(outcome).__name__}: {lines[0]}"
            self.failed[cell.folder.name] = reason
            trace = "".join(traceback.format_exception(outcome))
            say(f"{name}: FAILED: {outcome if refused else trace}")
            return
        self.made += 1
        self.current.add(cell.folder)
        runs = outcome.get("side_by_side", 1)
        beside = f" (its share of {runs} trained side by side)" if runs > 1 else ""
        took = f"{outcome['seconds']['total']:.1f} s{beside}"
        say(f"{name}: {_describe_result(outcome, self.metric)}, {took}")

    def _name(self, cell: Cell) -> str:
        number = list(self._families).index(cell.folder) + 1
        return f"[{number}/{len(self.cells)}] {cell.folder.name}"


def _find_changes(cell: Cell) -> list[str] | None:
    # None: not finished. Otherwise what is different from what is asked for now.
    from clip_adapt.runs.finished import find_differences, is_finished

    return find_differences(cell.config, cell.folder) if is_finished(cell.folder) else None


def _describe_result(metrics: Mapping[str, Any], name: str) -> str:
    from clip_adapt.evaluation.reading import find_quantity

    quantity = find_quantity(name, metrics)
    found = [(metrics[kind].get(name) or {}).get("value") for kind in ("test", "zero_shot")]
    ours, before = map(quantity.write_value, found)
    return f"{quantity.spoken} {ours} (zero-shot {before})"


def run_sweep(
    given: Mapping[str, Any],
    *,
    output: str | None = None,
    metric: str | None = None,
    say: Say | None = None,
) -> Sweep:
    """Run a sweep.

    Args:
        given: options of a run; a list is varied.
        output: the sweep's folder; None is ``runs/<dataset>/sweep``.
        metric: what the summary and the curve show; None is what the objective shows.
        say: takes lines about the progress; None is silent.

    Returns:
        the sweep, with ``failed``, ``made`` and ``kept``.

    Raises:
        InputError: when a run cannot be, or another sweep works in the folder.
    """
    joining.end_with_launcher()
    rank, processes = leave_group()
    from clip_adapt.runs.shared import Shared
    from clip_adapt.sweeps import grid

    say = say or (lambda line: None)
    folder, cells = grid.expand(given, output)
    shown = metric or cells[0].config.objective.headline
    _require_metric(shown, cells)
    words = [f"{key}={value}" for key, value in given.items()]
    words += [f"output={output}"] * (output is not None)
    words += [f"metric={metric}"] * (metric is not None)
    command = write_command(["python", "-m", "clip_adapt.sweep", *words])
    sweep = Sweep(folder, cells, shown, command, leads=rank == 0, processes=processes)
    lock = locks.hold_lock(folder / SWEEP_LOCK, f"the folder {folder}")
    with lock if sweep.leads else contextlib.nullcontext():
        say(f"{len(cells)} runs in {folder}")
        with Shared(keep_features=True) as shared:
            sweep.make_all(shared, say)
        if sweep.leads:
            with contextlib.suppress(OSError):
                (folder / ".claims").rmdir()
    return sweep


def leave_group() -> tuple[int, int]:
    """Leave the launch's group of processes; return this one's number in it and its size."""
    found = {name: os.environ.pop(name) for name in LAUNCH if name in os.environ}
    if "LOCAL_RANK" in found:
        import torch

        if torch.cuda.is_available():
            torch.cuda.set_device(int(found["LOCAL_RANK"]) % torch.cuda.device_count())
    rank, size = found.get("RANK", ""), found.get("WORLD_SIZE", "")
    return joining.parse_number("RANK", rank, 0), joining.parse_number("WORLD_SIZE", size, 1)


def _require_metric(name: str, cells: list[Cell]) -> None:
    for cell in cells:
        measured = cell.config.objective.list_metrics(cell.config.options)
        known = [quantity.name for quantity in measured]
        if name not in known:
            raise InputError(explain_unknown("metric", name, known))
