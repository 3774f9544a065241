"""Whole runs in children of a worker: what they leave, and whether two gave the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from clip_adapt import cli
from tools.torture import examples
from tools.torture.judging import Wrong


@dataclass(frozen=True)
class Plain:
    """A run that nothing disturbs: its words, the digest of its delta, its seconds."""

    words: list[str]
    delta: str
    seconds: float


def prepare_run(folder: Path, *more: str) -> Plain:
    """Write data and a model, run once on a cold cache, and say what that gave."""
    examples.write_pictures(folder / "pictures", per_class=8)
    model = examples.write_model(folder / "model")
    words = ["train", f"dataset={folder / 'pictures'}", f"model={model}", "shots=3", *more]
    words += (
        ["output=out", *examples.QUICK] if not any(w.startswith("output") for w in more) else []
    )
    begin = time.perf_counter()
    here, before = os.getcwd(), os.environ.get("CLIP_ADAPT_CACHE", "")
    os.chdir(folder)
    os.environ["CLIP_ADAPT_CACHE"] = str(folder / "cache")
    examples.run_quietly(*words)
    os.chdir(here)
    os.environ["CLIP_ADAPT_CACHE"] = before
    return Plain(words, hash_delta(folder / "out"), time.perf_counter() - begin)


def hash_delta(out: Path) -> str:
    """Return the digest of all that a run's delta holds; "" without one."""
    file = out / "adapter" / "adapter.safetensors"
    if not file.is_file():
        return ""
    digest = hashlib.sha256()
    with safe_open(file, "pt") as held:  # the order of a header's entries is not ours
        digest.update(json.dumps(held.metadata(), sort_keys=True).encode())
        for name in sorted(held.keys()):
            digest.update(name.encode() + held.get_tensor(name).numpy().tobytes())
    return digest.hexdigest()


def start(words: Sequence[str], said: Path) -> int:
    """Start a command line in a child; return its process id. What it says goes into a file."""
    pid = os.fork()
    if pid:
        return pid
    code = cli.FAULT
    try:
        with (
            said.open("w", encoding="utf-8", errors="replace") as file,
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
        ):
            code = cli.run(words[0], list(words[1:]))
    finally:
        os._exit(code)


def finish(pid: int, seconds: float = 60.0) -> int:
    """Wait for a child; return its exit code, or minus the signal that ended it.

    Raises:
        Wrong: when it does not end.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise Wrong("a child did not end")


def require_same(plain: Plain, out: Path) -> None:
    """Check that a run gave what the undisturbed one gave.

    Raises:
        Wrong: when it did not.
    """
    if hash_delta(out) != plain.delta:
        raise Wrong("another delta" if hash_delta(out) else "no delta")


def refuse_orphans(*folders: Path) -> None:
    """Check that no temporary file or folder is left.

    Raises:
        Wrong: when one is.
    """
    left = [p.name for folder in folders for p in folder.rglob(".*")]
    if left:
        raise Wrong(f"an orphan: {left[0].lstrip('.').split('.')[0][:20]}")
