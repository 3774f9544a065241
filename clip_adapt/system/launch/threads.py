"""torch's one stream of random numbers, which all threads of a process draw from: one at a time.

A run seeds it, then start values and dropout draw from it for as long as the run lasts. Two threads
that draw from it in turns would each get what the machine's scheduler gives them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator


class _Turn:
    held = threading.RLock()  # a run within a run of one thread does not wait for itself


@contextlib.contextmanager
def hold_random_stream() -> Iterator[None]:
    """Keep other threads of this process from what draws from the stream while the block runs."""
    with _Turn.held:
        yield


def _start_anew() -> None:
    # In a forked process the threads that held it are gone.
    _Turn.held = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_start_anew)
