"""Which folders are splits and which are classes, whoever laid them out.

root/train/cat/1.jpg        splits above the classes, in any spelling of their names
root/images/train/cat/...   the same, one folder down
root/cat/1.jpg              classes alone
root/cat/train/1.jpg        splits below the classes
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clip_adapt.data.folders.tree import Tree, list_subfolders, look_into
from clip_adapt.data.splitting import SPLIT_NAMES, find_split_name
from clip_adapt.errors import InputError

Walk = Callable[[Path], Tree]
Classes = dict[str, Path]  # the folder of each class, by its name
UNSPLIT = ""  # in place of a split's name: the classes of a folder without splits
# What a folder is called that holds all others and is no class.
WRAPPERS = frozenset({"images", "image", "imgs", "img", "pictures", "photos", "data", "dataset"})
AS_CLASSES = "dataset.splits=null"


@dataclass(frozen=True)
class FolderLayout:
    """Where the class folders are.

    Attributes:
        holders: the folder of each split; that of ``UNSPLIT`` alone when there are no splits.
        classes: the class folders of each split, in the order of their names.
        notes: how it was read where it could have been read otherwise.
    """

    holders: dict[str, Path]
    classes: dict[str, Classes]
    notes: list[str] = field(default_factory=list)

    @property
    def is_split(self) -> bool:
        """Whether there are splits."""
        return UNSPLIT not in self.holders


def lay_out_classes(top: Path) -> FolderLayout:
    """Return the layout of a folder in which every folder is a class."""
    return FolderLayout({UNSPLIT: top}, {UNSPLIT: _list_named(top)})


def lay_out_given(top: Path, splits: Mapping[str, str], measures: bool) -> FolderLayout:
    """Return the layout of a folder whose splits the user or a card names.

    Raises:
        InputError: when a split has another name, or one is missing.
    """
    needed = set() if measures else {"train", "test"}
    if not needed <= splits.keys() <= SPLIT_NAMES.keys():
        raise InputError(f"dataset.splits={dict(splits)}: expected {{train: FOLDER, test: FOLDER}}")
    holders = {split: top / splits[split] for split in SPLIT_NAMES if split in splits}
    return FolderLayout(holders, {split: _list_named(folder) for split, folder in holders.items()})


def find_layout(top: Path, walk: Walk, measures: bool) -> FolderLayout:
    """Return the layout of a folder, by the names in it.

    Args:
        top: the folder.
        walk: gives what lies in a folder.
        measures: whether the data set is only measured on, so that any split is enough.

    Raises:
        InputError: when it can be read in two ways, with the option that says which.
    """
    place, notes = _unwrap(top, walk)
    splits = _find_splits(place)
    if not splits:
        return _lay_out_splits_below(place, walk, notes) or _add(lay_out_classes(place), notes)
    others = [
        p for p in list_subfolders(place) if find_split_name(p.name) is None and walk(p).images
    ]
    if others and all(_is_flat(folder, walk) for folder in splits.values()):
        names = " and ".join(folder.name for folder in splits.values())
        said = f"{names} in {place} is read as a class like the other folders: images lie in it"
        return _add(lay_out_classes(place), [*notes, said])
    _require_splits(place, splits, others, measures)
    held = {split: _unwrap(folder, walk) for split, folder in splits.items()}
    notes += [note for _, more in held.values() for note in more]
    notes += [
        f"{p} lies beside the splits and is not used: {len(walk(p).images)} images" for p in others
    ]
    return FolderLayout(
        dict(splits), {split: _list_named(folder) for split, (folder, _) in held.items()}, notes
    )


def _add(layout: FolderLayout, notes: list[str]) -> FolderLayout:
    return FolderLayout(layout.holders, layout.classes, [*notes, *layout.notes])


def _list_named(folder: Path) -> Classes:
    return {path.name: path for path in list_subfolders(folder)}


def _find_splits(place: Path) -> dict[str, Path]:
    # In the order train, val, test.
    found: dict[str, Path] = {}
    for folder in list_subfolders(place):
        split = find_split_name(folder.name)
        if split in found:
            first = found[split].name
            raise InputError(
                f"{place} has two folders of the split {split}, {first} and {folder.name}: put "
                "their images into one, or say which folder is which split: "
                "dataset.splits='{train: FOLDER, test: FOLDER}'. If they are classes: "
                f"{AS_CLASSES}"
            )
        if split is not None:
            found[split] = folder
    return {split: found[split] for split in SPLIT_NAMES if split in found}


def _is_flat(folder: Path, walk: Walk) -> bool:
    # Images lie in it as they do in a class, not in class folders.
    return bool(look_into(folder).images) and not walk(folder).below


def _unwrap(folder: Path, walk: Walk) -> tuple[Path, list[str]]:
    # A folder whose images all lie in one folder that is no class is not where they begin.
    notes: list[str] = []
    while True:
        inside = list_subfolders(folder)
        holding = [path for path in inside if walk(path).images]
        if len(holding) != 1 or look_into(folder).images:
            return folder, notes
        only = holding[0]
        if find_split_name(only.name) or not _is_wrapper(only, folder, walk):
            return folder, notes
        notes = [f"the images are read from {only}"]
        folder = only


def _is_wrapper(only: Path, folder: Path, walk: Walk) -> bool:
    named = only.name.lower() in WRAPPERS or only.name == folder.name
    holds_splits = any(find_split_name(name) for name in walk(only).below)
    return (named or holds_splits) and not look_into(only).images


def _require_splits(
    place: Path, splits: dict[str, Path], others: list[Path], measures: bool
) -> None:
    if measures or {"train", "test"} <= splits.keys():
        return
    names = " and ".join(folder.name for folder in splits.values())
    if others:
        beside = ", ".join(folder.name for folder in others[:5])
        raise InputError(
            f"{place} has folders called {names} beside {beside}: is {names} a class or a split? "
            f"If a class, say so: {AS_CLASSES}. If a split, put the images to train on and to test "
            f"on into {place / 'train'} and {place / 'test'}, one folder a class."
        )
    if "train" not in splits:
        raise InputError(
            f"{place} has a {names} folder and no train folder. Put the images to be trained on "
            f"into {place / 'train'}, one folder a class; or only measure a delta on it: evaluate. "
            f"If {names} is a class: {AS_CLASSES}"
        )
    train, val = splits["train"], splits.get("val")
    choice = ""
    if val:
        given = f"{{train: {train.name}, test: {val.name}}}"
        choice = f"; or test on {val.name}: dataset.splits='{given}'"
    raise InputError(
        f"{place} has a {train.name} folder and no test folder. Put the images to be tested on "
        f"into {place / 'test'}, one folder a class; or point at {train} to have it split{choice}."
    )


def _lay_out_splits_below(place: Path, walk: Walk, notes: list[str]) -> FolderLayout | None:
    # cat/train/1.jpg: below every class the same splits, which may not be mixed.
    folders = {p.name: p for p in list_subfolders(place) if walk(p).images}
    splits = {name: _find_splits(folder) for name, folder in folders.items()}
    mixed = [name for name, found in splits.items() if {"train", "test"} <= found.keys()]
    if not mixed:
        return None
    unlike = [n for n, f in splits.items() if n not in mixed or _holds_more(folders[n], f, walk)]
    if unlike:
        raise InputError(
            f"{place / mixed[0]} holds folders called train and test, and {unlike[0]} images "
            "outside of such folders. Put the splits above the classes: "
            f"{place / 'train' / mixed[0]}. If they are no splits: {AS_CLASSES}"
        )
    parts = {s: {n: found[s] for n, found in splits.items() if s in found} for s in SPLIT_NAMES}
    said = f"the folders below the classes of {place} are read as splits"
    return FolderLayout(
        {split: place for split, part in parts.items() if part},
        {split: part for split, part in parts.items() if part},
        [*notes, said],
    )


def _holds_more(folder: Path, splits: dict[str, Path], walk: Walk) -> bool:
    return len(walk(folder).images) > sum(len(walk(part).images) for part in splits.values())
