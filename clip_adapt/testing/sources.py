"""The laws that every source of images keeps."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from clip_adapt.config import options, values
from clip_adapt.config.cards import SPLITS, DataCard
from clip_adapt.data import catalog
from clip_adapt.data.items import Context, Item, Splits
from clip_adapt.data.source import Source, find_source
from clip_adapt.errors import InputError


@dataclass
class SourceCase:
    """A source with a data set that it reads.

    Attributes:
        source: the source.
        card: of the data set.
        context: where caches and data sets lie.
        path: what the source recognises the data set by, if it does.
    """

    source: Source
    card: DataCard
    context: Context
    path: Path | None = None

    @property
    def measuring(self) -> Context:
        """The context of a data set that is only measured on."""
        return replace(self.context, measures=True)

    def read(self, **others: Any) -> Splits:
        """Return what the source reads, with other values of its options."""
        card = replace(self.card, options={**self.card.options, **others})
        return self.source.read(card, self.context)


def check_source(
    source: str | Path | ModuleType,
    path: str | Path | None = None,
    *,
    values: Mapping[str, Any] | None = None,
    data_dir: str | Path = "data",
) -> None:
    """Run every law; the first that is broken raises an AssertionError which says so.

    Args:
        source: a name, the path of a .py file, or a module.
        path: a file or folder that the source recognises; None for a source that recognises none.
        values: options of the source, and keys of a card (``classes``); paths in it are relative
            to the working folder.
        data_dir: where the data sets of cards lie; a default of the source may be relative to it.

    Raises:
        InputError: when the source refuses the data set itself.
    """
    if isinstance(source, ModuleType):
        found = Source(source.__name__, source)
    else:
        found = find_source(str(source))
    options_are_typed_keywords(found)
    where = Path(path).absolute() if path is not None else None
    written = _recognise(found, where) if where else {"name": "checked"}
    card = catalog.make_card(found, catalog.Written(written, None), values or {})
    with tempfile.TemporaryDirectory() as cache:
        context = Context(Path(cache), Path(data_dir).absolute())
        case = SourceCase(found, card, context, where)
        for law in SOURCE_LAWS:
            law(case)


def options_are_typed_keywords(source: Source) -> None:
    """``read`` takes the card and the context, and options by keyword that are typed and fit."""
    parameters = list(inspect.signature(source.module.read).parameters.values())
    kinds = [p.kind for p in parameters]
    assert len(kinds) >= 2 and kinds[:2] == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 2, (
        "read takes (card, context, *, options)"
    )
    for parameter in parameters[2:]:
        name = parameter.name
        assert parameter.kind is parameter.KEYWORD_ONLY, f"{name} is not a keyword-only option"
        assert parameter.annotation is not parameter.empty, f"the option {name} has no type"
    for name, option in source.options.items():
        assert name not in DATA_CARD_KEYS, f"the option {name} is a key of every card"
        if option.default is not inspect.Parameter.empty:
            try:
                values.check(option.default, option.annotation)
            except ValueError as expected:
                raise AssertionError(
                    f"the default {option.default!r} of {name} is not {expected}"
                ) from expected


def labels_index_classes(case: SourceCase) -> None:
    """Classes are different names and every label is the index of one, trained and tested on.

    A source of captions gives no classes, label 0, and a caption to every image.
    """
    made = case.read()
    assert isinstance(made, Splits), f"read gives {type(made).__name__}, not Splits"
    assert made.train and made.test, "the train or the test split is empty"
    assert len(set(made.classes)) == len(made.classes), "two classes have one name"
    for split, items in made.parts().items():
        for item in items:
            assert isinstance(item, Item), f"{split} holds {type(item).__name__}, not Item"
    captions = case.source.gives == "captions"
    assert not (captions and made.classes), "a source of captions gives classes"
    labels = {0} if captions else set(range(len(made.classes)))
    used = {item.label for items in made.parts().values() for item in items}
    assert used <= labels, f"the labels {sorted(used - labels)} are not those of a class"
    assert {i.label for i in made.train} == labels, "a class has no training image"
    without = [i.path for i in (*made.train, *made.val, *made.test) if captions != bool(i.captions)]
    assert not without, f"{without[0]} has {'no caption' if captions else 'captions'}"


def paths_are_absolute_and_exist(case: SourceCase) -> None:
    """Every image is a file, and named by its absolute path."""
    for items in case.read().parts().values():
        for item in items:
            assert os.path.isabs(item.path), f"{item.path} is not an absolute path"
            assert os.path.isfile(item.path), f"{item.path} does not exist"


def reading_repeats(case: SourceCase) -> None:
    """The same call gives the same classes and the same items in the same order."""
    first, second = case.read(), case.read()
    assert first.classes == second.classes, "a second call gives other classes"
    for split in SPLITS:
        same = getattr(first, split) == getattr(second, split)
        assert same, f"a second call gives other images of {split}, or another order"


def groups_stay_together(case: SourceCase) -> None:
    """All images of a group (patient, site) are in one split."""
    where: dict[str, set[str]] = defaultdict(set)
    for split, items in case.read().parts().items():
        for item in items:
            if item.group is not None:
                where[item.group].add(split)
    for group, splits in where.items():
        assert len(splits) == 1, f"the group {group} is in {' and '.join(sorted(splits))}"


def no_image_stands_twice(case: SourceCase) -> None:
    """A path stands once, in one split."""
    paths = [item.path for items in case.read().parts().values() for item in items]
    twice = [path for path, count in Counter(paths).items() if count > 1]
    assert not twice, f"{twice[0]} stands {paths.count(twice[0])} times"


def measuring_leaves_nothing_out(case: SourceCase) -> None:
    """A data set that is only measured on holds the same images, with or without splits."""
    made, measured = case.read(), case.source.read(case.card, case.measuring)
    assert measured.classes == made.classes, "it has other classes when it is only measured on"
    every = [sorted(i.path for part in s.parts().values() for i in part) for s in (made, measured)]
    assert every[0] == every[1], "it has other images when it is only measured on"
    if measured.unsplit:
        assert not measured.train and not measured.val, "an unsplit data set has a train split"
    else:
        assert measured.test == made.test, "it has other test images when it is only measured on"


def recognising_fits_reading(case: SourceCase) -> None:
    """What is recognised has a name and says in words what it is; other paths are left alone."""
    ask = getattr(case.source.module, "recognises", None)
    if ask is None:
        return
    assert case.source.kinds, "it recognises paths and RECOGNISES does not say which, in words"
    with tempfile.TemporaryDirectory() as folder:
        for other in (Path(folder) / "a.unheard-of", Path(folder) / "none" / "b.unheard-of"):
            if "none" not in other.parts:
                other.write_bytes(b"")
            assert ask(other) is None, f"it recognises {other.name}, which it cannot read"
    if case.path is not None:
        again = ask(case.path)
        assert again == ask(case.path), "it recognises a path differently the second time"
        unknown = again.keys() - case.source.options.keys() - DATA_CARD_KEYS
        assert not unknown, f"recognises gives {sorted(unknown)}, which are not options of read"


def what_is_missing_is_refused(case: SourceCase) -> None:
    """A path that does not exist gives an InputError, not another exception and not silence."""
    for name, option in case.source.options.items():
        value = case.card.options.get(name)
        if not (values.holds_path(option.annotation) and value):
            continue
        nowhere = str(case.context.cache / "nowhere")
        try:
            case.read(**{name: [nowhere] if isinstance(value, list) else nowhere})
        except InputError as refusal:
            assert str(refusal).strip(), f"the refusal of {name}=nowhere says nothing"
        except Exception as error:
            raise AssertionError(
                f"{name}=nowhere gives {type(error).__name__}, not an InputError"
            ) from error
        else:
            raise AssertionError(f"{name}=nowhere is not refused")


SOURCE_LAWS: tuple[Callable[[SourceCase], None], ...] = (
    labels_index_classes,
    paths_are_absolute_and_exist,
    reading_repeats,
    groups_stay_together,
    no_image_stands_twice,
    measuring_leaves_nothing_out,
    recognising_fits_reading,
    what_is_missing_is_refused,
)
DATA_CARD_KEYS = options.read_fields(DataCard).keys() - {"options"}


def _recognise(source: Source, path: Path) -> dict[str, Any]:
    values = source.recognise(path)
    assert values is not None, f"it does not recognise {path}"
    return values
