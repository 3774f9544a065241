"""What a run has at hand before its method is trained: backbone, data, subsets, the method."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from clip_adapt.adapted import conformal
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config.run_options import RunOptions
from clip_adapt.data import catalog, decoding
from clip_adapt.data.dataset import Dataset
from clip_adapt.data.items import Item, Support
from clip_adapt.data.leaks import Twin
from clip_adapt.errors import InputError, listed
from clip_adapt.evaluation import calibration, protocols
from clip_adapt.inputs.features import FeatureCache
from clip_adapt.method.contract import Method
from clip_adapt.runs import selection
from clip_adapt.runs.configuration import Config
from clip_adapt.runs.folder import output_folder
from clip_adapt.runs.shared import Shared
from clip_adapt.training.recipe import Recipe


@dataclass
class Run:
    """What one run has at hand, from the checked configuration on.

    Attributes:
        dataset: the classes that are trained.
        pool: the whole data set, which support and calibration images are drawn from.
        others: what the trained part is measured on besides, by name.
        aside: labelled images that the user set aside for ``conformal``; None takes them from pool.
    """

    config: Config
    folder: Path
    backbone: Backbone
    dataset: Dataset
    cache: FeatureCache
    pool: Dataset
    others: dict[str, Dataset] = field(default_factory=dict)
    aside: list[Item] | None = None
    twins: list[Twin] = field(default_factory=list)
    choice: dict[str, Any] | None = None
    most: int = 0  # support images in the largest class, known once they are drawn

    @classmethod
    def prepare(cls, config: Config, shared: Shared) -> Run:
        """Load the backbone and the data set; refuse what cannot work before anything is written.

        Raises:
            InputError: with the reason and the remedy.
        """
        o = config.options
        pool = shared.dataset(config.dataset, o)
        dataset, others = pool, {}
        if o.protocol == "base_to_new":
            dataset, others["new"] = protocols.split_classes(pool)
        for name in [o.test_on] if isinstance(o.test_on, str) else o.test_on or []:
            other = shared.dataset(catalog.find_dataset(name), o)
            others[other.name] = other
        aside = None
        if isinstance(o.calibration, str):
            there = shared.dataset(catalog.find_dataset(o.calibration), o)
            aside = calibration.list_set_aside(dataset, there)
        backbone, cache = shared.backbone(config.model, o), shared.cache(o)
        return cls(config, output_folder(config), backbone, dataset, cache, pool, others, aside)

    @property
    def options(self) -> RunOptions:
        """The general options."""
        return self.config.options

    def check_images(self) -> list[str]:
        """Take unreadable images out, look for leaks; return what is to be told about them.

        Raises:
            InputError: when images cannot be read and ``on_bad_image=error``.
        """
        # Every image is decoded once before anything is drawn, trained or written, so that all
        # unreadable ones and all leaks are known together. No test image is learned from here.
        o = self.options
        survey = self.pool.survey(cache_dir=o.cache_dir)
        reasons = dict(survey.broken)
        for dataset in (d for d in self.others.values() if d.card != self.pool.card):
            reasons |= dataset.survey(cache_dir=o.cache_dir).broken
        reasons |= decoding.find_broken(item.path for item in self.aside or [])
        if o.on_bad_image == "error":
            decoding.refuse_broken(reasons)
        self.pool, self.dataset = self.pool.without(reasons), self.dataset.without(reasons)
        self.others = {name: other.without(reasons) for name, other in self.others.items()}
        listing = listed(f"{path}: {reason}" for path, reason in reasons.items())
        skipped = f"{len(reasons)} images cannot be read and are left out:\n{listing}"
        notes, self.twins = self.pool.check(survey)
        return [skipped] * bool(reasons) + notes

    def draw(self) -> tuple[Support, list[Item]]:
        """Return the support set, and the images that ``conformal`` calibrates on.

        Raises:
            InputError: when what calibrating needs is not there, or was used otherwise.
        """
        o = self.options
        support = self.pool.few_shot(o.shots, o.seed, o.sampling)
        left: list[Item] = []
        if o.protocol == "base_to_new":
            support = protocols.keep_classes(support, len(self.dataset.classes))
        if o.calibrate:
            calibration.require_val(support)
        if o.conformal is not None:
            count = o.calibration if isinstance(o.calibration, int) else None
            left = calibration.draw_images(self.aside or self.dataset.train, support, count, o.seed)
            if self.aside is not None:
                calibration.require_unused(self.aside, left)
            conformal.require_enough(len(left), o.conformal)
        return support, left

    def make_method(self) -> Method:
        """Return the method before training.

        Raises:
            InputError: when one of its options cannot work with this backbone or these classes.
        """
        o = self.options
        shots = 0 if o.objective == "contrastive" else max(o.shots, self.most)
        task = self.dataset.task(prompts=o.prompts, shots=shots, seed=o.seed)
        torch.manual_seed(o.seed)
        try:
            made = self.config.method.cls(self.backbone, task, **self.config.method_options)
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"method {self.config.method.name}: {error}") from error
        if self.others:
            protocols.require_transfer(made, self.config.method.name, o.protocol)
        return made.to(self.backbone.device)

    def choose(self, support: Support, seconds: dict[str, float]) -> None:
        """Put the best of the candidates in the place of ``method=auto``."""
        begin, config = time.perf_counter(), self.config
        choice = selection.choose(
            config.candidates,
            support,
            self.backbone,
            self.cache,
            lambda candidate: replace(self, config=candidate).make_method(),
            recipe_of,
        )
        self.config, self.choice = replace(choice.config, given=config.given), choice.facts
        seconds["choose"] = time.perf_counter() - begin


def recipe_of(o: RunOptions) -> Recipe:
    """Return how a method is trained."""
    names = {f.name for f in fields(Recipe)} - {"epochs"}
    values = {name: getattr(o, name) for name in names}
    return Recipe(epochs=o.epochs_at(o.shots), **values)
