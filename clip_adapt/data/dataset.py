"""Data sets: classes, splits, and the few-shot draw with its manifest.

The test split is handed out by ``Dataset.test`` alone. What training, selection and closed forms
receive is a ``Support``, which holds no reference to it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clip_adapt.config.cards import SPLITS, DataCard
from clip_adapt.data import catalog, leaks, scan
from clip_adapt.data.inventory import Inventory
from clip_adapt.data.items import Context, Item, Support
from clip_adapt.data.sampling import SAMPLERS, VAL_SHOTS, Sampling
from clip_adapt.data.source import find_source
from clip_adapt.data.splitting import refuse_untrained
from clip_adapt.data.task import Prompts, Task, refuse_same_names
from clip_adapt.errors import InputError, list_lines
from clip_adapt.system.files import choose_cache_folder, choose_data_folder
from clip_adapt.system.run_files import TWINS
from clip_adapt.system.text.showing import is_utf8, show_line


@dataclass(frozen=True)
class Dataset:
    """A data set: its card, spoken class names, and items.

    Attributes:
        card: templates, descriptions, licence.
        classes: spoken names, in the order of the labels.
        train: the pool that few-shot subsets are drawn from.
        val: the pool of validation images.
        test: read by evaluation only.
        names: every spoken name of a class that has several, by its first.
        drawn: train and val are a few-shot subset already.
        inventory: what the source used and what it passed over.
        unsplit: it has no splits, and all its images stand in test.
        stored: classes by the names that their folders or labels have.
    """

    card: DataCard
    classes: list[str]
    train: list[Item]
    val: list[Item]
    test: list[Item]
    names: dict[str, list[str]] = field(default_factory=dict)
    drawn: bool = False
    inventory: Inventory = field(default_factory=Inventory)
    unsplit: bool = False
    stored: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(
        cls,
        name: str | Path,
        options: Mapping[str, Any] | None = None,
        *,
        cache_dir: str | None = None,
        data_dir: str | None = None,
        download: bool = False,
        measures: bool = False,
    ) -> Dataset:
        """Load a data set by name, or what a path points at.

        Args:
            name: the name of a card that ships, a card.yaml, a folder of class folders, a table
                (.csv, .tsv), a split file of the CoOp protocol, or a subset (.json, .jsonl).
            options: in place of the card's, as ``dataset.KEY=VALUE`` on a command line; a
                ``source`` may be the path of your own .py, which is run.
            cache_dir: where caches lie.
            data_dir: where the data sets of cards that ship lie.
            download: fetch what is missing.
            measures: the data set is only measured on: one class or one split is enough, and images
                without splits are all tested on.

        Raises:
            InputError: when it does not exist, holds no classes, or leaks between its splits.
        """
        card = catalog.find_dataset(catalog.name_dataset(name), options)
        return cls.from_card(
            card, cache_dir=cache_dir, data_dir=data_dir, download=download, measures=measures
        )

    @classmethod
    def from_card(
        cls,
        card: DataCard,
        *,
        cache_dir: str | None = None,
        data_dir: str | None = None,
        download: bool = False,
        measures: bool = False,
    ) -> Dataset:
        """Load the data set that a card describes; see ``load``."""
        cache = choose_cache_folder(cache_dir)
        context = Context(cache, choose_data_folder(data_dir), download, measures)
        splits = find_source(card.source).read(card, context)
        names = [card.names_of(stored) for stored in splits.classes]
        classes = [spoken[0] for spoken in names]
        refuse_same_names(names, splits.classes)
        if not measures:
            refuse_untrained(card.name, classes, splits.parts())
        _refuse_other_bytes([*splits.classes, *classes], splits.parts())
        leaks.refuse_groups(splits.parts())
        if card.on_leak == "error":
            leaks.refuse_pairs(leaks.find_same_files(splits.parts(), context.cache))
        several = {spoken[0]: spoken for spoken in names if len(spoken) > 1}
        return cls(
            card,
            classes,
            **splits.parts(),
            names=several,
            drawn=splits.drawn,
            inventory=splits.inventory,
            unsplit=splits.unsplit,
            stored=dict(zip(splits.classes, classes, strict=True)),
        )

    @property
    def name(self) -> str:
        """The card's name."""
        return self.card.name

    def parts(self) -> dict[str, list[Item]]:
        """Return the items by split, in the order train, val, test."""
        return {split: getattr(self, split) for split in SPLITS}

    def to_measure(self, split: str | None = None) -> Dataset:
        """Return the data set of which the images of a split are tested on, and no others are held.

        Args:
            split: ``train``, ``val``, ``test`` or ``all``; None takes test.

        Raises:
            InputError: when the split has no images.
        """
        parts = self.parts()
        chosen = parts if split == "all" else (split or "test",)
        items = [item for name in chosen for item in parts[name]]
        if not items:
            there = [f"{name} ({len(part)} images)" for name, part in parts.items() if part]
            raise InputError(
                f"{self.name} has no images of the split {split or 'test'}; it has "
                f"{' and '.join(there) or 'none at all'}: measure on one of these, or split=all"
            )
        return replace(self, train=[], val=[], test=items)

    def survey(self, *, cache_dir: str | None = None) -> scan.Survey:
        """Look at every image of every split; what was seen is remembered."""
        paths = [item.path for items in self.parts().values() for item in items]
        return scan.survey_images(paths, choose_cache_folder(cache_dir))

    def check(self, survey: scan.Survey) -> tuple[list[str], list[leaks.Twin]]:
        """Compare the images of different splits with one another.

        Returns:
            what a user should know, and the images that look like one of another split.

        Raises:
            InputError: when an image stands in two splits, unless the card says on_leak: warn.
        """
        pairs = leaks.find_same_pixels(self.parts(), survey)
        if self.card.on_leak == "error":
            leaks.refuse_pairs(pairs)
        notes = scan.describe_depths(survey)
        everything = [item for items in self.parts().values() for item in items]
        notes += leaks.describe_two_labels(everything, self.classes, survey)
        notes += [leaks.describe_pairs(pairs)] if pairs else []
        same = {pair[1] for pair in pairs}
        twins = [t for t in leaks.find_near_duplicates(self.parts(), survey) if t.path not in same]
        if twins:
            notes.append(
                f"{len(twins)} images look like one of another split (near-duplicates); "
                f"they are listed in {TWINS}"
            )
        return notes, twins

    def without(self, broken: Iterable[str]) -> Dataset:
        """Return the data set without the images at these paths.

        Raises:
            InputError: when a class has no training image left, or no test image is left.
        """
        gone = set(broken)
        kept = {s: [i for i in getattr(self, s) if i.path not in gone] for s in SPLITS}
        gone_from = {i.label for i in self.train} - {i.label for i in kept["train"]}
        empty = [self.classes[label] for label in sorted(gone_from)]
        if empty:
            raise InputError(f"no readable training image is left in: {', '.join(empty)}")
        if self.test and not kept["test"]:
            raise InputError(f"the test split of {self.name} is empty: nothing can be measured")
        return replace(self, train=kept["train"], val=kept["val"], test=kept["test"])

    def few_shot(self, shots: int, seed: int = 1, sampling: Sampling = "coop") -> Support:
        """Draw the support set and a validation subset.

        One stream of Python's ``random`` seeded with ``seed``: ``shots`` over train, then
        min(shots, 4) over val, by the sampler of that name (sampling.py). A subset that a source
        gives as drawn already is used as it is.

        Raises:
            InputError: when ``shots`` is below 1.
        """
        if shots < 1:
            raise InputError(f"shots={shots}: expected a whole number, at least 1")
        stream = random.Random(seed)
        takes_all = self.drawn or sampling == "all"
        draw = SAMPLERS["all" if takes_all else sampling]
        train = draw(self.train, shots, stream)
        val = draw(self.val, min(shots, VAL_SHOTS), stream)
        asked = 0 if takes_all else shots
        return Support(train, val, asked, self._note_draw(train, shots, sampling))

    def task(self, *, prompts: Prompts = "templates", shots: int = 0, seed: int = 1) -> Task:
        """Return what a method is asked."""
        return Task(
            classes=tuple(self.classes),
            templates=tuple(self.card.templates),
            descriptions=self.card.descriptions,
            names=self.names,
            prompts=prompts,
            shots=shots,
            seed=seed,
        )

    def _note_draw(self, drawn: list[Item], shots: int, sampling: Sampling) -> list[str]:
        if self.drawn or sampling != "coop":
            what = "the subset is used as given" if self.drawn else f"sampling={sampling}"
            counts = Counter(item.label for item in drawn)
            low, high = min(counts.values()), max(counts.values())
            return [f"{what}: {len(drawn)} training images, {low} to {high} a class"]
        sizes = Counter(item.label for item in self.train)
        short = [f"{c}: {sizes[i]}" for i, c in enumerate(self.classes) if sizes[i] < shots]
        return [f"fewer than {shots} training images in {', '.join(short)}"] if short else []


def require_apart(items: Sequence[Item], test: Sequence[Item]) -> None:
    """Refuse images of which a copy, or an image of the same group, is tested on.

    Raises:
        InputError: listing them.
    """
    parts = {"calibration": list(items), "test": list(test)}
    leaks.refuse_pairs(leaks.find_same_files(parts))
    leaks.refuse_groups(parts)


def _refuse_other_bytes(names: Iterable[str], parts: Mapping[str, Sequence[Item]]) -> None:
    # The files of a run are UTF-8: better said now than after the training.
    items = [item for split in parts.values() for item in split]
    texts = [*names, *(t for i in items for t in (i.path, i.group or "", *i.captions))]
    wrong = [show_line(text) for text in dict.fromkeys(texts) if not is_utf8(text)]
    if wrong:
        raise InputError(
            f"{len(wrong)} names are not UTF-8:\n{list_lines(wrong)}\nRename them: "
            "convmv -f latin1 -t utf8 -r --notest FOLDER"
        )
