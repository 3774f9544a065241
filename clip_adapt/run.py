"""One run: config > data > method > fit > evaluate > delta."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip_adapt import (
    calibration,
    cards,
    cli,
    conformal,
    delta,
    evaluation,
    features,
    fitting,
    images,
    leaks,
    locks,
    modelcard,
    protocol,
    report,
    selection,
)
from clip_adapt.backbone import Backbone
from clip_adapt.classifier import Classifier
from clip_adapt.config import Config, RunOptions
from clip_adapt.data import Dataset, Item, Support, write_manifest
from clip_adapt.errors import InputError, listed
from clip_adapt.evaluation import Evaluation
from clip_adapt.features import FeatureCache
from clip_adapt.files import require_writable, write_text
from clip_adapt.fitting import Part
from clip_adapt.leaks import Twin
from clip_adapt.machine import peak_memory
from clip_adapt.method import Method
from clip_adapt.pixels import Pixels
from clip_adapt.shared import Shared
from clip_adapt.trainer import Recipe, curve_of
from clip_adapt.views import Augment

log = logging.getLogger(__name__)

METRICS = "metrics.json"
Curve = dict[str, list[float]]  # loss, accuracy, lr, perhaps val_accuracy: a number an epoch


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
            dataset, others["new"] = protocol.halves(pool)
        for name in [o.test_on] if isinstance(o.test_on, str) else o.test_on or []:
            other = shared.dataset(cards.find_dataset(name), o)
            others[other.name] = other
        aside = None
        if isinstance(o.calibration, str):
            there = shared.dataset(cards.find_dataset(o.calibration), o)
            aside = calibration.set_aside(dataset, there)
        backbone, cache = shared.backbone(config.model, o), shared.cache(o)
        return cls(config, output_folder(config), backbone, dataset, cache, pool, others, aside)

    @property
    def options(self) -> RunOptions:
        """The general options."""
        return self.config.options

    def draw(self) -> tuple[Support, list[Item]]:
        """Return the support set, and the images that ``conformal`` calibrates on.

        Raises:
            InputError: when what calibrating needs is not there, or was used otherwise.
        """
        o = self.options
        support = self.pool.few_shot(o.shots, o.seed, o.sampling)
        left: list[Item] = []
        if o.protocol == "base_to_new":
            support = protocol.of_classes(support, len(self.dataset.classes))
        if o.calibrate:
            calibration.require_val(support)
        if o.conformal is not None:
            count = o.calibration if isinstance(o.calibration, int) else None
            left = calibration.draw(self.aside or self.dataset.train, support, count, o.seed)
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
            protocol.require_transfer(made, self.config.method.name, o.protocol)
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
            _recipe,
        )
        self.config, self.choice = replace(choice.config, given=config.given), choice.facts
        seconds["choose"] = time.perf_counter() - begin


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
    start = time.perf_counter()
    this = Run.prepare(config, shared or Shared())
    if config.options.objective == "contrastive":
        from clip_adapt import contrastive_run  # it builds on what stands here

        return contrastive_run.run(this, start)
    method = None if config.candidates else this.make_method()
    notes = _readable(this)
    support, left = this.draw()
    this.most = max(Counter(item.label for item in support.train).values())
    if method is not None and this.most > config.options.shots:
        method = this.make_method()  # sampling=natural and all give some classes more than shots
    support.notes[:0] = notes
    for note in support.notes:
        log.warning(note)
    seconds: dict[str, float] = {}
    with _whole_or_not_at_all(this.folder):
        if method is None:
            this.choose(support, seconds)
            method = this.make_method()
        z = _features(this, method, support, seconds)
        classifier = Classifier(method)
        curve, classifier.guard = _fit(this, method, support, z, seconds)
        _calibrate(this, classifier, support, left)
        measured, others = _measure(this, classifier, seconds)
        seconds["total"] = time.perf_counter() - start
        return _write(this, classifier, support, left, curve, measured, others, seconds)


@contextlib.contextmanager
def _whole_or_not_at_all(folder: Path) -> Iterator[None]:
    # A run that fails or is interrupted leaves no folder behind, unless one was there before.
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        with locks.held(folder / locks.NAME, f"the output folder {folder}"):
            try:
                require_writable(folder)
                yield
            except BaseException:
                # While the lock is held: afterwards the folder could be another process's.
                if folder in new:
                    shutil.rmtree(folder, ignore_errors=True)
                raise
    except BaseException:
        for place in new:
            with contextlib.suppress(OSError):
                place.rmdir()
        raise


def output_folder(config: Config) -> Path:
    """Return where a run's files go."""
    o = config.options
    if o.output is not None:
        return Path(o.output).expanduser()
    model = config.model.name.replace("/", "-")
    shots = {"coop": f"{o.shots}shot", "natural": f"{o.shots}shot-natural", "all": "all"}
    drawn = "captions" if o.objective == "contrastive" else shots[o.sampling]
    name = f"{config.method.name}-{model}-{drawn}-seed{o.seed}"
    if o.protocol != "few_shot":
        name += f"-{o.protocol}"
    return Path("runs") / config.dataset.name / name


def _readable(this: Run) -> list[str]:
    # Every image is decoded once before anything is drawn, trained or written, so that all
    # unreadable ones and all leaks are known together. Nothing is learned from test images here.
    o = this.options
    survey = this.pool.survey(cache_dir=o.cache_dir)
    reasons = dict(survey.broken)
    for dataset in (d for d in this.others.values() if d.card != this.pool.card):
        reasons |= dataset.survey(cache_dir=o.cache_dir).broken
    reasons |= images.find_broken(item.path for item in this.aside or [])
    if o.on_bad_image == "error":
        images.refuse_broken(reasons)
    this.pool, this.dataset = this.pool.without(reasons), this.dataset.without(reasons)
    this.others = {name: other.without(reasons) for name, other in this.others.items()}
    listing = listed(f"{path}: {reason}" for path, reason in reasons.items())
    skipped = f"{len(reasons)} images cannot be read and are left out:\n{listing}"
    notes, this.twins = this.pool.check(survey)
    return [skipped] * bool(reasons) + notes


def _features(
    this: Run, method: Method, support: Support, seconds: dict[str, float]
) -> dict[str, Tensor]:
    begin = time.perf_counter()
    o = this.options
    trains = o.trains and bool(method.trainable())
    solves = type(method).fit is not Method.fit
    on_features = solves or (trains and not method.tunes_image_tower)
    by_folds = o.guard and not support.val
    wanted = support.train if on_features or by_folds else []
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


def _fit(
    this: Run,
    method: Method,
    support: Support,
    z: dict[str, Tensor],
    seconds: dict[str, float],
) -> tuple[Curve, float]:
    begin = time.perf_counter()
    o = this.options
    train = _part(this, method, support.train, z["train"], o.augment)
    val = _part(this, method, support.val, z["val"], "none")
    recipe = _recipe(o)
    for old in this.folder.glob("events.out.tfevents.*"):
        old.unlink()
    rows = fitting.fit(method, train, val, recipe, this.folder if o.tensorboard else None)
    weight = 0.0
    if o.guard and method.state_dict():
        weight = fitting.guard_weight(method, this.make_method, train, val, recipe)
    seconds["fit"] = time.perf_counter() - begin
    return curve_of(rows), weight


def _part(this: Run, method: Method, items: list[Item], z: Tensor, augment: Augment) -> Part:
    labels = torch.tensor([item.label for item in items], dtype=torch.long)
    pixels = Pixels(this.backbone, items, augment) if method.tunes_image_tower else None
    return Part(z, labels, pixels)


def _recipe(o: RunOptions) -> Recipe:
    names = {f.name for f in fields(Recipe)} - {"epochs"}
    values = {name: getattr(o, name) for name in names}
    return Recipe(epochs=o.epochs_at(o.shots), **values)


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
    measured = evaluation.beside_zero_shot(classifier, this.dataset.test, this.cache)
    for name, dataset in this.others.items():
        task = dataset.task(prompts=o.prompts, shots=o.shots, seed=o.seed)
        moved = classifier.for_task(task, this.config.method_options)
        others[name] = protocol.measure(moved, dataset, this.cache)
    seconds["evaluate"] = time.perf_counter() - begin
    return measured, others


def _write(
    this: Run,
    classifier: Classifier,
    support: Support,
    left: list[Item],
    curve: Curve,
    measured: Evaluation,
    others: dict[str, Evaluation],
    seconds: dict[str, float],
) -> Classifier:
    config, folder, method = this.config, this.folder, classifier.method
    manifest = write_manifest(support.manifest(this.dataset.classes))
    facts = measured.facts()
    header = delta.describe(
        config.method,
        config.method_options,
        method,
        dataset=this.dataset.name,
        guard=classifier.guard,
        temperature=classifier.temperature,
        conformal=classifier.conformal,
        metrics={kind: facts[kind] for kind in ("test", "zero_shot")},
        support_sha256=hashlib.sha256(manifest.encode()).hexdigest(),
    )
    text = config.to_yaml()
    card = modelcard.write(header, config.dataset.licence, text.splitlines()[0].lstrip("# "))
    file = delta.save(folder / "adapter", method, header, card)
    metrics = {
        **facts,
        **protocol.facts(this.options.protocol, measured, others),
        "temperature": classifier.temperature,
        "seconds": {name: round(s, 3) for name, s in seconds.items()},
        "trainable_parameters": sum(t.numel() for t in method.state_dict().values()),
        "adapter_bytes": file.stat().st_size,
        "peak_memory_bytes": peak_memory(this.backbone.device),
        **({"guard": classifier.guard} if this.options.guard else {}),
        "n_support": len(support.train),
        "notes": support.notes + facts["notes"],
        "versions": header.versions,
        "curve": curve,
        **({"choice": this.choice} if this.choice else {}),
        "learned": [asdict(table) for table in method.tables()],
    }
    # metrics.json says that a run is finished: an old one goes first, the new one comes last.
    for name in (METRICS, cli.PAGE):
        (folder / name).unlink(missing_ok=True)
    write_text(folder / "config.yaml", text)
    write_text(folder / "support.jsonl", manifest)
    (folder / "calibration.jsonl").unlink(missing_ok=True)
    if left:
        rows = calibration.manifest(left, this.dataset.classes)
        write_text(folder / "calibration.jsonl", write_manifest(rows))
    table = evaluation.predictions_csv(measured.probabilities, measured.items, measured.classes)
    write_text(folder / "predictions.csv", table)
    if this.twins:
        write_text(folder / leaks.FILE, leaks.table(this.twins))
    if this.options.report:
        report.write(folder, metrics)
    write_text(folder / METRICS, json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    done = Classifier(method, header)
    done.folder, done.metrics = folder, metrics
    return done
