"""One run: config > data > method > fit > evaluate > delta."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip_adapt import cli, delta, evaluation, features, images, locks, modelcard, report, selection
from clip_adapt.backbone import Backbone
from clip_adapt.classifier import Classifier
from clip_adapt.config import Config, RunOptions
from clip_adapt.data import Dataset, Item, Support, write_manifest
from clip_adapt.errors import InputError, listed
from clip_adapt.features import FeatureCache
from clip_adapt.files import require_writable, write_text
from clip_adapt.images import Augment
from clip_adapt.machine import peak_memory
from clip_adapt.method import Method
from clip_adapt.pixels import Pixels
from clip_adapt.shared import Shared
from clip_adapt.trainer import Examples, Recipe, train

log = logging.getLogger(__name__)

METRICS = "metrics.json"
Curve = dict[str, list[float]]  # loss, accuracy, lr, perhaps val_accuracy: a number an epoch


@dataclass
class Run:
    """What one run has at hand, from the checked configuration on."""

    config: Config
    folder: Path
    backbone: Backbone
    dataset: Dataset
    cache: FeatureCache
    choice: dict[str, Any] | None = None

    @classmethod
    def prepare(cls, config: Config, shared: Shared) -> Run:
        """Load the backbone and the data set; refuse what cannot work before anything is written.

        Raises:
            InputError: with the reason and the remedy.
        """
        o = config.options
        cache = shared.cache(o)
        dataset = shared.dataset(config.dataset, o)
        backbone = shared.backbone(config.model, o)
        return cls(config, output_folder(config), backbone, dataset, cache)

    @property
    def options(self) -> RunOptions:
        """The general options."""
        return self.config.options

    def make_method(self) -> Method:
        """Return the method before training.

        Raises:
            InputError: when one of its options cannot work with this backbone or these classes.
        """
        o = self.options
        task = self.dataset.task(prompts=o.prompts, shots=o.shots, seed=o.seed)
        torch.manual_seed(o.seed)
        try:
            made = self.config.method.cls(self.backbone, task, **self.config.method_options)
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"method {self.config.method.name}: {error}") from error
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
    method = None if config.candidates else this.make_method()
    notes = _readable(this)
    support = this.dataset.few_shot(config.options.shots, config.options.seed)
    support.notes[:0] = notes
    for note in support.notes:
        log.warning(note)
    seconds: dict[str, float] = {}
    with _whole_or_not_at_all(this.folder):
        if method is None:
            this.choose(support, seconds)
            method = this.make_method()
        z = _features(this, method, support, seconds)
        curve = _fit(this, method, support, z, seconds)
        result, probabilities = _measure(this, method, seconds)
        seconds["total"] = time.perf_counter() - start
        return _write(this, method, support, result, curve, probabilities, seconds)


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
    name = f"{config.method.name}-{model}-{o.shots}shot-seed{o.seed}"
    return Path("runs") / config.dataset.name / name


def _readable(this: Run) -> list[str]:
    # Every image is decoded once before anything is drawn, trained or written, so that all
    # unreadable ones are known together. Nothing is learned from the test images here.
    o = this.options
    reasons = this.dataset.broken(cache_dir=o.cache_dir)
    if o.on_bad_image == "error":
        images.refuse_broken(reasons)
    this.dataset = this.dataset.without(reasons)
    listing = listed(f"{path}: {reason}" for path, reason in reasons.items())
    return [f"{len(reasons)} images cannot be read and are left out:\n{listing}"] * bool(reasons)


def _features(
    this: Run, method: Method, support: Support, seconds: dict[str, float]
) -> dict[str, Tensor]:
    begin = time.perf_counter()
    o = this.options
    trains = bool(o.epochs_at(o.shots)) and bool(method.trainable())
    solves = type(method).fit is not Method.fit
    wanted = support.train if solves or (trains and not method.tunes_image_tower) else []
    z = features.extract(
        this.backbone,
        [i.path for i in wanted],
        this.cache,
        views=o.views,
        augment=o.augment,
        label="support features",
    )
    needs_val = solves or o.select == "val"
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
) -> Curve:
    begin = time.perf_counter()
    o, device = this.options, this.backbone.device
    labels = {s: torch.tensor([i.label for i in getattr(support, s)]) for s in ("train", "val")}
    if len(z["val"]):
        method.validation = (z["val"][:, 0].to(device), labels["val"].to(device))
    if type(method).fit is not Method.fit:
        mean = torch.nn.functional.normalize(z["train"].mean(1), dim=-1)
        method.fit(mean.to(device), labels["train"].to(device))
    examples = {
        "train": _examples(this, method, support.train, z["train"], labels["train"], o.augment),
        "val": _examples(this, method, support.val, z["val"], labels["val"], "none"),
    }
    recipe = _recipe(o)
    log_dir = this.folder if o.tensorboard else None
    for old in this.folder.glob("events.out.tfevents.*"):
        old.unlink()
    rows = train(method, examples["train"], recipe, val=examples["val"], log_dir=log_dir)
    seconds["fit"] = time.perf_counter() - begin
    return {name: [float(f"{row[name]:.5g}") for row in rows] for name in (rows or [{}])[0]}


def _examples(
    this: Run, method: Method, items: list[Item], z: Tensor, labels: Tensor, augment: Augment
) -> Examples:
    if not method.tunes_image_tower:
        return Examples(z, labels if len(z) else labels[:0])
    return Examples(Pixels(this.backbone, items, augment), labels)


def _recipe(o: RunOptions) -> Recipe:
    names = {f.name for f in fields(Recipe)} - {"epochs"}
    return Recipe(epochs=o.epochs_at(o.shots), **{name: getattr(o, name) for name in names})


def _measure(this: Run, method: Method, seconds: dict[str, float]) -> tuple[dict[str, Any], Tensor]:
    begin = time.perf_counter()
    test = this.dataset.test
    result, probabilities = evaluation.beside_zero_shot(Classifier(method), test, this.cache)
    seconds["evaluate"] = time.perf_counter() - begin
    return result, probabilities


def _write(
    this: Run,
    method: Method,
    support: Support,
    result: dict[str, Any],
    curve: Curve,
    probabilities: Tensor,
    seconds: dict[str, float],
) -> Classifier:
    config, folder, classes = this.config, this.folder, this.dataset.classes
    test = this.dataset.test
    manifest = write_manifest(support.manifest(classes))
    header = delta.describe(
        config.method,
        config.method_options,
        method,
        dataset=this.dataset.name,
        metrics=result,
        support_sha256=hashlib.sha256(manifest.encode()).hexdigest(),
    )
    text = config.to_yaml()
    card = modelcard.write(header, config.dataset.licence, text.splitlines()[0].lstrip("# "))
    file = delta.save(folder / "adapter", method, header, card)
    metrics = {
        **result,
        "seconds": {name: round(s, 3) for name, s in seconds.items()},
        "trainable_parameters": sum(t.numel() for t in method.state_dict().values()),
        "adapter_bytes": file.stat().st_size,
        "peak_memory_bytes": peak_memory(this.backbone.device),
        "n_test": len(test),
        "n_support": len(support.train),
        "notes": support.notes,
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
    write_text(folder / "predictions.csv", evaluation.predictions_csv(probabilities, test, classes))
    if this.options.report:
        report.write(folder, metrics)
    write_text(folder / METRICS, json.dumps(metrics, indent=1) + "\n")
    classifier = Classifier(method, header)
    classifier.folder, classifier.metrics = folder, metrics
    return classifier
