"""One run: config > data > method > fit > evaluate > delta."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from clip_adapt.adapted.classifier import Classifier
from clip_adapt.data.items import Item, Support, write_manifest
from clip_adapt.evaluation import calibration, classification, protocols
from clip_adapt.evaluation.classification import Evaluation
from clip_adapt.evaluation.finding import find_metrics
from clip_adapt.inputs import features
from clip_adapt.inputs.pixels import Pixels
from clip_adapt.inputs.views import Augment
from clip_adapt.method.contract import Method
from clip_adapt.runs import contrastive_run, folder
from clip_adapt.runs.configuration import Config
from clip_adapt.runs.folder import whole_or_not_at_all
from clip_adapt.runs.preparation import Run, recipe_of
from clip_adapt.runs.shared import Shared
from clip_adapt.training import fitting
from clip_adapt.training.fitting import Part, Trained, Training
from clip_adapt.training.loop import curve_of

log = logging.getLogger(__name__)


def run(config: Config, shared: Shared | None = None) -> Classifier:
    """Do everything that a configuration says and write the run's files.

    Args:
        config: what to do.
        shared: what earlier runs of this process have loaded; None loads anew.

    Returns:
        the adapted classifier, with ``folder`` and ``metrics`` of the run.

    Raises:
        InputError: with the reason and the remedy.
    """
    shared = shared or Shared()
    if config.options.objective == "contrastive":
        return contrastive_run.run(config, shared)
    with started(config, shared) as this:
        return this.finish(this.training.alone())


@contextlib.contextmanager
def started(config: Config, shared: Shared) -> Iterator[Started]:
    """Begin a run on classes: everything up to its training by steps.

    Its folder is held while the block runs; when the block raises, the folder is left as it was.

    Args:
        config: what to do.
        shared: what earlier runs of this process have loaded.

    Raises:
        InputError: with the reason and the remedy.
    """
    start = time.perf_counter()
    this = Run.prepare(config, shared)
    method = None if config.candidates else this.make_method()
    notes = this.check_images()
    support, left = this.draw()
    this.most = max(Counter(item.label for item in support.train).values())
    if method is not None and this.most > config.options.shots:
        method = this.make_method()  # sampling=natural and all give some classes more than shots
    support.notes[:0] = notes
    for note in support.notes:
        log.warning(note)
    seconds: dict[str, float] = {}
    with whole_or_not_at_all(this.folder):
        if method is None:
            this.choose(support, seconds)
            method = this.make_method()
        z = _features(this, method, support, seconds)
        train = _part(this, method, support.train, z["train"], this.options.augment)
        val = _part(this, method, support.val, z["val"], "none")
        training = _solve(this, method, train, val, seconds)
        seconds["total"] = time.perf_counter() - start
        yield Started(this, support, left, train, val, training, seconds)


@dataclass
class Started:
    """A run whose method is ready to be trained by steps.

    Attributes:
        this: what the run has at hand.
        support: what was drawn.
        left: the images that ``conformal`` calibrates on.
        train: the images that the method is fitted to.
        val: the validation images.
        training: what is to be done before ``finish``.
        seconds: what the run's parts took so far, ``total`` all of them.
    """

    this: Run
    support: Support
    left: list[Item]
    train: Part
    val: Part
    training: Training
    seconds: dict[str, float]

    def finish(self, trained: Trained) -> Classifier:
        """Choose by held-out labels what is chosen by them, measure, write the run's files.

        Raises:
            InputError: with the reason and the remedy.
        """
        begin = time.perf_counter()
        this, method = self.this, self.training.method
        classifier = Classifier(method)
        classifier.guard = self._guard()
        self.seconds["fit"] += trained.seconds + time.perf_counter() - begin
        _calibrate(this, classifier, self.support, self.left)
        measured, others = _measure(this, classifier, self.seconds)
        before = self.seconds.pop("total")
        self.seconds["total"] = before + trained.seconds + time.perf_counter() - begin
        return _write(self, classifier, trained, measured, others)

    def _guard(self) -> float:
        method = self.training.method
        if not self.this.options.guard or not method.state_dict():
            return 0.0
        make, recipe = self.this.make_method, self.training.recipe
        items = [] if self.support.val else self.support.train
        z = features.extract(
            self.this.backbone, [i.path for i in items], self.this.cache, label="centre views"
        )
        centre = _part(self.this, method, items, z, "none")
        return fitting.guard_weight(method, make, self.train, centre, self.val, recipe)


def _features(
    this: Run, method: Method, support: Support, seconds: dict[str, float]
) -> dict[str, Tensor]:
    begin = time.perf_counter()
    o = this.options
    trains = o.trains and bool(method.trainable())
    solves = type(method).fit is not Method.fit
    on_features = solves or (trains and not method.tunes_image_tower)
    wanted = support.train if on_features else []
    z = features.extract(
        this.backbone,
        [i.path for i in wanted],
        this.cache,
        views=o.views,
        augment=o.augment,
        label="support features",
    )
    needs_val = solves or o.guard or o.select == "val"
    val = [i.path for i in support.val] if needs_val else []
    z_val = features.extract(this.backbone, val, this.cache, label="val features")
    seconds["features"] = time.perf_counter() - begin
    return {"train": z, "val": z_val}


def _part(this: Run, method: Method, items: list[Item], z: Tensor, augment: Augment) -> Part:
    labels = torch.tensor([item.label for item in items], dtype=torch.long)
    pixels = Pixels(this.backbone, items, augment) if method.tunes_image_tower else None
    return Part(z, labels, pixels)


def _solve(
    this: Run, method: Method, train: Part, val: Part, seconds: dict[str, float]
) -> Training:
    begin = time.perf_counter()
    for old in this.folder.glob("events.out.tfevents.*"):
        old.unlink()
    log_dir = this.folder if this.options.tensorboard else None
    training = fitting.solve(method, train, val, recipe_of(this.options), log_dir)
    seconds["fit"] = time.perf_counter() - begin
    return training


def _calibrate(this: Run, classifier: Classifier, support: Support, left: list[Item]) -> None:
    o = this.options
    if o.calibrate:
        calibration.fit_temperature(classifier, support, this.cache)
    if o.conformal is not None:
        calibration.fit_sets(classifier, left, o.conformal, this.cache)


def _measure(
    this: Run, classifier: Classifier, seconds: dict[str, float]
) -> tuple[Evaluation, dict[str, Evaluation]]:
    begin, o, others = time.perf_counter(), this.options, {}
    more = find_metrics(o.metrics)
    test = this.dataset.test
    measured = classification.measure_beside_zero_shot(classifier, test, this.cache, more=more)
    for name, dataset in this.others.items():
        task = dataset.task(prompts=o.prompts, shots=o.shots, seed=o.seed)
        moved = classifier.for_task(task, this.config.method_options)
        others[name] = protocols.measure_other(moved, dataset, this.cache, more)
    seconds["evaluate"] = time.perf_counter() - begin
    return measured, others


def _write(
    done: Started,
    classifier: Classifier,
    trained: Trained,
    measured: Evaluation,
    others: dict[str, Evaluation],
) -> Classifier:
    this, method, support = done.this, classifier.method, done.support
    facts, classes = measured.facts(), this.dataset.classes
    left = calibration.list_rows(done.left, classes) if done.left else None
    return folder.write(
        this,
        method,
        manifest=write_manifest(support.manifest(classes)),
        measured={
            **facts,
            **protocols.describe_protocol(this.options.protocol, measured, others),
            "temperature": classifier.temperature,
        },
        facts={
            **({"guard": classifier.guard} if this.options.guard else {}),
            "n_support": len(support.train),
            "notes": support.notes + facts["notes"],
            "curve": curve_of(trained.curve),
            **({"side_by_side": trained.runs} if trained.runs > 1 else {}),
            **({"choice": this.choice} if this.choice else {}),
            "learned": [asdict(table) for table in method.tables()],
        },
        seconds=done.seconds,
        files={
            "predictions.csv": classification.write_predictions(
                measured.probabilities, measured.items, measured.classes
            ),
            "calibration.jsonl": None if left is None else write_manifest(left),
        },
        guard=classifier.guard,
        temperature=classifier.temperature,
        conformal=classifier.conformal,
    )
