"""Method, the contract of every way to adapt CLIP.

Every method answers one or both of two questions: what does a class look like, and how is an
image compared with it? The base class is zero-shot CLIP, which is the two defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config.options import read_defaults
from clip_adapt.data.task import Task
from clip_adapt.errors import InputError
from clip_adapt.method.state import read_attributes, restore_attributes
from clip_adapt.method.table import Table
from clip_adapt.system.launch.threads import hold_random_stream

# What is claimed of a class, and the function by which it keeps the claim.
CLAIMS = {
    "solves": "fit",
    "penalizes": "penalty",
    "has_own_loss": "loss",
    "changes_gradients": "before_step",
}
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Method(nn.Module):
    """Zero-shot CLIP. Override what a class looks like, or how an image is compared with it.

    A subclass takes its options as keyword-only arguments with a type and a default; they are the
    schema of ``method.<option>=`` on the command line. Parameters and persistent buffers of the
    method are what a delta holds, and nothing else: ``self.backbone`` is not a submodule.

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
        solves: True when ``fit`` does something, so that features of the frozen tower are needed.
        penalizes: True when there is a ``penalty``.
        has_own_loss: True when ``loss`` is not the cross entropy that a run can balance and smooth.
        changes_gradients: True when ``before_step`` does something. These four follow from what a
            class defines; a class that declares one of them otherwise is held to it by a law.
        options: what it was made with, by name, defaults included.
        recipe: of a user's own file: general options by name (and ``method``, options of its own),
            which stand in for a YAML beside it.
        renamed_options: for each former name of an option the present one; deltas that were made
            with the former name load, a command line that uses it is told the new one.
        validation: (features, labels) of the val subset, set before ``fit``; None without one.
        unlabelled: features (M, D) of images without labels, set before ``fit``; None without any.
        class_weight: weight of each class (C,) in the loss, mean 1 over the support set; None is 1.
        label_smoothing: share of the target that is spread evenly over all classes.
    """

    tunes_image_tower = False
    tunes_text_tower = False
    starts_at_zero_shot = False
    works_on_other_classes = False
    quick = False
    trains_on_captions = False
    solves = False
    penalizes = False
    has_own_loss = False
    changes_gradients = False
    recipe: ClassVar[Mapping[str, Any]] = NOTHING
    renamed_options: ClassVar[Mapping[str, str]] = NOTHING

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for claim, function in CLAIMS.items():
            if claim not in vars(cls):
                setattr(cls, claim, getattr(cls, function) is not getattr(Method, function))

    def __new__(cls, *args: Any, **given: Any) -> Self:
        """Note the options, so that ``for_task`` can make another method like this one."""
        # Here and not in __init__, which options do not reach that a subclass takes for itself: a
        # method made by anybody's call of its constructor knows what it was made with.
        made = super().__new__(cls)
        defaults = read_defaults(cls)
        own = {name: value for name, value in given.items() if name in defaults}
        made.__dict__["options"] = {**defaults, **own}
        return made

    def __init__(self, backbone: Backbone, task: Task) -> None:
        super().__init__()
        # Set past nn.Module, which would register the frozen towers and put them into the delta.
        self.__dict__["backbone"] = backbone
        self.task = task
        self.validation: tuple[Tensor, Tensor] | None = None
        self.unlabelled: Tensor | None = None
        self.class_weight: Tensor | None = None
        self.label_smoothing = 0.0
        self._cached: tuple[tuple[int, ...], Tensor] | None = None
        self._zero_shot: Tensor | None = None
        self.generator = torch.Generator().manual_seed(task.seed)

    backbone: Backbone
    options: dict[str, Any]

    @classmethod
    def build(cls, backbone: Backbone, task: Task, options: Mapping[str, Any] = NOTHING) -> Self:
        """Return the method before training, on the device of its backbone.

        Args:
            backbone: the frozen towers.
            task: the classes.
            options: of the constructor, by name.
        """
        return cls(backbone, task, **options).to(backbone.device)

    def fit(self, z: Tensor, y: Tensor) -> None:
        """Solve in closed form, or set a start that depends on the support set.

        Args:
            z: unit image features (N, D); the normalised mean over the views of each image.
            y: labels (N,).
        """

    def before_step(self) -> None:
        """Change the gradients of a step, which are there; the optimizer has not moved yet.

        It is called once for every step of the optimizer: after all batches of ``accumulate``,
        after fp16's loss scale is taken out again, before ``clip_norm``, so that what moves the
        optimizer is never longer than that.
        """

    def on_epoch_end(self, epoch: int, epochs: int) -> None:
        """Do what is done once an epoch, after its last step and before ``select=val`` looks on.

        Args:
            epoch: counts from 0.
            epochs: how many there are in this training.
        """

    def training_state(self) -> dict[str, Any]:
        """Return what a training that goes on needs besides tensors: all attributes, if plain."""
        return read_attributes(self)

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Take what ``training_state`` returned; parameters and buffers are set already."""
        restore_attributes(self, state)

    def finish(self) -> None:
        """Settle what depends on the trained parameters; called once, after the last step.

        The method is in eval mode, after ``fit``; without training it is called as well.
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
        """Return what the classes look like: one unit vector per class (C, D)."""
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

    def penalty(self, z: Tensor, frozen: Tensor, w: Tensor) -> Tensor | float:
        """Return what is added to the loss of a step (a scalar): nothing.

        An addition, so a run can still balance the classes of the loss and smooth its targets.
        ``objective=contrastive`` has no class weights and refuses a method that asks for them.

        Args:
            z: features of the batch (N, D) as they enter ``logits``, from ``encode_image``.
            frozen: those of the same views from the frozen tower (N, D), without gradients; the
                very same tensor for a method that leaves the image tower alone.
            w: the class weights of this step (C, D), from ``weights``.
        """
        return 0.0

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
        if (class_balanced or label_smoothing) and self.has_own_loss:
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

    def for_task(self, task: Task) -> Method:
        """Return a method with the same trained state on other classes, in eval mode.

        It is made anew for the task with the options of this one, so its prompts and zero-shot
        weights are those of the task's classes; then it gets every parameter and buffer.

        Raises:
            InputError: when the state belongs to single classes (``works_on_other_classes``). A
                method that claims otherwise is held to it by a law of clip_adapt.testing.
        """
        if not self.works_on_other_classes:
            raise InputError(
                f"what {type(self).__name__} trains belongs to its own classes "
                f"({', '.join(self.task.classes)}) and cannot be used on others"
            )
        with hold_random_stream():
            made = type(self).build(self.backbone, task, self.options)
        made.load_state_dict(self.state_dict())
        return made.eval()

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
