"""clip_adapt: adapt CLIP to your own images with a handful of labels a class.

Public names: adapt, load, zero_shot, Backbone, Method, Dataset. Importing the package is cheap;
torch and everything else heavy is imported when one of these names is first used.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clip_adapt.api import adapt, load, zero_shot
    from clip_adapt.backbone import Backbone
    from clip_adapt.data import Dataset
    from clip_adapt.method import Method

__version__ = "0.1.0"
__all__ = ["Backbone", "Dataset", "Method", "adapt", "load", "zero_shot"]

_HOME = {
    "adapt": "api",
    "load": "api",
    "zero_shot": "api",
    "Backbone": "backbone",
    "Dataset": "data",
    "Method": "method",
}


def _join_checkout() -> None:
    # In a bare clone methods/ lies beside the package; an installed package holds it inside.
    package = Path(__file__).parent
    root = package.parent
    if not (package / "methods").is_dir() and (root / "pyproject.toml").is_file():
        __path__.append(str(root))


_join_checkout()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'clip_adapt' has no attribute {name!r}")
    return getattr(importlib.import_module(f"clip_adapt.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
