"""ClipClassifier: an adapted CLIP as an estimator of scikit-learn."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, check_random_state, column_or_1d

from clip_adapt.adapted import delta, readme
from clip_adapt.adapted.classifier import Classifier
from clip_adapt.adapted.loading import load_classifier
from clip_adapt.data.given.labels import is_missing
from clip_adapt.data.given.listing import write_list
from clip_adapt.errors import InputError
from clip_adapt.runs.configuration import compose
from clip_adapt.runs.shared import Shared
from clip_adapt.runs.unmeasured import adapt_unmeasured
from clip_adapt.system.files import choose_cache_folder
from clip_adapt.system.launch.threads import hold_random_stream
from clip_adapt.system.text.messages import show_messages

# What a run of the command line does and an estimator does not.
QUIET = {"tensorboard": False, "report": False, "checkpoint": None}
SEED = 1  # without a random_state a fit is repeatable all the same


class ClipClassifier(ClassifierMixin, BaseEstimator):
    """A frozen CLIP with a small trained part, as an estimator of scikit-learn.

    ``fit`` learns from all images that it gets and measures nothing: hold out, cross-validate and
    search as with any estimator. Nothing is written into the working folder.

    Args:
        method: as for ``clip_adapt.adapt``.
        model: as for ``clip_adapt.adapt``.
        shots: images a class that are drawn of those given; None takes all.
        names: what the labels are called in prompts, ``{0: "cat", 1: "dog"}`` or in the order of
            ``classes_``; None takes the labels themselves.
        options: further options of ``clip_adapt.adapt`` by name.
        random_state: a number, a RandomState, or None for 1.
        output: folder that the delta is saved in; None saves none.
        verbose: whether messages and progress are shown.

    Attributes:
        classes_: the labels, sorted, as they were given.
        classifier_: the adapted CLIP, for everything else that it can do.
    """

    def __init__(
        self,
        method: str | Mapping[str, Any] = "auto",
        model: str | Mapping[str, Any] = "lite",
        *,
        shots: int | None = None,
        names: Mapping[Any, str] | Iterable[str] | None = None,
        options: Mapping[str, Any] | None = None,
        random_state: Any = None,
        output: str | Path | None = None,
        verbose: bool = False,
    ) -> None:
        self.method = method
        self.model = model
        self.shots = shots
        self.names = names
        self.options = options
        self.random_state = random_state
        self.output = output
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> Self:
        """Adapt to images.

        Args:
            X: paths, PIL images, arrays or tensors; a column of them; or an array (N, H, W, 3).
            y: their labels, of any type.

        Raises:
            InputError: when something does not fit.
        """
        if y is None:
            raise InputError("y is None: ClipClassifier requires y, one label for each image")
        images = take_images(X)
        self.classes_, index = np.unique(take_labels(y), return_inverse=True)
        names = self._name_classes()
        options = dict(self.options or {})
        with hold_random_stream(), show_messages(None if self.verbose else False):
            cache = choose_cache_folder(options.get("cache_dir"))
            listed = write_list(images, index, classes=names, repeats=True, cache=cache)
            data = {"dataset": str(listed), "dataset.whole": True}
            config = compose({**data, **self._list_options()})
            self.classifier_ = adapt_unmeasured(config, _Reused())
        if self.output is not None:
            save(self.classifier_, Path(self.output))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each image (N,)."""
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities (N, C) of the labels, in the order of ``classes_``."""
        check_is_fitted(self)
        images = take_images(X)
        if not images:
            return np.empty((0, len(self.classes_)))
        with show_messages(None if self.verbose else False):
            rows = np.array([row.double().cpu().numpy() for row in self.classifier_.rows(images)])
        return rows / rows.sum(axis=1, keepdims=True)

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn should know: X holds images and no table of numbers."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.no_validation = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Return what a pickle holds: the parameters and the delta, and no backbone."""
        state = dict(super().__getstate__())
        if "classifier_" in state:
            with tempfile.TemporaryDirectory() as folder:
                file = save(state.pop("classifier_"), Path(folder))
                state["delta"] = file.read_bytes()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what a pickle held; the backbone is loaded anew."""
        held = dict(state)
        content = held.pop("delta", None)
        super().__setstate__(held)
        if content is not None:
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / delta.FILE).write_bytes(content)
                config = compose({"dataset": "eyes", "method": "zero_shot", **self._name_model()})
                backbone = _Reused().backbone(config.model, config.options)
                name = self.method["name"] if isinstance(self.method, Mapping) else self.method
                own = name if name.endswith(".py") else None
                self.classifier_ = load_classifier(folder, backbone=backbone, method_file=own)

    def _name_classes(self) -> list[str]:
        if self.names is None:
            return [str(label) for label in self.classes_.tolist()]
        if isinstance(self.names, Mapping):
            missing = [label for label in self.classes_.tolist() if label not in self.names]
            if missing:
                raise InputError(f"names has no name for the label {missing[0]!r}")
            return [self.names[label] for label in self.classes_.tolist()]
        names = list(self.names)
        if len(names) != len(self.classes_):
            raise InputError(f"names has {len(names)} names, and y {len(self.classes_)} labels")
        return names

    def _list_options(self) -> dict[str, Any]:
        state = self.random_state
        seed = SEED if state is None else state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        drawn = {"sampling": "all"} if self.shots is None else {"shots": self.shots}
        given = {"method": self.method, "seed": int(seed), **drawn, **QUIET, **self._name_model()}
        return {**given, **(self.options or {})}

    def _name_model(self) -> dict[str, Any]:
        own = {k: v for k, v in (self.options or {}).items() if k in ("device", "precision")}
        return {"model": self.model, **own}


class _Reused(Shared):
    """What a fit loads: the backbone of the fit before serves again, since it is frozen."""

    last: tuple[str, Any] | None = None

    def backbone(self, card: Any, o: Any) -> Any:
        key = repr((card, o.device, o.precision, o.compile, o.text_chunk))
        held = _Reused.last
        if held is None or held[0] != key:
            held = _Reused.last = (key, super().backbone(card, o))
        return held[1]


def take_images(X: Any) -> list[Any]:
    """Return the images of X as a list: a list, a column, an array of them.

    Raises:
        InputError: when X is something else, a table of numbers among it.
    """
    if isinstance(X, str | bytes | Mapping) or not hasattr(X, "__iter__"):
        raise InputError(f"X is a {type(X).__name__}: expected a list of images, one for each y")
    if hasattr(X, "columns"):  # a DataFrame
        X = X.to_numpy()
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.shape[1] == 1 and X.dtype.kind in "OUS":
        X = X[:, 0]
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind in "OUS":
        raise InputError(f"X has {X.shape[1]} columns: expected one, of images")
    if isinstance(X, np.ndarray) and X.ndim < 3 and X.dtype.kind not in "OUS":
        raise InputError(
            f"X is an array {X.shape} of {X.dtype}: expected images, as paths, pictures or an "
            "array (N, H, W, 3), and no table of numbers"
        )
    return [str(image) if isinstance(image, np.str_) else image for image in X]


def take_labels(y: Any) -> np.ndarray:
    """Return the labels (N,) of y.

    Raises:
        InputError: when they are no labels of classes, or of types that cannot be sorted together.
        ValueError: of scikit-learn, for what is no column.
    """
    given = np.asarray(y)
    if given.dtype == object and given.ndim == 1:
        for place, label in enumerate(given):
            if is_missing(label):
                raise InputError(f"y[{place}] is {label}: leave the image out, or give its label")
        if len({isinstance(label, str) for label in given}) > 1:
            raise InputError("y holds text and other labels: expected all of one type")
    check_classification_targets(y)
    labels = column_or_1d(y, warn=True)
    if type_of_target(labels) == "continuous":
        raise InputError("y holds numbers that are no classes: Unknown label type: continuous")
    return labels


def save(classifier: Classifier, folder: Path) -> Path:
    """Save the delta of a fitted classifier, which ``clip_adapt.load`` reads; return its file."""
    assert classifier.header is not None, "a fitted classifier has a header"
    card = readme.write_card(classifier.header, None, "ClipClassifier.fit", [])
    return delta.save(folder, classifier.method, classifier.header, card)
