"""One run of the product, and whether it ended as it must."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from clip_adapt import cli
from clip_adapt.errors import InputError

OWN = (".sweep.lock", ".claims")
LONGEST_MESSAGE = 20_000  # characters: nobody reads more, and a terminal need not take more


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``code`` as a command line's, ``fault`` what must not be ("" for nothing).

    ``detail`` is the traceback, or what was printed.
    """

    code: int
    fault: str = ""
    detail: str = ""


class Wrong(Exception):
    """What a kind has itself found wrong, in a few words."""


Call = Callable[[], Any]


def make_call(*words: str) -> Call:
    """Return the call of a command line: a verb and its words."""
    return lambda: cli.run(words[0], list(words[1:]))


def judge(call: Call, place: Path) -> Outcome:
    """Run a call in a folder of its own, which holds its input, and say how it ended."""
    before = _read_state()
    printed, said = io.StringIO(), io.StringIO()
    os.chdir(place)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
            code = _run(call)
    except Wrong as wrong:
        return Outcome(1, str(wrong), said.getvalue()[-3000:])
    except BaseException as error:
        return Outcome(1, _name_fault(error), traceback.format_exc())
    finally:
        os.chdir("/")
    fault = _find_fault(code, printed.getvalue(), said.getvalue(), place) or _compare_state(before)
    return Outcome(code, fault, said.getvalue()[-3000:] if fault else "")


def _run(call: Call) -> int:
    try:
        result = call()
    except InputError as error:  # of a function that is no command line
        print(f"error: {error}", file=sys.stderr)
        return cli.REFUSED
    return result if isinstance(result, int) else 0


def _find_fault(code: int, printed: str, said: str, place: Path) -> str:
    # A sweep goes on without the runs that are refused, lists them, and ends with code 1.
    is_sweep = code == cli.FAULT and " runs failed:" in printed
    if code not in (0, cli.REFUSED) and not is_sweep:
        return f"code {code}"
    messages = [line for line in said.splitlines() if line.startswith("error: ")]
    if code == cli.REFUSED and len(messages) != 1:
        return f"{len(messages)} messages"
    if code == cli.REFUSED and len(said) > LONGEST_MESSAGE:
        return "a message without end"
    if "Traceback" in said + printed:
        return "a printed traceback"
    left = [p.name for p in place.rglob(".*") if p.name not in OWN]
    left += ["out"] * (code == cli.REFUSED and (place / "out").exists())
    return f"left behind: {left[0][:30]}" if left else ""


def _read_state() -> dict[str, Any]:
    return {
        "warning filters": list(warnings.filters),
        "umask": _read_umask(),
        "signals": [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)],
        "environment": dict(os.environ),
        "search path": list(sys.path),
        "default type": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "bomb limit": Image.MAX_IMAGE_PIXELS,
        "truncated images": getattr(sys.modules.get("PIL.ImageFile"), "LOAD_TRUNCATED_IMAGES", 0),
        "recursion": sys.getrecursionlimit(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "gradients": torch.is_grad_enabled(),
    }


def _compare_state(before: dict[str, Any]) -> str:
    after = _read_state()
    changed = [name for name in before if before[name] != after[name]]
    return f"changed of the process: {', '.join(changed)}" if changed else ""


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _name_fault(error: BaseException) -> str:
    # Grouped by the last line of ours: one fault has many messages.
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        f for f in frames if "clip_adapt" in f.filename or f"{os.sep}methods{os.sep}" in f.filename
    ]
    at = f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else "outside"
    return f"{type(error).__name__} at {at}"
