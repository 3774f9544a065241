"""python -m clip_adapt.sweep: every combination of methods, shots, seeds and any other option.

A run is finished when its metrics.json is there and its configuration is the same; such a run is
kept. Started by ``accelerate launch``, every process takes runs that nobody else works on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_adapt import cli, options
from clip_adapt.errors import InputError
from clip_adapt.files import write_text

if TYPE_CHECKING:
    from clip_adapt.grid import Cell
    from clip_adapt.results import Result
    from clip_adapt.shared import Shared

log = logging.getLogger(__name__)

POLL = 1.0  # seconds between looks at runs that other processes work on
METRICS = "metrics.json"
# Set by accelerate launch and torchrun. Here each process trains alone, so they must not be seen
# by what would otherwise join the processes to one training.
LAUNCH = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass
class Sweep:
    """A sweep's runs and how far it is.

    Attributes:
        folder: where everything goes.
        cells: its runs.
        metric: what the summary and the curve show.
        command: the command line that gives it.
        leads: True in the one process that writes the tables.
        failed: what failed in this process: a run's name and the reason.
        done: how many runs were made by this process, and how many were there already.
    """

    folder: Path
    cells: list[Cell]
    metric: str
    command: str
    leads: bool = True
    failed: dict[str, str] = field(default_factory=dict)
    made: int = 0
    kept: int = 0

    def go(self, shared: Shared, say: Callable[[str], None]) -> None:
        """Make every run that is not finished, then write the tables and the curve."""
        from clip_adapt import locks

        pending = dict(enumerate(self.cells, start=1))
        while pending:
            waiting = dict(pending)
            for number, cell in waiting.items():
                claim = self.folder / ".claims" / f"{cell.folder.name}.lock"
                try:
                    with locks.held(claim, f"the run {cell.folder.name}"):
                        self._one(number, cell, shared, say)
                except locks.BusyError:
                    continue
                del pending[number]
                self.tables()
            if len(waiting) == len(pending):
                if not self.leads:
                    return
                time.sleep(POLL)
        self.pictures()

    def results(self) -> list[Result]:
        """Return the runs that are finished, in the order of the command line."""
        from clip_adapt.results import Result

        return [
            Result(cell, json.loads((cell.folder / METRICS).read_text(encoding="utf-8")))
            for cell in self.cells
            if (cell.folder / METRICS).is_file() and cell.folder.name not in self.failed
        ]

    def tables(self) -> None:
        """Write results.csv and results.md of what is finished so far."""
        from clip_adapt import results

        if self.leads:
            found = self.results()
            text = results.summary(found, self.metric, self.command, list(self.failed.items()))
            write_text(self.folder / "results.csv", results.table(found))
            write_text(self.folder / "results.md", text)

    def pictures(self) -> None:
        """Write the curve and the index page."""
        from clip_adapt import curve, report, results

        found = self.results()
        series = results.series(found, self.metric)
        if not self.leads or not series:
            return
        before = results.zero_shot(found, self.metric)
        names = {result.cell.config.dataset.name for result in found}
        models = {result.cell.config.model.name for result in found}
        title = f"{', '.join(sorted(names))}, backbone {', '.join(sorted(models))}"
        curve.draw(self.folder, results.not_zero_shot(found, series), before, self.metric, title)
        report.write_index(self.folder)

    def _one(self, number: int, cell: Cell, shared: Shared, say: Callable[[str], None]) -> None:
        where = f"[{number}/{len(self.cells)}] {cell.folder.name}"
        changed = _state(cell)
        if changed == []:
            self.kept += 1
            say(f"{where}: finished before")
            return
        if changed:
            say(f"{where}: finished before with another configuration, so it runs anew:")
            say("\n".join(f"    {line}" for line in changed))
        from clip_adapt.run import run

        begin = time.perf_counter()
        try:
            metrics = run(cell.config, shared).metrics
        except Exception as error:  # a failing run must not stop the others
            refused = isinstance(error, InputError)
            lines = str(error).splitlines() or [repr(error)]
            reason = lines[0] if refused else f"{type(error).__name__}: {lines[0]}"
            self.failed[cell.folder.name] = reason
            say(f"{where}: FAILED: {error if refused else traceback.format_exc()}")
            return
        assert metrics is not None, "a finished run has metrics"
        self.made += 1
        say(f"{where}: {_told(metrics, self.metric)}, {time.perf_counter() - begin:.1f} s")


def _state(cell: Cell) -> list[str] | None:
    # None: not finished. Otherwise what is different from what is asked for now.
    from clip_adapt.grid import differences

    if not (cell.folder / METRICS).is_file() or not (cell.folder / "config.yaml").is_file():
        return None
    return differences(cell.config, cell.folder)


def _told(metrics: Mapping[str, Any], name: str) -> str:
    from clip_adapt.pages.numbers import of_metric, spoken

    ours, before = (metrics[kind][name]["value"] for kind in ("test", "zero_shot"))
    return f"{spoken(name)} {of_metric(name, ours)} (zero-shot {of_metric(name, before)})"


def run(
    given: Mapping[str, Any],
    *,
    output: str | None = None,
    metric: str = "accuracy",
    say: Callable[[str], None] | None = None,
) -> Sweep:
    """Run a sweep.

    Args:
        given: options of a run; a list is varied.
        output: the sweep's folder; None is ``runs/<dataset>/sweep``.
        metric: what the summary and the curve show.
        say: takes lines about the progress; None is silent.

    Returns:
        the sweep, with ``failed``, ``made`` and ``kept``.

    Raises:
        InputError: when a run cannot be, or another sweep works in the folder.
    """
    rank = _alone()
    from clip_adapt import grid, locks, metrics
    from clip_adapt.shared import Shared

    say = say or (lambda line: None)
    if metric not in metrics.METRICS:
        from clip_adapt.errors import unknown

        raise InputError(unknown("metric", metric, metrics.METRICS))
    folder, cells = grid.expand(given, output)
    words = [f"{key}={value}" for key, value in given.items()]
    words += [f"output={output}"] * (output is not None)
    command = shlex.join(["python", "-m", "clip_adapt.sweep", *words])
    this = Sweep(folder, cells, metric, command, leads=rank == 0)
    lock = locks.held(folder / ".sweep.lock", f"the folder {folder}")
    with lock if this.leads else contextlib.nullcontext():
        say(f"{len(cells)} runs in {folder}")
        with Shared(keep_features=True) as shared:
            this.go(shared, say)
        if this.leads:
            with contextlib.suppress(OSError):
                (folder / ".claims").rmdir()
    return this


def _alone() -> int:
    """Leave the launch's group of processes; return this one's number in it."""
    found = {name: os.environ.pop(name) for name in LAUNCH if name in os.environ}
    if "LOCAL_RANK" in found:
        import torch

        if torch.cuda.is_available():
            torch.cuda.set_device(int(found["LOCAL_RANK"]) % torch.cuda.device_count())
    return int(found.get("RANK", 0))


def main(argv: list[str]) -> int:
    """Run the command line; see ``--help``."""
    positional, given = cli.split(argv)
    if positional:
        lines = [f"expected key=value, got {word!r}{cli.hint(word)}" for word in positional]
        raise InputError("\n".join(lines))
    schema = options.of_signature(run)
    del schema["say"]
    own = {key: given.pop(key) for key in list(given) if key in schema}
    checked, problems = options.validate(own, schema)
    if problems:
        raise InputError("\n".join(problems))
    begin = time.perf_counter()
    done = run(given, **checked, say=lambda line: print(line, flush=True))
    if not done.leads:
        return 0  # a non-zero code would make the launcher end the other processes
    cli.show_sweep(done, time.perf_counter() - begin)
    return cli.FAULT if done.failed else 0


if __name__ == "__main__":
    sys.exit(cli.run("sweep", sys.argv[1:]))
