"""What the benchmarks share: measuring two ways in turn, the table, and the JSON."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from clip_adapt.system.files import write_text
from clip_adapt.system.machine import measure_peak_memory as machine_peak
from clip_adapt.system.machine import measure_total_memory

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "torch",
    "torchvision",
    "open_clip_torch",
    "peft",
    "accelerate",
    "scikit-learn",
    "torchcodec",
)


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        case: what was measured.
        unit: ``s``, ``MB``, ``images/s``, or ``ms``.
        plain: the published algorithm, or None when it was not run.
        ours: or None when there is only the plain way.
        note: what a reader must know of this row.
    """

    case: str
    unit: str
    plain: float | None
    ours: float | None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times better ours is."""
        if not self.plain or not self.ours:
            return None
        return self.ours / self.plain if self.unit == "images/s" else self.plain / self.ours


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return the options that every benchmark has; ``doc`` is its description."""
    made = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    made.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", metavar="DIR")
    made.add_argument("--threads", type=int, default=os.cpu_count(), help="cores that torch uses")
    made.add_argument("--device", default="cpu", help="cpu or cuda")
    made.add_argument("--architecture", default="ViT-B-16", help="open_clip's name of the towers")
    made.add_argument("--tiny", action="store_true", help="sizes that only show that it works")
    return made


def run(
    name: str, parser: argparse.ArgumentParser, measure: Callable[[Any], list[Row]]
) -> list[Row]:
    """Measure, print the table and write the JSON of one benchmark."""
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    before, begin = load_average(), time.perf_counter()
    rows = measure(args)
    facts = {
        "benchmark": name,
        "command": " ".join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine(args),
        "versions": {package: version(package) for package in PACKAGES},
        "load_average": {"before": before, "after": load_average()},
        "seconds": round(time.perf_counter() - begin, 1),
        "rows": [{**asdict(row), "ratio": row.ratio} for row in rows],
    }
    Console().print(table(name, rows))
    write_text(args.out / f"{name}.json", json.dumps(facts, indent=1) + "\n")
    print(f"{args.out / name}.json")
    return rows


def table(name: str, rows: Sequence[Row]) -> Table:
    """Return the comparison as a table."""
    made = Table(title=name)
    for column in ("case", "plain", "ours", "unit", "ratio", "note"):
        made.add_column(column, justify="left" if column in ("case", "unit", "note") else "right")
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.1f}x"
        made.add_row(row.case, _number(row.plain), _number(row.ours), row.unit, ratio, row.note)
    return made


def in_turn(
    plain: Callable[[], Any], ours: Callable[[], Any], *, device: str = "cpu", budget: float = 10
) -> tuple[float, float]:
    """Return the shortest time of each way in seconds.

    They take turns, twice at least, ten times at most, and until ``budget`` seconds are spent. In
    its turn a short way is called again and again: the first call finds the memory as the other
    way left it, which no step of a training does but the first.
    """
    times: tuple[list[float], list[float]] = ([], [])
    begin, turns = time.perf_counter(), 0
    while turns < 2 or (turns < 10 and time.perf_counter() - begin < budget):
        for way, spent in zip((plain, ours), times, strict=True):
            start = time.perf_counter()
            spent.append(seconds(way, device))
            while time.perf_counter() - start < budget / 10:
                spent.append(seconds(way, device))
        turns += 1
    return min(times[0]), min(times[1])


def best(way: Callable[[], Any], *, device: str = "cpu", budget: float = 5) -> float:
    """Return the shortest time of one way in seconds; as ``in_turn``."""
    return in_turn(lambda: None, way, device=device, budget=budget)[1]


def seconds(way: Callable[[], Any], device: str = "cpu") -> float:
    """Return how long one call takes."""
    synchronize(device)
    begin = time.perf_counter()
    way()
    synchronize(device)
    return time.perf_counter() - begin


def synchronize(device: str) -> None:
    """Wait for a GPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def peak_memory(way: Callable[[], Any], device: str = "cpu") -> float:
    """Return the memory in MB that a call needs at most, beyond what is held before it.

    On Linux the process's high-water mark is reset first, and what the allocator keeps for later is
    given back, else a call that finds room there would seem to need none; elsewhere memory that was
    held before and is held no more hides a part. Call it in a fresh process.
    """
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        way()
        return (torch.cuda.max_memory_allocated(device) - held) / 1e6
    if not Path("/proc/self/clear_refs").exists():
        held = machine_peak(torch.device("cpu"))
        way()
        return (machine_peak(torch.device("cpu")) - held) / 1e6
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    held = _status("VmRSS")
    way()
    return (_status("VmHWM") - held) / 1e3


def in_process(module: str, *words: str) -> Any:
    """Return the JSON that a benchmark's module prints last when it is run with these words."""
    words = tuple(str(word) for word in words)
    done = subprocess.run(
        [sys.executable, "-m", module, *words], capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(words)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def fits(megabytes: float, device: str = "cpu") -> bool:
    """Tell whether so much memory can be used here without harm."""
    return megabytes * 1e6 < 0.7 * measure_total_memory(torch.device(device))


def machine(args: Any) -> dict[str, Any]:
    """Return what the numbers depend on."""
    facts = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": args.threads,
        "memory_gb": round(measure_total_memory(torch.device("cpu")) / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "device": args.device,
    }
    if args.device.startswith("cuda"):
        facts["gpu"] = torch.cuda.get_device_name(args.device)
    return facts


def commit() -> str:
    """Return the commit of the checkout, with a ``+`` when files differ from it."""
    head = _git("rev-parse", "--short", "HEAD")
    return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


def load_average() -> list[float]:
    """Return how many programs waited for a core in the last 1, 5 and 15 minutes."""
    return [round(number, 2) for number in os.getloadavg()]


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, cwd=ROOT)
    return done.stdout.strip() or ("unknown" if done.returncode else "")


def _status(key: str) -> int:  # kB
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if value < 1000 else f"{value:,.0f}"
