"""The delta: one self-describing safetensors file with what was trained, and nothing else.

Its header says which backbone it sits on (by fingerprint), which method with which options made it,
the classes and the prompts. Loading checks all of it and refuses with the reason.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config import cards, options
from clip_adapt.config.cards import ModelCard
from clip_adapt.data.task import Task
from clip_adapt.errors import InputError
from clip_adapt.method import finding
from clip_adapt.method.contract import Method
from clip_adapt.method.finding import Found
from clip_adapt.system.files import write_atomically, write_text
from clip_adapt.system.reading import make_path

FORMAT = 1
FILE = "adapter.safetensors"
_KEY = "clip_adapt"


@dataclass(frozen=True)
class Header:
    """What a delta says of itself."""

    method: dict[str, Any]
    backbone: dict[str, Any]
    task: dict[str, Any]
    transform: dict[str, Any]
    dataset: str = ""
    temperature: float = 1.0
    guard: float = 0.0
    conformal: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    support_sha256: str = ""
    versions: dict[str, str] | None = None
    format: int = FORMAT

    def to_task(self) -> Task:
        """Return the task that the delta was made for."""
        task = {**self.task}
        task |= {"classes": tuple(task["classes"]), "templates": tuple(task["templates"])}
        return Task(**task)


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
    tensors = {name: t.detach().cpu().contiguous() for name, t in trained.state_dict().items()}
    text = json.dumps(asdict(header), ensure_ascii=False, sort_keys=True)
    existed = folder.exists()
    try:
        with write_atomically(folder / FILE) as temporary:
            try:
                save_file(tensors, temporary, {"format": "pt", _KEY: text})
            except SafetensorError as error:  # it reports a full disk in its own words
                raise _convert_error(error) from error
        write_text(folder / "README.md", card)
    except BaseException:
        if not existed:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder / FILE


def load(
    path: str | Path,
    *,
    backbone: Backbone | None = None,
    method_file: str | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> tuple[Method, Header]:
    """Load a delta onto its backbone.

    Args:
        path: the folder ``adapter/``, its file, or a hub id ``owner/name``.
        backbone: the frozen towers to sit on; None loads those that the header names.
        method_file: the .py of a method of one's own, when the delta was made by one. Code is never
            run because a delta names it.
        device: where a backbone is loaded to.
        precision: what a backbone is loaded in.

    Raises:
        InputError: when the file is no delta, damaged, newer, for another backbone, or when a
            tensor is missing, extra, or of another shape or type.
    """
    file = locate(path)
    header, tensors = read(file)
    found = _find_method_of(header, file, method_file)
    if backbone is None:
        backbone = Backbone.from_card(_choose_card(header), device=device, precision=precision)
    _require_same_backbone(header, backbone, file)
    given = options.rename(header.method["options"], found.cls.renamed_options)
    made = found.cls.build(backbone, header.to_task(), given)
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
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{file} is damaged or truncated, or no delta at all ({error}). "
            "Copy it again, or train again."
        ) from error
    if _KEY not in metadata:
        raise InputError(f"{file} is no delta of clip_adapt: its header has no {_KEY!r} entry")
    try:
        values = json.loads(metadata[_KEY])
        newer = values["format"] > FORMAT
        header = None if newer else Header(**values)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"the header of {file} cannot be read: {error!r}") from error
    if header is None:
        raise InputError(
            f"{file} has format {values['format']}, made by clip_adapt "
            f"{(values.get('versions') or {}).get('clip-adapt', 'of a newer version')}; this "
            f"version reads up to {FORMAT}. Update it: pip install -U clip-adapt"
        )
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
        return Path(hf_hub_download(name, FILE))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"no delta at {name}: there is no such folder (looked at {here.absolute()}), and it "
            f"cannot be had from the hub ({reason})"
        ) from error


def _find_method_of(header: Header, file: Path, method_file: str | None) -> Found:
    if method_file is not None:
        return finding.find_method(method_file)
    name, own = header.method["name"], header.method.get("file")
    if own is not None:
        raise InputError(
            f"{file} was made by a method of someone's own, {own}: give that file with "
            f"method_file={own}. It is not run unasked."
        )
    return finding.find_method(header.method.get("base", name))


def _choose_card(header: Header) -> ModelCard:
    facts = {k: v for k, v in header.backbone.items() if k != "fingerprint"}
    if facts["name"] in cards.list_cards("model"):
        return cards.find_model(facts["name"], {"image_size": facts["image_size"]})
    return ModelCard(**facts)


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


def _convert_error(error: SafetensorError) -> Exception:
    # safetensors writes with its own code and wraps the system's error into its message.
    text = str(error)
    if "os error" in text:
        number = int(text.rsplit("os error", 1)[1].strip(" :)\"'").split(")")[0])
        return OSError(number, text)
    return error
