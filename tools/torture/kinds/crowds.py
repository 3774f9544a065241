"""Runs that are killed at random moments, and several runs at once on one cache and one output."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from random import Random

from clip_adapt import cli
from tools.torture.judging import Call, Wrong
from tools.torture.kind import Kind
from tools.torture.runs import Plain, finish, prepare_run, refuse_orphans, require_same, start

STOPS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def prepare(folder: Path) -> Plain:
    """Train once, as nothing disturbs it."""
    return prepare_run(folder, "method=linear_probe")


def attack_by_killing(random: Random, plain: Plain, place: Path) -> Call:
    """Kill one to three runs, each at a random moment; the one that follows must be whole."""
    moments = [random.random() * plain.seconds * 1.2 for _ in range(random.choice((1, 1, 2, 3)))]
    stop = random.choice(STOPS)

    def call() -> int:
        for moment in moments:
            pid = start(plain.words, place / "said.txt")
            time.sleep(moment)
            os.kill(pid, stop)
            finish(pid)
        code = cli.run(plain.words[0], plain.words[1:])
        if code == 0:
            require_same(plain, place / "out")
            refuse_orphans(place)
        return code

    return call


def attack_by_crowding(random: Random, plain: Plain, place: Path) -> Call:
    """Start two or four runs at once: on one cache, and on one output or each on its own."""
    count, shared = random.choice((2, 4)), random.random() < 0.5
    waits = [random.random() * plain.seconds * random.choice((0, 0.5)) for _ in range(count)]

    def call() -> int:
        pids = []
        for index, wait in enumerate(waits):
            time.sleep(wait / count)
            output = [] if shared else [f"output=out{index}"]
            words = [w for w in plain.words if not (output and w.startswith("output="))]
            pids.append(start([*words, *output], place / f"said{index}.txt"))
        codes = [finish(pid) for pid in pids]
        _check(codes, shared, [place / f"said{i}.txt" for i in range(count)])
        for index in range(1 if shared else count):
            require_same(plain, place / ("out" if shared else f"out{index}"))
        refuse_orphans(place)
        return 0

    return call


def _check(codes: list[int], shared: bool, said: list[Path]) -> None:
    allowed = (0, cli.REFUSED) if shared else (0,)
    if not set(codes) <= set(allowed) or 0 not in codes:
        raise Wrong(f"codes {sorted(set(codes))}")
    for code, file in zip(codes, said, strict=True):
        if code and file.read_text(encoding="utf-8").count("error: ") != 1:
            raise Wrong("a refusal without its message")


KILLS = Kind("kills", prepare, attack_by_killing)
PROCESSES = Kind("processes", prepare, attack_by_crowding)
