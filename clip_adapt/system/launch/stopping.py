"""Ctrl-C and SIGTERM: asked once, a run stops where it stands well; asked twice, at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PASSED_ON = 0.1  # seconds in which a launcher passes on what the terminal has sent already


class Stopped(KeyboardInterrupt):
    """The user, or the machine's scheduler, has asked this process to end.

    Attributes:
        number: of the signal.
        note: what is kept of the work.
    """

    def __init__(self, number: int, note: str = "") -> None:
        super().__init__(number)
        self.number, self.note = number, note


class _Request:
    number: int | None = None
    when = 0.0
    deferred = 0  # blocks that are to be left whole


_request = _Request()


@contextlib.contextmanager
def catch_signals() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into ``Stopped`` while the block runs; then all is as it was.

    Python lets the main thread alone do so. A handler of somebody's own stays, and so does a signal
    that is ignored.
    """
    before = {}
    if _is_main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if before:
            _request.number = None


@contextlib.contextmanager
def defer_stop() -> Iterator[None]:
    """Let the block go on when a signal comes; it asks ``is_stop_asked`` where it can stop."""
    if not _is_main_thread():
        yield
        return
    _request.deferred += 1
    try:
        yield
    finally:
        _request.deferred -= 1


def is_stop_asked() -> bool:
    """Tell whether a signal has come that was deferred."""
    return _request.number is not None and _is_main_thread()


def stop(note: str = "") -> NoReturn:
    """Stop here, as this process or another of its run was asked to.

    Args:
        note: what is kept of the work.

    Raises:
        Stopped: always.
    """
    raise Stopped(_request.number or signal.SIGTERM, note)


def leave_signals_to_system() -> None:
    """From here on the next signal ends the process, whatever it is waiting for."""
    if _is_main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)


def _stop(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _request.number is None:
        _request.number, _request.when = number, now
        if not _request.deferred:
            raise Stopped(number)
    elif number == _request.number and now - _request.when > PASSED_ON:
        os._exit(128 + number)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
