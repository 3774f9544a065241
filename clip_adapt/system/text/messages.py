"""Who hears what a run says: whoever has configured logging, else the terminal or the notebook.

A library says nothing of its own accord where somebody has set up logging; in a script or a
notebook that has not, a run of minutes would be silent.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar

from clip_adapt.system.text.showing import show_text

_is_quiet: ContextVar[bool] = ContextVar("is_quiet", default=False)


class _Formatter(logging.Formatter):
    """Messages as they are, but for what a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message of a record, shown."""
        return show_text(super().format(record))


def make_handler(form: str = "%(message)s") -> logging.Handler:
    """Return what writes messages to stderr as a terminal may have them.

    Args:
        form: what stands in a line, as ``logging.Formatter`` takes it.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(form))
    return handler


def is_quiet() -> bool:
    """Tell whether this thread shows no progress."""
    return _is_quiet.get()


@contextlib.contextmanager
def leave_logging() -> Iterator[None]:
    """Keep other libraries from configuring logging while the block runs.

    ``logging.info`` of a module that has no logger of its own gives the root a handler where there
    is none; the program would then seem to have configured logging.
    """
    root = logging.getLogger()
    own = None if root.handlers else logging.NullHandler()
    if own is not None:
        root.addHandler(own)
    try:
        yield
    finally:
        if own is not None:
            root.removeHandler(own)


@contextlib.contextmanager
def hide_progress() -> Iterator[None]:
    """Show no progress bars of this thread while the block runs."""
    token = _is_quiet.set(True)
    try:
        yield
    finally:
        _is_quiet.reset(token)


@contextlib.contextmanager
def show_messages(verbose: bool | None = None) -> Iterator[None]:
    """Show the messages of a run while the block runs; then logging is as it was.

    Logging is the whole process's, so runs of several threads come here one at a time.

    Args:
        verbose: None shows them where the program has not configured logging, True everywhere;
            False shows none, warnings included, and no progress bars.
    """
    logger = logging.getLogger("clip_adapt")
    level = logger.level
    handler = None if verbose is False or logger.hasHandlers() else make_handler()
    if handler is not None:
        logger.addHandler(handler)
    if verbose is False:
        logger.setLevel(logging.CRITICAL + 1)
    elif verbose or handler is not None:
        logger.setLevel(logging.INFO)
    try:
        with leave_logging(), hide_progress() if verbose is False else contextlib.nullcontext():
            yield
    finally:
        logger.setLevel(level)
        if handler is not None:
            logger.removeHandler(handler)
