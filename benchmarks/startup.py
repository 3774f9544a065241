"""How long one waits for an import and for ``--help``.

Plain imports the whole engine with torch and open_clip, as a script does that imports what it uses
at its top.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import common
from benchmarks.common import ROOT, Row


def measure(args: Any) -> list[Row]:
    """Return the table's rows."""
    budget = 1 if args.tiny else 20
    engine = "clip_adapt" if args.tiny else "clip_adapt.runs.run, open_clip, peft, accelerate"
    whole = python("-c", f"import {engine}")
    ways = {
        "import clip_adapt": python("-c", "import clip_adapt"),
        "python -m clip_adapt.train --help": python("-m", "clip_adapt.train", "--help"),
    }
    whole()
    return [
        Row(name, "s", *common.in_turn(whole, way, budget=budget)) for name, way in ways.items()
    ]


def python(*words: str) -> Callable[[], None]:
    """Return a function that runs Python with these words in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run() -> None:
        command = [sys.executable, *words]
        subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)

    return run


if __name__ == "__main__":
    common.run("startup", common.parser(__doc__), measure)
