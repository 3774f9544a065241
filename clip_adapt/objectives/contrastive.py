"""Captions: an image is told from the others by its captions, and the captions by their images.

The loss is that of training/contrastive.py over a batch of images, each with one of its captions.
Measured is retrieval both ways on captioned images that were held out; retrieval.csv stands in the
place of predictions.csv, and the delta has no classes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch

from clip_adapt.adapted.classifier import Classifier
from clip_adapt.backbone import prompts
from clip_adapt.config.cards import DataCard
from clip_adapt.config.run_options import RunOptions
from clip_adapt.data import scan
from clip_adapt.data.captions import Captions
from clip_adapt.data.dataset import Dataset
from clip_adapt.data.items import Item, Support
from clip_adapt.errors import InputError, list_lines
from clip_adapt.evaluation import retrieval
from clip_adapt.evaluation.deltas import DeltaTest
from clip_adapt.evaluation.quantities import RECALLS, Quantity
from clip_adapt.inputs import features
from clip_adapt.inputs.pixels import Pixels
from clip_adapt.inputs.views import Augment
from clip_adapt.method.contract import Method
from clip_adapt.method.finding import find_method, list_methods
from clip_adapt.objectives._contract import Data, Draw, Objective, Outcome, Run
from clip_adapt.pages import retrieval_page
from clip_adapt.pages.facts import Facts
from clip_adapt.system.files import hash_file
from clip_adapt.system.run_files import RETRIEVAL
from clip_adapt.training.fitting import Part, Trained, Training
from clip_adapt.training.pair_step import PairStep


class Contrastive(Objective):
    """Learning from images with captions."""

    gives = "captions"
    headline = "image_to_text_recall@5"
    measures_deltas = True
    unused: ClassVar = {
        "shots": "draws nothing: captions have no classes, and all training images are used",
    }
    fixed: ClassVar = {
        "class_balanced": (False, "captions have no classes to balance"),
        "label_smoothing": (0.0, "its loss has no class labels to smooth"),
        "guard": (False, "zero-shot classification has no part in it"),
        "calibrate": (False, "there are no class probabilities to calibrate"),
        "conformal": (None, "there are no sets of classes"),
        "protocol": ("few_shot", "captions have no classes to hold back"),
        "prompts": ("templates", "captions have no descriptions besides themselves"),
        "metrics": (None, "they measure probabilities of classes"),
        "iterations_per_shot": (None, "captions have no shots; give the length as epochs=10"),
    }

    def find_problems(self, options: Mapping[str, Any], card: DataCard | None) -> list[str]:
        """Return what does not fit; ``method=auto`` chooses by labels, which captions are not."""
        problems = super().find_problems(options, card)
        if options["method"] == "auto":
            problems.append(
                "method=auto chooses by labels, and captions have none: name one of "
                f"{', '.join(_list_able())}"
            )
        if options["batch_size"] == 1:
            problems.append(
                "batch_size=1 cannot be used with objective=contrastive: a caption is told from "
                "the others of its batch, and one alone teaches nothing. Give at least 2; "
                "method.towers=text needs the least memory"
            )
        return problems

    def list_metrics(self, o: RunOptions) -> Sequence[Quantity]:
        """Return the recalls, both ways."""
        return RECALLS

    def describe_draw(self, o: RunOptions) -> str:
        """Return that everything is used."""
        return "all captions"

    def name_draw(self, o: RunOptions) -> str:
        """Return ``captions``."""
        return "captions"

    def draw(self, o: RunOptions, data: Data) -> Draw:
        """Take all training images, and val where it chooses; captions have no shots."""
        dataset = data.dataset
        if len(dataset.train) < 2:
            raise InputError(
                f"{dataset.name} has {len(dataset.train)} training images with captions: "
                "expected at least two, because each is told from the others"
            )
        for split in ("train", "test"):
            _refuse_one_caption(dataset.parts()[split], split)
        chosen_by = dataset.val if o.select == "val" else []
        return Draw(Support(dataset.train, chosen_by, 0, _note_sizes(o, dataset)))

    def require_fit(self, run: Run, method: Method, name: str) -> None:
        """Refuse a method that captions teach nothing, and captions that are too long for it."""
        if not method.trainable():
            raise InputError(
                f"objective=contrastive has nothing to train with method={name}. Use one of: "
                f"{', '.join(_list_able())}."
            )
        if not method.trains_on_captions:
            raise InputError(
                f"objective=contrastive: what method={name} trains (with these options) belongs "
                "to classes or to their logits, and captions have neither. Use one of: "
                f"{', '.join(_list_able())}."
            )
        if method.penalizes:
            raise InputError(
                f"objective=contrastive: method={name} adds a penalty on class weights, and "
                f"captions have none. Use one of: {', '.join(_list_able())}."
            )
        _require_short(run, method)

    def list_support(self, run: Run) -> list[dict[str, Any]]:
        """Return path, sha256, captions and split of every image that was learned from."""
        support = run.draw.support
        return [
            {
                "path": i.path,
                "sha256": hash_file(i.path),
                "captions": list(i.captions),
                "split": split,
            }
            for split, items in (("train", support.train), ("val", support.val))
            for i in items
        ]

    def solve(self, run: Run, method: Method) -> Training:
        """Extract the features that the method needs; its texts are encoded in the step."""
        o, support = run.options, run.draw.support
        with run.clock.count("features"):
            train, captions = _make_part(run, method, support.train, o.augment, o.views)
            val, val_captions = _make_part(run, method, support.val, "none", 1)
        make_step = functools.partial(
            PairStep, captions=captions, val_captions=val_captions, dedup=o.dedup
        )
        return Training(
            method,
            train.examples,
            run.recipe,
            val.examples,
            run.clear_events(),
            make_step=make_step,
        )

    def finish(self, run: Run, training: Training, trained: Trained) -> Outcome:
        """Measure retrieval on the test images, the frozen backbone beside it."""
        with run.clock.count("evaluate"):
            found = retrieval.measure_beside_zero_shot(
                training.method, run.data.dataset.test, run.cache
            )
        return Outcome(
            Classifier(training.method),
            measured=found.facts(),
            files={RETRIEVAL: retrieval.write_csv(found)},
        )

    def measure_deltas(self, test: DeltaTest) -> tuple[dict[str, Any], dict[str, str]]:
        """Measure retrieval on the test images, with one delta."""
        if test.metrics:
            raise InputError("metrics= measures probabilities of classes, and captions have none")
        if len(test.models) > 1:
            raise InputError(
                f"retrieval is measured for one delta at a time, not {len(test.models)}"
            )
        (model,) = test.models.values()
        items = test.list_test()
        _refuse_one_caption(items, "test")
        found = retrieval.measure_beside_zero_shot(model.method, items, test.cache)
        return {**found.facts(), "notes": []}, {RETRIEVAL: retrieval.write_csv(found)}

    def render_page(self, facts: Facts) -> str:
        """Return the page: recalls, ranks, misses and hits with their images."""
        return retrieval_page.render(facts)


def _refuse_one_caption(items: Sequence[Item], split: str) -> None:
    # Recall is 100 % where there is nothing to choose from, and a loss without negatives is 0.
    texts = {str(text) for item in items for text in item.captions}
    if len(items) > 1 and len(texts) == 1:
        raise InputError(
            f"all {len(items)} images of the {split} split have the caption "
            f"{texts.pop()[:100]!r}, and nothing tells them apart. Write what each shows."
        )


def _note_sizes(o: RunOptions, dataset: Dataset) -> list[str]:
    count, notes = len(dataset.train), []
    if count < o.batch_size:
        notes.append(
            f"{count} training images are fewer than batch_size={o.batch_size}: a batch holds all "
            "of them"
        )
    if count % o.batch_size == 1 and not o.drop_last:
        notes.append(
            "the last batch of every epoch holds one image with its caption, which teaches "
            "nothing: drop_last=true leaves it out"
        )
    if len(dataset.test) == 1:
        notes.append("there is one test image: its captions are found whatever is learned")
    return notes


def _list_able() -> list[str]:
    # The methods that learn from captions.
    classes = {name: find_method(name).cls for name in list_methods()}
    return [n for n, cls in classes.items() if cls.trains_on_captions and not cls.penalizes]


def _require_short(run: Run, method: Method) -> None:
    backbone, room = run.backbone, run.backbone.context_length
    parts = run.data.dataset.parts().values()
    texts = [caption for items in parts for item in items for caption in item.captions]
    lengths = prompts.count_tokens(backbone.tokenizer, list(map(str, texts)), room)
    pairs = list(zip(texts, lengths, strict=True))
    long = [(text, length) for text, length in pairs if length > room]
    if long:
        lines = list_lines(
            f"{_locate(text)}{length} tokens: {text[:60]!r}" for text, length in long
        )
        raise InputError(
            f"{len(long)} captions are longer than the {room} tokens that the text tower of "
            f"{backbone.card.name} takes, start and end included:\n{lines}\nShorten them."
        )
    longest = max(pairs, key=lambda pair: pair[1])[0]
    try:
        with torch.no_grad():  # a method may put tokens of its own before a text
            method.encode_text([str(longest)])
    except InputError as error:
        raise InputError(f"{_locate(longest)}{error}") from error


def _locate(caption: str) -> str:
    line = getattr(caption, "line", None)
    return "" if line is None else f"line {line}: "


def _make_part(
    run: Run, method: Method, items: Sequence[Item], augment: Augment, views: int
) -> tuple[Part, Captions]:
    # The labels of images with captions are their numbers.
    paths = [item.path for item in items]
    captions = Captions.of(items, scan.hash_images(paths, run.cache.memory))
    labels = torch.arange(len(items))
    if method.tunes_image_tower:
        numbered = [replace(item, label=i) for i, item in enumerate(items)]
        none = torch.empty(0, 1, run.backbone.embed_dim)
        return Part(none, labels, Pixels(run.backbone, numbered, augment)), captions
    z = features.extract(
        run.backbone, paths, run.cache, views=views, augment=augment, label="features"
    )
    return Part(z, labels), captions
