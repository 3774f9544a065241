"""What an objective says: what it asks of the data, what is learned, what is measured, which page.

A run is one pipeline, whatever is learned:

    config > data > draw > method > features > fit > evaluate > delta

An objective is asked at each of these words; nothing else knows which one is at work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from clip_adapt.adapted.classifier import Classifier
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config.cards import DataCard
from clip_adapt.config.run_options import RunOptions
from clip_adapt.data.dataset import Dataset
from clip_adapt.data.items import Item, Support
from clip_adapt.data.task import Task
from clip_adapt.evaluation.deltas import DeltaTest
from clip_adapt.evaluation.quantities import Quantity
from clip_adapt.inputs.features import FeatureCache
from clip_adapt.method.contract import Method
from clip_adapt.pages import plain_page
from clip_adapt.pages.facts import Facts
from clip_adapt.system.clock import Clock
from clip_adapt.system.run_files import UNFINISHED
from clip_adapt.training.fitting import Trained, Training
from clip_adapt.training.recipe import Recipe


@dataclass(frozen=True)
class Data:
    """The data sets of a run.

    Attributes:
        dataset: what is trained and tested on.
        pool: what support and calibration images are drawn from.
        others: what the trained part is measured on besides, by name.
        set_aside: labelled images that the user set aside for calibration; None takes the pool's.
    """

    dataset: Dataset
    pool: Dataset
    others: Mapping[str, Dataset] = field(default_factory=dict)
    set_aside: Sequence[Item] | None = None

    def without(self, broken: Iterable[str]) -> Data:
        """Return the data without the images at these paths.

        Raises:
            InputError: when too little is left.
        """
        gone = set(broken)
        return replace(
            self,
            dataset=self.dataset.without(gone),
            pool=self.pool.without(gone),
            others={name: other.without(gone) for name, other in self.others.items()},
            set_aside=self.set_aside and [i for i in self.set_aside if i.path not in gone],
        )


@dataclass(frozen=True)
class Draw:
    """The images that a run learns from.

    Attributes:
        support: what the method is trained and chosen on.
        calibration: what is calibrated on afterwards, and used for nothing else.
        unlabelled: what is learned from without labels.
        shots: images of the largest class; 0 where there are no classes.
        weights: how much a calibration image of each class counts; nothing when all count alike.
    """

    support: Support
    calibration: Sequence[Item] = ()
    shots: int = 0
    unlabelled: Sequence[Item] = ()
    weights: Sequence[float] = ()

    def by_role(self) -> dict[str, Sequence[Item]]:
        """Return the images by what they are for: none of them may be tested on."""
        return {
            "train": self.support.train,
            "val": self.support.val,
            "calibration": self.calibration,
            "unlabelled": self.unlabelled,
        }


@dataclass(frozen=True)
class Run:
    """What a run has at hand once its images are drawn.

    Attributes:
        options: the general options.
        backbone: the frozen towers.
        cache: where features are kept.
        data: its data sets.
        draw: what was drawn.
        make_method: gives a method like the run's, before training.
        folder: where its files go.
        clock: what its parts take.
    """

    options: RunOptions
    backbone: Backbone
    cache: FeatureCache
    data: Data
    draw: Draw
    make_method: Callable[[], Method]
    folder: Path
    clock: Clock

    @property
    def recipe(self) -> Recipe:
        """How the method is trained."""
        return make_recipe(self.options)

    def clear_events(self) -> Path | None:
        """Return where new TensorBoard files go, away from old ones; None when none are wanted."""
        return self.folder / UNFINISHED if self.options.tensorboard else None


@dataclass(frozen=True)
class Outcome:
    """What a finished training comes to.

    Attributes:
        classifier: the adapted CLIP, with everything that was fitted after training.
        measured: what metrics.json says of the test images; ``test`` and ``zero_shot`` (name ->
            {"value", "low", "high"}) and ``n_test`` at least.
        facts: what else metrics.json says.
        notes: what a reader of the numbers should know.
        files: what else is written, by name; None takes a file away that was there before.
    """

    classifier: Classifier
    measured: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    files: Mapping[str, str | None] = field(default_factory=dict)


class Objective:
    """What is learned. A file of objectives/, or one of a user's own, defines one subclass.

    Attributes:
        gives: what the source must give its images: ``classes`` or ``captions``.
        headline: the metric that a sweep shows.
        fixed: options that must keep a value, each with that value and the reason.
        unused: options that play no part, each with what to tell a user who gives it.
        recipe: general options in place of a method's own recipe, for an objective that has no
            file in configs/objective; None leaves the method's.
        measures_deltas: whether ``evaluate`` asks this one to measure deltas on data of its kind.
    """

    gives: ClassVar[Literal["classes", "captions"]] = "classes"
    headline: ClassVar[str] = "accuracy"
    fixed: ClassVar[Mapping[str, tuple[Any, str]]] = {}
    unused: ClassVar[Mapping[str, str]] = {}
    recipe: ClassVar[Mapping[str, Any] | None] = None
    measures_deltas: ClassVar[bool] = False

    def find_problems(self, options: Mapping[str, Any], card: DataCard | None) -> list[str]:
        """Return a line for each checked option that does not fit.

        Args:
            options: the general options by name.
            card: of the data set; None when it could not be read.
        """
        return [
            f"{key}={options[key]} cannot be used with objective={options['objective']}: {reason}"
            for key, (neutral, reason) in self.fixed.items()
            if options[key] != neutral
        ]

    def list_metrics(self, o: RunOptions) -> Sequence[Quantity]:
        """Return what is measured on test images.

        Raises:
            InputError: when a metric that the options name cannot be had.
        """
        raise NotImplementedError

    def name_datasets(self, o: RunOptions) -> list[str]:
        """Return the names or paths of the data sets that are needed besides ``dataset=``."""
        return []

    def describe_draw(self, o: RunOptions) -> str:
        """Return in words what is drawn: ``16 shots``."""
        shots = f"{o.shots} shots"
        drawn = {"coop": shots, "natural": f"{shots} in natural shares", "all": "all images"}
        return drawn[o.sampling]

    def name_draw(self, o: RunOptions) -> str:
        """Return the part of a folder's name that says what is drawn: ``16shot``."""
        drawn = {"coop": f"{o.shots}shot", "natural": f"{o.shots}shot-natural", "all": "all"}
        return drawn[o.sampling]

    def load_data(self, o: RunOptions, dataset: Dataset, load: Callable[[str], Dataset]) -> Data:
        """Return the data sets of a run.

        Args:
            o: the general options.
            dataset: the one that ``dataset=`` names.
            load: loads one of ``name_datasets``.

        Raises:
            InputError: when one of them does not fit.
        """
        return Data(dataset, dataset)

    def draw(self, o: RunOptions, data: Data) -> Draw:
        """Draw the images that are learned from.

        Raises:
            InputError: when there are too few.
        """
        support = data.pool.few_shot(o.shots, o.seed, o.sampling)
        return Draw(support, shots=support.count_largest())

    def make_task(self, o: RunOptions, data: Data, draw: Draw) -> Task:
        """Return what a method is asked."""
        return data.dataset.task(prompts=o.prompts, shots=draw.shots, seed=o.seed)

    def require_fit(self, run: Run, method: Method, name: str) -> None:
        """Refuse a method that cannot learn this, before anything is trained or written.

        Raises:
            InputError: with the reason and what can be used.
        """

    def list_support(self, run: Run) -> list[dict[str, Any]]:
        """Return the rows of support.jsonl: path, sha256, label and split of what was drawn."""
        return run.draw.support.manifest(run.data.dataset.classes)

    def solve(self, run: Run, method: Method) -> Training:
        """Prepare a method up to its training by steps: features, and what is solved at once.

        Raises:
            InputError: when an image cannot be read, or the recipe does not fit the method.
        """
        raise NotImplementedError

    def settle(self, run: Run, training: Training) -> tuple[Classifier, Sequence[str]]:
        """Choose and calibrate on held-out images, once the method is trained; measure nothing.

        Returns:
            the adapted CLIP, and what a reader of its numbers should know.
        """
        return Classifier(training.method), ()

    def finish(self, run: Run, training: Training, trained: Trained) -> Outcome:
        """Choose and calibrate on held-out images, then measure on the test images.

        Raises:
            InputError: when an image cannot be read.
        """
        raise NotImplementedError

    def measure_deltas(self, test: DeltaTest) -> tuple[dict[str, Any], dict[str, str]]:
        """Measure deltas on the test images of any data set; see ``measures_deltas``.

        Returns:
            what metrics.json says, and the other files by name.

        Raises:
            InputError: when a delta does not fit, or an image cannot be read.
        """
        raise NotImplementedError

    def render_page(self, facts: Facts) -> str:
        """Return the page of a finished run as HTML that needs no other file and no network.

        Raises:
            InputError: when a file of the run is damaged.
        """
        return plain_page.render(facts)


def make_recipe(o: RunOptions) -> Recipe:
    """Return how a method is trained, of the general options."""
    values = {f.name: getattr(o, f.name) for f in fields(Recipe) if f.name != "epochs"}
    return Recipe(epochs=o.epochs_at(o.shots), **values)
