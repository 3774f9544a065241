"""What the parts of a run take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Adds up seconds by the name of a part.

    A run that waits while others beside it are trained counts nothing meanwhile; what it is charged
    for their common work is added by hand.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._since: dict[str, float] = {}

    @contextlib.contextmanager
    def count(self, part: str) -> Iterator[None]:
        """Count the time that the block takes; the same part may be counted several times."""
        self._since[part] = time.perf_counter()
        try:
            yield
        finally:
            self.add(part, time.perf_counter() - self._since.pop(part))

    def add(self, part: str, seconds: float) -> None:
        """Add seconds to a part."""
        self._seconds[part] = self._seconds.get(part, 0.0) + seconds

    def read(self) -> dict[str, float]:
        """Return the seconds of every part so far, of those that are being counted as well."""
        now = time.perf_counter()
        running = {part: now - since for part, since in self._since.items()}
        return {
            part: self._seconds.get(part, 0.0) + running.get(part, 0.0)
            for part in dict.fromkeys([*self._seconds, *running])
        }
