"""Classes: a method learns to tell labelled images apart, and is measured beside zero-shot CLIP.

    loss = mean cross entropy of the logits, with the run's class balance and smoothing

Afterwards, where it is asked for: a guard mixes in zero-shot, a temperature calibrates the
probabilities, thresholds give sets of classes; each on images that nothing was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from clip_adapt.adapted import conformal
from clip_adapt.adapted.classifier import Classifier
from clip_adapt.config.cards import DataCard
from clip_adapt.config.run_options import RunOptions
from clip_adapt.data.dataset import Dataset
from clip_adapt.data.items import Item, format_manifest
from clip_adapt.errors import InputError
from clip_adapt.evaluation import calibration, classification, deltas, protocols
from clip_adapt.evaluation.classification import Evaluation
from clip_adapt.evaluation.deltas import DeltaTest
from clip_adapt.evaluation.finding import find_metrics, list_shipped
from clip_adapt.evaluation.quantities import Quantity
from clip_adapt.inputs import features
from clip_adapt.inputs.pixels import Pixels
from clip_adapt.inputs.views import Augment
from clip_adapt.method.contract import Method
from clip_adapt.objectives._contract import Data, Draw, Objective, Outcome, Run
from clip_adapt.pages import run_page
from clip_adapt.pages.facts import Facts
from clip_adapt.system.run_files import CALIBRATION, PREDICTIONS
from clip_adapt.training import fitting
from clip_adapt.training.fitting import Part, Trained, Training


class Classify(Objective):
    """Learning classes."""

    measures_deltas = True
    fixed: ClassVar = {"dedup": (True, "images with classes are not pairs")}

    def find_problems(self, options: Mapping[str, Any], card: DataCard | None) -> list[str]:
        """Return what does not fit, metrics that cannot be had among it."""
        problems = super().find_problems(options, card)
        try:
            find_metrics(options["metrics"])
        except InputError as error:
            problems += str(error).splitlines()
        return problems

    def list_metrics(self, o: RunOptions) -> Sequence[Quantity]:
        """Return the metrics that ship, and those of ``metrics=``."""
        return [*list_shipped(), *find_metrics(o.metrics)]

    def name_datasets(self, o: RunOptions) -> list[str]:
        """Return the data sets of ``test_on``, and the one that is calibrated on."""
        return [
            *_list_test_sets(o),
            *([o.conformal_images] if isinstance(o.conformal_images, str) else []),
        ]

    def load_data(self, o: RunOptions, dataset: Dataset, load: Callable[[str], Dataset]) -> Data:
        """Return the data sets: base and new classes apart, and those of ``test_on``."""
        pool, others = dataset, {}
        if o.protocol == "base_to_new":
            dataset, others["new"] = protocols.split_classes(pool)
        for name in _list_test_sets(o):
            other = load(name).to_measure()
            others[other.name] = other
        set_aside = None
        if isinstance(o.conformal_images, str):
            set_aside = calibration.list_set_aside(dataset, load(o.conformal_images))
        return Data(dataset, pool, others, set_aside)

    def draw(self, o: RunOptions, data: Data) -> Draw:
        """Draw the support set, and the images that ``conformal`` calibrates on."""
        support = data.pool.few_shot(o.shots, o.seed, o.sampling)
        if o.protocol == "base_to_new":
            support = protocols.keep_classes(support, len(data.dataset.classes))
        drawn: list[Item] = []
        weights: list[float] = []
        if o.calibrate:
            calibration.require_val(support)
        if o.conformal is not None:
            count = o.conformal_images if isinstance(o.conformal_images, int) else None
            pool = data.set_aside or data.dataset.train
            left = calibration.list_unused(pool, support)
            calibration.require_left(pool, left)
            if data.set_aside is not None:
                calibration.require_unused(data.set_aside, left)
            else:
                weights, told = calibration.compare_shares(pool, left, data.dataset.classes)
                support = replace(support, notes=[*support.notes, *told])
            drawn = calibration.draw_images(left, count, o.seed)
            conformal.require_enough(len(drawn), o.conformal)
        return Draw(support, drawn, support.count_largest(), weights=weights)

    def require_fit(self, run: Run, method: Method, name: str) -> None:
        """Refuse a method that is tied to its classes where others are measured."""
        if run.data.others:
            protocols.require_transfer(method, name, run.options.protocol)

    def solve(self, run: Run, method: Method) -> Training:
        """Extract the features that the method needs, and let it solve what it solves at once."""
        o, support = run.options, run.draw.support
        with run.clock.count("features"):
            z_train, z_val = _extract(run, method)
        with run.clock.count("fit"):
            train = _make_part(run, method, support.train, z_train, o.augment)
            val = _make_part(run, method, support.val, z_val, "none")
            return fitting.solve(method, train, val, run.recipe, run.clear_events())

    def settle(self, run: Run, training: Training) -> tuple[Classifier, Sequence[str]]:
        """Choose the guard, calibrate."""
        with run.clock.count("fit"):
            guard = _choose_guard(run, training)
        return _calibrate(run, Classifier(training.method, guard=guard))

    def finish(self, run: Run, training: Training, trained: Trained) -> Outcome:
        """Choose the guard, calibrate, measure."""
        classifier, notes = self.settle(run, training)
        with run.clock.count("evaluate"):
            measured, others = _measure(run, classifier)
        facts = measured.facts()
        told = [*notes, *facts.pop("notes")]
        return Outcome(
            classifier,
            measured={
                **facts,
                **protocols.describe_protocol(run.options.protocol, measured, others),
                "temperature": classifier.temperature,
            },
            facts={"guard": classifier.guard} if run.options.guard else {},
            notes=told,
            files=_list_files(run, measured),
        )

    def measure_deltas(self, test: DeltaTest) -> tuple[dict[str, Any], dict[str, str]]:
        """Classify the test images with each delta."""
        return deltas.measure_classes(test)

    def render_page(self, facts: Facts) -> str:
        """Return the page: numbers, confusions, calibration, mistakes, support images."""
        return run_page.render(facts)


def _list_test_sets(o: RunOptions) -> list[str]:
    return [o.test_on] if isinstance(o.test_on, str) else list(o.test_on or [])


def _extract(run: Run, method: Method) -> tuple[Tensor, Tensor]:
    # Features of the support set and of val (N, V, D); none where nothing asks for them.
    o, support = run.options, run.draw.support
    trains = o.trains and bool(method.trainable())
    on_features = method.solves or (trains and not method.tunes_image_tower)
    z_train = features.extract(
        run.backbone,
        [item.path for item in support.train if on_features],
        run.cache,
        views=o.views,
        augment=o.augment,
        label="support features",
    )
    needs_val = method.solves or o.guard or o.select == "val"
    val = [item.path for item in support.val if needs_val]
    return z_train, features.extract(run.backbone, val, run.cache, label="val features")


def _make_part(
    run: Run, method: Method, items: Sequence[Item], z: Tensor, augment: Augment
) -> Part:
    labels = torch.tensor([item.label for item in items], dtype=torch.long)
    pixels = Pixels(run.backbone, list(items), augment) if method.tunes_image_tower else None
    return Part(z, labels, pixels)


def _choose_guard(run: Run, training: Training) -> float:
    # Without val the support set is judged by folds, in the centre view of its images.
    method, support = training.method, run.draw.support
    if not run.options.guard or not method.state_dict():
        return 0.0
    items = [] if support.val else support.train
    paths = [item.path for item in items]
    z = features.extract(run.backbone, paths, run.cache, label="centre views")
    centre = _make_part(run, method, items, z, "none")
    assert training.parts is not None, "solve keeps them"
    train, val = training.parts
    return fitting.guard_weight(method, run.make_method, train, centre, val, training.recipe)


def _calibrate(run: Run, classifier: Classifier) -> tuple[Classifier, list[str]]:
    o, notes = run.options, list[str]()
    if o.calibrate:
        classifier, notes = calibration.fit_temperature(classifier, run.draw.support.val, run.cache)
    if o.conformal is not None:
        draw = run.draw
        classifier = calibration.fit_sets(
            classifier, draw.calibration, o.conformal, run.cache, draw.weights
        )
    return classifier, notes


def _measure(run: Run, classifier: Classifier) -> tuple[Evaluation, dict[str, Evaluation]]:
    o, others, test = run.options, {}, run.data.dataset.test
    more = find_metrics(o.metrics)
    measured = classification.measure_beside_zero_shot(classifier, test, run.cache, more=more)
    for name, dataset in run.data.others.items():
        task = dataset.task(prompts=o.prompts, shots=o.shots, seed=o.seed)
        others[name] = protocols.measure_other(classifier.for_task(task), dataset, run.cache, more)
    return measured, others


def _list_files(run: Run, measured: Evaluation) -> dict[str, str | None]:
    left = run.draw.calibration
    rows = calibration.list_rows(left, run.data.dataset.classes) if left else None
    return {
        PREDICTIONS: classification.write_predictions(
            measured.probabilities, measured.items, measured.classes
        ),
        CALIBRATION: None if rows is None else format_manifest(rows),
    }
