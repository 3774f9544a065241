"""Forked workers: a call that hangs, crashes or eats memory ends its worker and nothing else.

They are forked from a process that has imported torch and made the examples, so a worker starts in
milliseconds.
"""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tools.torture.judging import Outcome, judge
from tools.torture.kind import Kind

MEMORY = 4 << 30  # bytes more than a worker starts with


@dataclass
class Plan:
    """What is to be done: ``count`` inputs of a kind, by a seed; the faulty go to ``keep``."""

    kind: Kind
    examples: Any
    count: int
    seed: int = 1
    jobs: int = 1
    limit: float = 30.0
    keep: Path | None = None


@dataclass
class _Worker:
    """A child: what it still has to do, the pipe it reports through, what it is at since when."""

    todo: list[int]
    pid: int = 0
    reports: int = -1
    read: bytes = b""
    since: float = field(default_factory=time.monotonic)


def run(plan: Plan) -> Iterator[tuple[int, Outcome]]:
    """Yield the outcome of every input, as they end."""
    workers = [_Worker(list(range(j, plan.count, plan.jobs))) for j in range(plan.jobs)]
    workers = [worker for worker in workers if worker.todo]
    with tempfile.TemporaryDirectory(prefix="torture-") as scratch:
        for worker in workers:
            _start(worker, plan, Path(scratch))
        while workers:
            files = {w.reports: w for w in workers}
            ready, _, _ = select.select(list(files), [], [], 1.0)
            for worker in list(workers):
                if worker.reports in ready:
                    yield from _read(worker, plan, Path(scratch))
                elif time.monotonic() - worker.since > plan.limit:
                    os.kill(worker.pid, signal.SIGKILL)
                    yield from _bury(worker, plan, Path(scratch), f"hang of over {plan.limit:g} s")
                if not worker.todo:
                    if worker.pid:
                        _reap(worker)
                    workers.remove(worker)


def _start(worker: _Worker, plan: Plan, scratch: Path) -> None:
    receive, send = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    worker.pid = os.fork()
    if worker.pid == 0:
        os.close(receive)
        _work(worker.todo, plan, scratch, send)
    os.close(send)
    worker.reports, worker.read, worker.since = receive, b"", time.monotonic()


def _read(worker: _Worker, plan: Plan, scratch: Path) -> Iterator[tuple[int, Outcome]]:
    got = os.read(worker.reports, 1 << 16)
    *lines, worker.read = (worker.read + got).split(b"\n")
    for line in lines:
        worker.since = time.monotonic()
        yield worker.todo.pop(0), Outcome(**json.loads(line))
    if not got and worker.todo:
        yield from _bury(worker, plan, scratch, "crash")


def _bury(worker: _Worker, plan: Plan, scratch: Path, fault: str) -> Iterator[tuple[int, Outcome]]:
    status = _reap(worker)
    _keep(plan, scratch / str(worker.todo[0]), worker.todo[0], fault)
    yield worker.todo.pop(0), Outcome(1, fault, f"wait status {status}")
    if worker.todo:
        _start(worker, plan, scratch)


def _reap(worker: _Worker) -> int:
    os.close(worker.reports)
    pid, worker.pid = worker.pid, 0
    return os.waitpid(pid, 0)[1]


def _work(todo: list[int], plan: Plan, scratch: Path, send: int) -> None:
    # The child: never returns, so that nothing of the parent's is done twice.
    code = 1
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        for index in list(todo):
            outcome = _try_one(plan, scratch / str(index), index)
            os.write(send, (json.dumps(asdict(outcome)) + "\n").encode())
        code = 0
    finally:
        os._exit(code)


def _try_one(plan: Plan, place: Path, index: int) -> Outcome:
    place.mkdir()
    os.environ["CLIP_ADAPT_CACHE"] = str(place / "cache")
    random = Random(f"{plan.kind.name} {plan.seed} {index}")
    outcome = judge(plan.kind.attack(random, plan.examples, place), place)
    if outcome.fault:
        _keep(plan, place, index, f"{outcome.fault}\n{outcome.detail}")
    shutil.rmtree(place, ignore_errors=True)
    return outcome


def _keep(plan: Plan, place: Path, index: int, why: str) -> None:
    if plan.keep is not None and place.is_dir():
        kept = plan.keep / f"{plan.kind.name}-{plan.seed}-{index}"
        shutil.copytree(place, kept, dirs_exist_ok=True, symlinks=True)
        (kept / "WHY.txt").write_text(why, encoding="utf-8", errors="replace")
