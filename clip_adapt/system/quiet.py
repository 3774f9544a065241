"""Warnings of other people's code that say nothing to a user of ours."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator

_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def ignore_warnings(category: type[Warning] = Warning) -> Iterator[None]:
    """Ignore warnings of a category while the block runs.

    Python keeps one list of filters for all threads: two that each put back what they found would
    leave the filter of one behind. So it is one thread at a time.
    """
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore", category)
        yield
