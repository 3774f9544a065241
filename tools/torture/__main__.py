"""python -m tools.torture [KIND[=COUNT] ...] [--count N] [--seed S] [--jobs J] [--keep DIR]."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # threads of a pool are not there in a forked process

from tools.torture import examples, workers
from tools.torture.judging import Outcome
from tools.torture.kinds import KINDS


def main(argv: list[str]) -> int:
    """Torture the kinds that are named; print a figure for each. 1 when something went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tools.torture", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; all")
    parser.add_argument("--count", type=int, default=1000, help="mutations of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="workers side by side")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds that one may take")
    parser.add_argument("--keep", type=Path, help="folder in which faulty inputs are kept")
    args = parser.parse_args(argv)
    counts = read_counts(args.kinds or list(KINDS), args.count)
    unknown = [name for name in counts if name not in KINDS]
    if unknown:
        parser.error(f"unknown kind {unknown[0]!r}: there is {', '.join(KINDS)}")
    examples.hurry()
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        examples.warm_up(Path(folder))
    faults = [torture(name, count, args) for name, count in counts.items()]
    return int(any(faults))


def read_counts(words: list[str], usual: int) -> dict[str, int]:
    """Return how many mutations of each kind are asked for: ``images`` or ``shards=3``."""
    parts = [word.partition("=") for word in words]
    return {name: int(count) if equals else usual for name, equals, count in parts}


def torture(name: str, count: int, args: argparse.Namespace) -> int:
    """Torture one kind; return how many of its inputs did not end as they must."""
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        made = KINDS[name].prepare(Path(folder))
        plan = workers.Plan(KINDS[name], made, count, args.seed, args.jobs, args.limit)
        plan.keep = args.keep and args.keep.absolute()
        outcomes = dict(workers.run(plan))
    print(write_figure(name, outcomes), flush=True)
    groups: dict[str, list[int]] = {}
    for index, outcome in sorted(outcomes.items()):
        if outcome.fault:
            groups.setdefault(outcome.fault, []).append(index)
    for fault, where in sorted(groups.items(), key=lambda pair: -len(pair[1])):
        last = outcomes[where[0]].detail.strip().splitlines()[-1:]
        first = f"{name} {where[0]} of seed {args.seed}"
        print(f"  {len(where)} x {fault}, the first is {first}: {''.join(last)[:150]}")
    return sum(map(len, groups.values()))


def write_figure(name: str, outcomes: dict[int, Outcome]) -> str:
    """Return the one line that says how a kind fared."""
    good = Counter(o.code for o in outcomes.values() if not o.fault)
    bad = [o.fault for o in outcomes.values() if o.fault]
    hangs = sum(fault.startswith("hang") for fault in bad)
    crashes = sum(fault == "crash" for fault in bad)
    traced = sum(" at " in fault for fault in bad)
    return (
        f"{name}: {len(outcomes)} mutations, {good.total()} ended with code 0 ({good[0]}) or 2 and "
        f"one message ({good[2]}); {traced} tracebacks, {hangs} hangs, {crashes} crashes, "
        f"{len(bad) - traced - hangs - crashes} other faults"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
