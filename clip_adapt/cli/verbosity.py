"""``verbose=`` of every verb: how much is said besides the results."""

from __future__ import annotations

import contextlib
import enum
import logging
import os
from collections.abc import Iterator

from clip_adapt.cli.words import split_words
from clip_adapt.errors import InputError, nearest
from clip_adapt.system.text.messages import make_handler, show_messages

KEY = "verbose"
FORM = "%(asctime)s %(name)s: %(message)s"


class Verbosity(enum.Enum):
    """What is said on stderr; results go to stdout in any case."""

    QUIET = "quiet"
    NORMAL = "normal"
    DEBUG = "debug"

    @contextlib.contextmanager
    def apply(self) -> Iterator[None]:
        """Say as much while the block runs."""
        debug = self is Verbosity.DEBUG
        handler = make_handler(FORM if debug else "%(message)s")
        logging.basicConfig(handlers=[handler], level=logging.CRITICAL)
        logging.getLogger("clip_adapt").setLevel(logging.DEBUG if debug else logging.INFO)
        if self is not Verbosity.QUIET:
            yield
            return
        with _without_bars(), show_messages(verbose=False):
            yield


def take_verbosity(argv: list[str]) -> tuple[Verbosity, list[str]]:
    """Return what ``verbose=`` says, and the other words.

    Raises:
        InputError: when it says something else.
    """
    own = [word for word in argv if KEY in split_words([word])[1]]
    rest = [word for word in argv if word not in own]
    names = {"true": Verbosity.NORMAL, "false": Verbosity.QUIET}
    names |= {one.value: one for one in Verbosity}
    said = own[-1].partition("=")[2].strip() if own else Verbosity.NORMAL.value
    if said.lower() not in names:
        expected = ", ".join(names)
        raise InputError(f"verbose={said}: expected one of {expected}{nearest(said, names)}")
    return names[said.lower()], rest


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is first imported
    try:
        yield
    finally:
        os.environ.pop("TQDM_DISABLE")
        if before is not None:
            os.environ["TQDM_DISABLE"] = before
