"""clip_adapt: adapt CLIP to your own images with a handful of labels a class.

Importing the package is cheap: torch and everything else heavy is imported when one of the public
names is first used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clip_adapt.system.launch.spinning import let_threads_sleep
from clip_adapt.system.lazy import export_lazily
from clip_adapt.system.version import __version__

if TYPE_CHECKING:
    from clip_adapt.adapted.classifier import Classifier
    from clip_adapt.api import adapt, load, zero_shot
    from clip_adapt.backbone.backbone import Backbone
    from clip_adapt.config.values import Between
    from clip_adapt.data.dataset import Dataset
    from clip_adapt.data.task import Task
    from clip_adapt.errors import InputError
    from clip_adapt.estimator import ClipClassifier
    from clip_adapt.method.contract import Method
    from clip_adapt.method.table import Table
    from clip_adapt.training.recipe import Recipe

_HOMES = {
    "Backbone": "backbone.backbone",
    "Between": "config.values",
    "Classifier": "adapted.classifier",
    "ClipClassifier": "estimator",
    "Dataset": "data.dataset",
    "InputError": "errors",
    "Method": "method.contract",
    "Recipe": "training.recipe",
    "Table": "method.table",
    "Task": "data.task",
    "adapt": "api",
    "load": "api",
    "zero_shot": "api",
}
__all__ = [
    "Backbone",
    "Between",
    "Classifier",
    "ClipClassifier",
    "Dataset",
    "InputError",
    "Method",
    "Recipe",
    "Table",
    "Task",
    "__version__",
    "adapt",
    "load",
    "zero_shot",
]


def _join_checkout() -> None:
    # In a bare clone methods/ lies beside the package; an installed package holds it inside.
    package = Path(__file__).parent
    root = package.parent
    if not (package / "methods").is_dir() and (root / "pyproject.toml").is_file():
        __path__.append(str(root))


_join_checkout()
let_threads_sleep()

__getattr__ = export_lazily(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
