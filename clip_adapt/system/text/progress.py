"""Progress bars: on a terminal and in a notebook, and nowhere else."""

from __future__ import annotations

import functools
import sys
from typing import Any

from clip_adapt.system.quiet import ignore_warnings
from clip_adapt.system.text.messages import is_quiet


def make_bar(
    total: int | None, label: str, unit: str = "img", *, is_shown: bool = True, delay: float = 0
) -> Any:
    """Return a bar of tqdm, which shows itself on a terminal and in a notebook.

    Args:
        total: how much there is to do; None when nobody knows.
        label: what is done.
        unit: of what.
        is_shown: False shows nothing, as in all processes of a run but one.
        delay: seconds before it shows itself.
    """
    # tqdm takes None for: on a terminal. A notebook's stderr is none.
    hidden = True if is_quiet() or not is_shown else False if is_notebook() else None
    return _find_tqdm()(total=total, desc=label, unit=unit, disable=hidden, delay=delay)


def is_notebook() -> bool:
    """Tell whether this is the kernel of a notebook."""
    shell = sys.modules.get("IPython")
    found = shell.get_ipython() if shell is not None else None
    return found is not None and "IPKernelApp" in found.config


@functools.cache
def _find_tqdm() -> Any:
    with ignore_warnings():  # that a notebook without ipywidgets gets the bar of a terminal
        from tqdm.auto import tqdm
    return tqdm
