"""MedMNIST's npz files: images of 28 to 224 pixels with published splits (Yang et al. 2023).

The images are read one by one from the file and written once into the cache folder. The package
``medmnist`` is needed for a download only.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from PIL import Image

from clip_adapt.config import yamls
from clip_adapt.config.cards import SPLITS, DataCard, list_cards, locate_card
from clip_adapt.config.values import FilePath
from clip_adapt.data.items import Context, Splits
from clip_adapt.data.scan import hash_images
from clip_adapt.data.sources._fetch import build_or_refuse
from clip_adapt.data.sources._unpacked import Row, unpack_images
from clip_adapt.errors import InputError

RECOGNISES = "a MedMNIST file (.npz)"
SIZES = (28, 64, 128, 224)


def recognises(path: Path) -> dict[str, Any] | None:
    """Return what the set's own card says, or a card would say, of a file of MedMNIST."""
    if path.suffix.lower() != ".npz":
        return None
    flag, _, size = path.stem.rpartition("_")
    if size not in map(str, SIZES[1:]):  # of another's file, or the smallest, which says no size
        flag, size = path.stem, ""
    shipped = yamls.read_yaml(locate_card("dataset", flag)) if flag in list_cards("dataset") else {}
    own = {"name": path.stem, **shipped, "flag": flag, "root": str(path.parent)}
    return {**own, "size": int(size)} if size else own


def read(
    card: DataCard,
    context: Context,
    *,
    flag: str,
    size: Literal[28, 64, 128, 224] = 28,
    root: FilePath = "medmnist",
) -> Splits:
    """Read one of MedMNIST's files.

    Args:
        card: its ``classes`` give the labels "0", "1", ... their spoken names.
        context: where caches and data sets lie, and whether a download is allowed.
        flag: MedMNIST's name of the set, ``pathmnist``.
        size: edge of the images in pixels.
        root: folder of the npz files, relative to the folder of data sets.

    Raises:
        InputError: when the file is missing and no download was allowed, or when it is damaged.
    """
    folder = context.place(root)
    path = folder / (f"{flag}.npz" if size == SIZES[0] else f"{flag}_{size}.npz")
    if not os.path.isfile(path):
        _fetch_file(path, flag, size, context)
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive, path, f"{flag}-{size}", card, context)
    except InputError:
        raise
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, RuntimeError, KeyError) as error:
        raise InputError(f"{path} is damaged, or no file of MedMNIST: {error}") from error


def _read_archive(
    archive: zipfile.ZipFile, path: Path, name: str, card: DataCard, context: Context
) -> Splits:
    _require_arrays(archive, path)
    labels = {split: _read_labels(archive, split, path) for split in SPLITS}
    for split in SPLITS:
        _check_images(archive, split, len(labels[split]), path)
    total = sum(map(len, labels.values()))
    top = max((int(y.max()) for y in labels.values() if len(y)), default=-1)
    if top >= total or not total:
        raise InputError(f"{path} has {total} images and labels up to {top}: a class needs images")
    classes = [str(n) for n in range(top + 1)]
    _refuse_unknown(card, classes, path)
    version = hash_images([str(path)], context.cache)[0]
    return unpack_images(context, name, version, classes, _make_rows(archive, labels), total)


def _fetch_file(path: Path, flag: str, size: int, context: Context) -> None:
    if not context.download:
        raise InputError(
            f"{path} is missing. Put {path.name} of MedMNIST there "
            "(https://zenodo.org/records/10519652), or let it be fetched: download=true, which "
            "needs the package: pip install 'clip-adapt[medmnist]'"
        )
    try:
        import medmnist
    except ImportError as error:
        raise InputError(
            "download=true of a MedMNIST set needs the package medmnist: "
            "pip install 'clip-adapt[medmnist]'"
        ) from error
    known = {cls.flag: cls for cls in vars(medmnist).values() if hasattr(cls, "flag")}
    if flag not in known:
        raise InputError(f"dataset.flag={flag}: MedMNIST has no set of that name")
    make = known[flag]
    root = path.parent
    build_or_refuse(
        lambda: make(split="test", download=True, root=str(root), size=size), flag, root
    )


def _require_arrays(archive: zipfile.ZipFile, path: Path) -> None:
    wanted = [f"{split}_{what}" for split in SPLITS for what in ("images", "labels")]
    there = [name.removesuffix(".npy") for name in archive.namelist()]
    absent = [name for name in wanted if name not in there]
    if absent:
        raise InputError(
            f"{path} is no file of MedMNIST: it has no {', '.join(absent)}, but "
            f"{', '.join(there[:10]) or 'nothing'}. Write the images as files, one folder a class."
        )


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    return read(file)


def _read_labels(archive: zipfile.ZipFile, split: str, path: Path) -> np.ndarray:
    name = f"{split}_labels"
    with archive.open(f"{name}.npy") as file:
        shape, _, dtype = _read_header(file)
    if len(shape) == 2 and shape[1] > 1:
        raise InputError(
            f"{path}: a set with several labels an image cannot be used for classification "
            f"({name} has the shape {shape})"
        )
    if dtype.kind not in "iu" or len(shape) not in (1, 2):
        raise InputError(
            f"{path}: {name} holds {_describe_type(dtype)} of the shape {shape}: expected whole "
            "numbers from 0, one an image"
        )
    with archive.open(f"{name}.npy") as file:
        labels = np.lib.format.read_array(file, allow_pickle=False).reshape(-1)
    if len(labels) and labels.min() < 0:
        raise InputError(
            f"{path}: {name} holds {labels.min()}: expected whole numbers from 0. Leave images "
            "without a label out."
        )
    return labels


def _check_images(archive: zipfile.ZipFile, split: str, count: int, path: Path) -> None:
    name = f"{split}_images"
    with archive.open(f"{name}.npy") as file:
        shape, fortran, dtype = _read_header(file)
    grey = len(shape) == 3 or (len(shape) == 4 and shape[3] == 1)
    if len(shape) == 5 or (len(shape) == 4 and shape[1] > 4 and shape[3] > 4):
        size = " x ".join(map(str, shape[1:4]))
        raise InputError(
            f"{path}: {name} holds volumes ({size}), which cannot be used: expected pictures "
            "(H, W) or (H, W, 3). Write slices as images."
        )
    if dtype != np.uint8 or fortran or not (grey or shape[3:] == (3,)) or 0 in shape[1:]:
        raise InputError(
            f"{path}: images of {_describe_type(dtype)} {shape} cannot be read: expected uint8 "
            f"(N, H, W) or (N, H, W, 3) in {name}"
        )
    if shape[0] != count:
        raise InputError(f"{path}: {name} holds {shape[0]} images, {split}_labels {count} labels")


def _describe_type(dtype: np.dtype[Any]) -> str:
    return {"O": "Python objects", "U": "text", "S": "text"}.get(dtype.kind, str(dtype))


def _refuse_unknown(card: DataCard, classes: list[str], path: Path) -> None:
    unknown = [name for name in card.classes if name not in classes]
    if unknown:
        raise InputError(f"{path} has the labels 0 to {len(classes) - 1}, not {unknown[0]!r}")


def _make_rows(
    archive: zipfile.ZipFile, labels: dict[str, np.ndarray]
) -> Callable[[str], Iterable[Row]]:
    def rows(split: str) -> Iterator[Row]:
        with archive.open(f"{split}_images.npy") as file:
            for image, label in zip(_read_images(file), labels[split], strict=True):
                yield int(label), _make_saver(image)

    return rows


def _read_images(file: IO[bytes]) -> Iterator[np.ndarray]:
    # One image at a time: the largest of these files holds 16 GB.
    shape, _, _ = _read_header(file)
    count = int(np.prod(shape[1:]))
    for _ in range(shape[0]):
        data = file.read(count)
        if len(data) < count:
            raise EOFError("the images end early")
        image = np.frombuffer(data, dtype=np.uint8).reshape(shape[1:])
        yield image[..., 0] if shape[3:] == (1,) else image


def _make_saver(image: np.ndarray) -> Callable[[Path], str]:
    def save(path: Path) -> str:
        Image.fromarray(image).save(f"{path}.png", compress_level=1)
        return ".png"

    return save
