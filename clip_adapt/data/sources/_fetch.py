"""Downloads by the libraries that know where a data set lies; only when the user allowed it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clip_adapt.errors import InputError


def fetch_images(name: str, root: Path) -> None:
    """Let torchvision download a data set into ``root``.

    Raises:
        InputError: when it cannot be had.
    """
    import torchvision.datasets

    made = getattr(torchvision.datasets, name)
    build_or_refuse(lambda: made(str(root), download=True), name, root)


def build_or_refuse(make: Any, name: str, root: Path) -> Any:
    """Return what ``make`` makes; a failed download or a missing file becomes a message.

    Raises:
        InputError: when it fails.
    """
    root.mkdir(parents=True, exist_ok=True)
    try:
        return make()
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{name} cannot be had into {root}: {reason}") from error
