"""A whole run from the command line: 16 shots of the drawn eyes, cold and warm, each method.

Plain is cold: nothing is cached, so the pictures are drawn and pass the tower. Ours is warm: the
same command again with the caches that the cold one left; LoRA's tower sees the pictures again, all
other methods find their features. Each is a process of its own, start-up, evaluation and files
included. The embedded backbone is used, not ViT-B/16.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.common import ROOT, Row
from clip_adapt.method.finding import list_methods

SMALL = [f"dataset.per_class.{split}=2" for split in ("train", "val", "test")]


def measure(args: Any) -> list[Row]:
    """Return the table's rows."""
    rows = []
    for method in args.methods or (["zero_shot"] if args.tiny else list_methods()):
        with tempfile.TemporaryDirectory() as folder:
            cold, warm = (_run(args, method, Path(folder)) for _ in range(2))
        rows.append(Row(method, "s", cold, warm))
    return rows


def _run(args: Any, method: str, folder: Path) -> float:
    shots = 1 if args.tiny else 16
    words = [f"method={method}", "dataset=eyes", f"shots={shots}", f"device={args.device}"]
    words += [f"cache_dir={folder / 'cache'}", f"output={folder / method}"]
    words += SMALL if args.tiny else []
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(args.threads)}
    command = [sys.executable, "-m", "clip_adapt.train", *words]

    def run() -> None:
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")

    return common.seconds(run)


def main() -> None:
    """Measure."""
    parser = common.parser(__doc__)
    parser.add_argument("--methods", nargs="+", help="these in place of all")
    common.run("end_to_end", parser, measure)


if __name__ == "__main__":
    main()
