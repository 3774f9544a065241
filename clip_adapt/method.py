"""Method, the contract of every way to adapt CLIP, and how a method is found by its name.

Every method answers one or both of two questions: what does a class look like, and how is an
image compared with it? The base class is zero-shot CLIP, which is the two defaults.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_adapt.backbone import Backbone
from clip_adapt.errors import InputError, nearest
from clip_adapt.files import resource
from clip_adapt.table import Table
from clip_adapt.task import Task


class Method(nn.Module):
    """Zero-shot CLIP. Override what a class looks like, or how an image is compared with it.

    A subclass takes its options as keyword-only arguments with a type and a default; they are the
    schema of ``method.<option>=`` on the command line. Parameters and persistent buffers of the
    method are what a delta holds, and nothing else: ``self.backbone`` is no submodule.

    Attributes:
        tunes_image_tower: True when pixels must pass the image tower on every step; a method that
            leaves it False trains on image features which are computed once.
        starts_at_zero_shot: True when the logits before training are those of zero-shot CLIP.
        tunes_text_tower: True when texts must pass the text tower on every step; a method that
            leaves it False trains on text features which are computed once.
        works_on_other_classes: True when what is trained has nothing of single classes in it (a
            shared context, an adapter of features, LoRA), so that it can be used on classes which
            it never saw; set it in the constructor when that depends on an option.
        quick: True when it adapts to cached features within seconds on any backbone, because no
            tower runs while it does; ``method=auto`` chooses among such methods.
        trains_on_captions: True when everything that is trained acts through ``encode_image``,
            ``encode_text``, ``image_features`` and ``text_features``, so that it learns from pairs
            of images and captions as well (``objective=contrastive``).
        validation: (features, labels) of the val subset, set before ``fit``; None without one.
        class_weight: weight of each class (C,) in the loss, mean 1 over the support set; None is 1.
        label_smoothing: share of the target that is spread evenly over all classes.
    """

    tunes_image_tower = False
    tunes_text_tower = False
    starts_at_zero_shot = False
    works_on_other_classes = False
    quick = False
    trains_on_captions = False

    def __init__(self, backbone: Backbone, task: Task) -> None:
        super().__init__()
        # Set past nn.Module, which would register the frozen towers and put them into the delta.
        self.__dict__["backbone"] = backbone
        self.task = task
        self.validation: tuple[Tensor, Tensor] | None = None
        self.class_weight: Tensor | None = None
        self.label_smoothing = 0.0
        self._cached: tuple[tuple[int, ...], Tensor] | None = None
        self._zero_shot: Tensor | None = None
        self.generator = torch.Generator().manual_seed(task.seed)

    backbone: Backbone

    def fit(self, z: Tensor, y: Tensor) -> None:
        """Solve in closed form, or set a start that depends on the support set.

        Args:
            z: unit image features (N, D); the normalised mean over the views of each image.
            y: labels (N,).
        """

    def finish(self) -> None:
        """Settle what depends on the trained parameters; called once, after the last step.

        The method is in eval mode; ``fit`` came before it. Without training it is called all the
        same.
        """

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return the unit features (N, D) of transformed images (N, 3, S, S).

        A method that tunes the image tower switches its part on here.
        """
        return self.backbone.encode_image(pixels)

    def encode_text(self, texts: list[str]) -> Tensor:
        """Return the unit features (N, D) of any texts.

        A method that tunes the text tower, or puts a context before texts, does so here.
        """
        return self.backbone.encode_text(texts)

    def image_features(self, z: Tensor) -> Tensor:
        """Return what the method makes of unit image features (N, D): unit features (N, D)."""
        return z

    def text_features(self, t: Tensor) -> Tensor:
        """Return what the method makes of unit text features (N, D): unit features (N, D)."""
        return t

    def weights(self) -> Tensor:
        """Return what the classes look like: one unit vector a class (C, D)."""
        return self.text_features(self.zero_shot_weights)

    def logits(self, z: Tensor, w: Tensor) -> Tensor:
        """Compare unit image features (N, D) with class weights (C, D): logits (N, C)."""
        return self._similarity(self.image_features(z), w)

    def forward(self, z: Tensor) -> Tensor:
        """Return the logits (N, C) of unit image features (N, D)."""
        return self.logits(z, self.current_weights())

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of logits (N, C) against labels (N,): the mean cross entropy."""
        return F.cross_entropy(
            logits,
            labels,
            weight=None if self.class_weight is None else self.class_weight.to(logits),
            label_smoothing=self.label_smoothing,
        )

    def set_criterion(self, y: Tensor, class_balanced: bool, label_smoothing: float) -> None:
        """Weight the classes of the loss inversely to their number of labels, smooth the targets.

        Class weights are N / (C n_c), as scikit-learn's ``class_weight="balanced"`` has them.

        Args:
            y: labels (N,) of the support set.
            class_balanced: whether every class counts the same, however many images it has.
            label_smoothing: 0 to 1; Szegedy et al. 2016, https://arxiv.org/abs/1512.00567.

        Raises:
            InputError: when the method has a loss of its own, which would ignore both.
        """
        if (class_balanced or label_smoothing) and type(self).loss is not Method.loss:
            raise InputError(
                f"class_balanced and label_smoothing cannot change the loss of "
                f"{type(self).__name__}, which is its own: leave them out"
            )
        self.label_smoothing = label_smoothing
        self.class_weight = None
        if class_balanced and len(y):
            count = torch.bincount(y.cpu(), minlength=len(self.task.classes)).clamp(min=1)
            weight = len(y) / (len(self.task.classes) * count.float())
            self.class_weight = weight.to(self.backbone.device)

    @property
    def zero_shot_weights(self) -> Tensor:
        """Unit text features of the task's prompts, averaged over prompts (C, D); computed once."""
        if self._zero_shot is None:
            with torch.no_grad():
                self._zero_shot = self.backbone.class_weights(self.task.texts())
        return self._zero_shot

    def zero_shot_logits(self, z: Tensor) -> Tensor:
        """Return the logits (N, C) of zero-shot CLIP for features (N, D) of the frozen tower."""
        return self._similarity(z, self.zero_shot_weights)

    def current_weights(self) -> Tensor:
        """Return ``weights()``, computed once between changes while nothing is trained."""
        if self.training or torch.is_grad_enabled():
            return self.weights()
        versions = tuple(t._version for t in self.state_dict(keep_vars=True).values())
        if self._cached is None or self._cached[0] != versions:
            self._cached = (versions, self.weights())
        return self._cached[1]

    def for_task(self, task: Task, options: Mapping[str, Any]) -> Method:
        """Return a method with the same trained state on other classes, in eval mode.

        It is made anew for the task, so its prompts and zero-shot weights are those of the task's
        classes; then it gets every parameter and buffer of this one.

        Args:
            task: the other classes.
            options: of the constructor, as this one was made with.

        Raises:
            InputError: when the state belongs to single classes (``works_on_other_classes``). A
                method that claims otherwise is held to it by a law of testing.py.
        """
        if not self.works_on_other_classes:
            raise InputError(
                f"what {type(self).__name__} trains belongs to its own classes "
                f"({', '.join(self.task.classes)}) and cannot be used on others"
            )
        made = type(self)(self.backbone, task, **options)
        made.load_state_dict(self.state_dict())
        return made.to(self.backbone.device).eval()

    def tables(self) -> list[Table]:
        """Return what a person can read of the trained part; stands in the run's report."""
        return []

    def trainable(self) -> list[nn.Parameter]:
        """Return the parameters that training changes."""
        return [p for p in self.parameters() if p.requires_grad]

    def _similarity(self, z: Tensor, w: Tensor) -> Tensor:
        logits = self.backbone.logit_scale * z @ w.T
        bias = self.backbone.logit_bias
        return logits if bias is None else logits + bias


@dataclass(frozen=True)
class Found:
    """A method's class with the name it goes by; ``file`` when it came from a user's own file."""

    name: str
    cls: type[Method]
    file: Path | None = None


def names() -> list[str]:
    """Return the names of all methods: the files of methods/ and the installed entry points."""
    own = [p.stem for p in resource("methods").glob("*.py") if p.stem[0] != "_"]
    return sorted({*own, *(e.name for e in _entry_points())})


def find(name: str) -> Found:
    """Return the method of that name, or the one that a ``path/to/mine.py`` defines.

    Raises:
        InputError: when there is none, or when the file does not define exactly one.
    """
    if name.endswith(".py"):
        path = Path(name).expanduser()
        return Found(path.stem, _only_method(_import_file(path), name), path)
    if name not in names():
        known = ", ".join(names())
        raise InputError(
            f"unknown method {name!r}{nearest(name, names())} There is: {known}; "
            "or give the path of your own method.py."
        )
    for entry in _entry_points():
        if entry.name == name:
            return Found(name, entry.load())
    return Found(name, _only_method(importlib.import_module(f"clip_adapt.methods.{name}"), name))


def _entry_points() -> list[importlib.metadata.EntryPoint]:
    return list(entry_points(group="clip_adapt.methods"))


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"method file {path} does not exist (looked at {path.absolute()})")
    name = f"clip_adapt_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file always has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"method file {path} fails on import: {error!r}") from error
    return module


def _only_method(module: ModuleType, name: str) -> type[Method]:
    found = [
        cls
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, Method) and cls.__module__ == module.__name__
    ]
    if len(found) != 1:
        classes = ", ".join(cls.__name__ for cls in found) or "none"
        raise InputError(f"{name} must define exactly one subclass of Method, not {classes}")
    return found[0]
