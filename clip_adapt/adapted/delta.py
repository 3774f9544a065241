"""The delta: one self-describing safetensors file with what was trained, and nothing else.

Its header says which backbone it sits on (by fingerprint), which method with which options made it,
the classes and the prompts (header.py), and what digest all of it has. Loading checks all of it and
refuses with the reason.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip_adapt.adapted import lookup
from clip_adapt.adapted.header import Header, parse_header, write_header
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config import options
from clip_adapt.data.seen import SEEN
from clip_adapt.errors import InputError
from clip_adapt.method.contract import Method
from clip_adapt.method.finding import Found
from clip_adapt.system.files import write_atomically, write_text
from clip_adapt.system.launch.threads import hold_random_stream
from clip_adapt.system.reading import make_path
from clip_adapt.system.run_files import DELTA
from clip_adapt.system.tensor_files import DIGEST, DamagedError, read_tensors, write_tensors

FILE, README = DELTA, "README.md"
_KEY = "clip_adapt"

log = logging.getLogger(__name__)


def describe(found: Found, trained: Method, **facts: Any) -> Header:
    """Return the header of a trained method; ``facts`` are further fields of it."""
    backbone = trained.backbone
    # What a variant configures stands there too: it loads where the variant's YAML is not.
    whence = {"file": found.file.name if found.file else None, "base": found.base}
    return Header(
        method={
            "name": found.name,
            "options": trained.options,
            **{key: value for key, value in whence.items() if value is not None},
        },
        backbone={**asdict(backbone.card), "fingerprint": backbone.fingerprint}
        | {"image_size": backbone.image_size},
        task=asdict(trained.task),
        transform=backbone.transform,
        versions=list_versions(),
        **facts,
    )


def save(folder: Path, trained: Method, header: Header, card: str) -> Path:
    """Write ``adapter.safetensors`` and the model card ``README.md`` into a folder.

    Raises:
        InputError: when the folder cannot be written; no half-written file is left.
    """
    metadata = {"format": "pt", _KEY: write_header(header)}
    existed = folder.exists()
    try:
        with write_atomically(folder / FILE) as temporary:
            write_tensors(temporary, trained.state_dict(), metadata)
        write_text(folder / README, card)
    except BaseException:
        if not existed:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder / FILE


def load(
    path: str | Path,
    *,
    backbone: Backbone | None = None,
    model: str | None = None,
    method_file: str | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> tuple[Method, Header]:
    """Load a delta onto its backbone.

    Args:
        path: the folder ``adapter/``, its file, or a hub id ``owner/name``.
        backbone: the frozen towers to sit on; None loads them.
        model: what they are loaded by, as ``model=`` of a training; None takes the card of ours
            that the header names. Nothing else is opened or fetched because a delta names it.
        method_file: the .py of a method of one's own, when the delta was made by one. Code is never
            run because a delta names it.
        device: where a backbone is loaded to.
        precision: what a backbone is loaded in.

    Raises:
        InputError: when the file is no delta, damaged, newer, for another backbone, or when a
            tensor is missing, extra, or of another shape or type.
    """
    if backbone is not None and model is not None:
        raise InputError(f"backbone and model={model} are both given: keep one of them")
    file = locate(path)
    header, tensors = read(file)
    found = lookup.find_method_of(header.method, file, method_file)
    if backbone is None:
        card = lookup.choose_card(header.backbone, file, model)
        backbone = Backbone.from_card(card, device=device, precision=precision)
    _require_same_backbone(header, backbone, file)
    made = _build_method(found, backbone, header, file)
    _require_same_tensors(made.state_dict(), tensors, file)
    made.load_state_dict(tensors)
    return made.eval(), header


def locate(path: str | Path) -> Path:
    """Return the file of a delta: a folder's, the file itself, or one fetched from the hub.

    Raises:
        InputError: when there is none.
    """
    here = make_path(path)
    for candidate in (here / FILE, here / "adapter" / FILE, here):
        if os.path.isfile(candidate):
            return candidate
    if os.path.exists(here) or str(path).count("/") != 1 or str(path).startswith((".", "/", "~")):
        raise InputError(
            f"no delta at {path}: expected a folder with {FILE} (looked at {here.absolute()})"
        )
    return _fetch_from_hub(str(path), here)


def read(file: Path) -> tuple[Header, dict[str, Tensor]]:
    """Return the header and the tensors of a delta's file.

    Raises:
        InputError: when it is damaged, no delta of ours, or of a newer format.
    """
    try:
        tensors, metadata = read_tensors(file)
    except DamagedError as error:
        raise InputError(
            f"{file} is damaged or truncated, or no delta at all ({error}). "
            "Copy it again, or train again."
        ) from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    if _KEY not in metadata:
        raise InputError(f"{file} is no delta of clip_adapt: its header has no {_KEY!r} entry")
    header = parse_header(metadata[_KEY], file)
    _require_digest(header, metadata, file)
    return header, tensors


def list_versions() -> dict[str, str]:
    """Return the versions of what a result depends on."""
    packages = ("clip-adapt", "torch", "torchvision", "open_clip_torch", "peft", "accelerate")
    known = {}
    for name in packages:
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            from clip_adapt.system.version import __version__

            known[name] = __version__ if name == "clip-adapt" else "not installed"
    return known


def _fetch_from_hub(name: str, here: Path) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        file = Path(hf_hub_download(name, FILE))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"no delta at {name}: there is no such folder (looked at {here.absolute()}), and it "
            f"cannot be had from the hub ({reason})"
        ) from error
    # Deltas of older versions have none; whoever measures says so.
    with contextlib.suppress(HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError):
        hf_hub_download(name, SEEN)
    return file


def _build_method(found: Found, backbone: Backbone, header: Header, file: Path) -> Method:
    given = options.rename(header.method["options"], found.cls.renamed_options)
    _, problems = options.validate(given, options.read_signature(found.cls), "method.", str(file))
    if problems:
        raise InputError("\n".join(problems))
    try:
        with hold_random_stream():  # start values are drawn, though others take their place
            return found.cls.build(backbone, header.to_task(), given)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except ValueError as error:
        raise InputError(f"{file}: method {found.name}: {error}") from error


def _require_digest(header: Header, metadata: Mapping[str, str], file: Path) -> None:
    # What was made before there were digests is read, and nothing that had one passes for it.
    first = header.format == 1
    if first and not metadata.keys() - {"format", _KEY}:
        _warn_of_first_format(file.absolute())
    elif first or DIGEST not in metadata:
        raise InputError(
            f"{file} is damaged: its format is {header.format}, and its metadata holds "
            f"{', '.join(sorted(metadata))}. Copy it again, or train again."
        )


@functools.cache
def _warn_of_first_format(file: Path) -> None:
    log.warning(
        "%s is of format 1, which has no digest: damage to it would not be noticed. "
        "Train it again to have one.",
        file,
    )


def _require_same_backbone(header: Header, backbone: Backbone, file: Path) -> None:
    wanted = header.backbone["fingerprint"]
    if backbone.fingerprint != wanted:
        raise InputError(
            f"{file} was made for another backbone: it wants {header.backbone['name']} at "
            f"{header.backbone['image_size']} pixels (fingerprint {wanted[:12]}), this is "
            f"{backbone.card.name} at {backbone.image_size} (fingerprint "
            f"{backbone.fingerprint[:12]}). Load it with the weights that it was trained on."
        )


def _require_same_tensors(
    expected: Mapping[str, Tensor], given: Mapping[str, Tensor], file: Path
) -> None:
    problems = [f"tensor {name!r} is missing" for name in expected if name not in given]
    problems += [f"tensor {name!r} does not belong here" for name in given if name not in expected]
    for name in expected.keys() & given.keys():
        want, have = expected[name], given[name]
        if want.shape != have.shape or want.dtype != have.dtype:
            there, wanted = map(_describe_tensor, (have, want))
            problems.append(f"tensor {name!r} is {there} where {wanted} is expected")
        elif have.is_floating_point() and not bool(torch.isfinite(have).all()):
            problems.append(f"tensor {name!r} holds values that are not finite")
    if problems:
        raise InputError(f"{file} does not fit its own header: " + "; ".join(sorted(problems)))


def _describe_tensor(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
