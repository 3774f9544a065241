"""The tensors of a TorchScript archive, read without running anything that is in it.

OpenAI published CLIP as such archives. ``torch.jit.load`` builds their classes and runs their code,
which PyTorch asks to trust like a program, and ``torch.load(weights_only=True)`` refuses them. What
is wanted is only data: this reads the archive's object tree with the disassembler of the standard
library, which executes nothing, rebuilds containers and tensors, and takes all else for a name.
"""

from __future__ import annotations

import math
import pickletools
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip_adapt.errors import InputError

STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}
_MARK = object()
MOST_OBJECTS, DEEPEST = 100_000, 100  # the largest CLIP has some thousand, ten inside one another
MOST_CODE = 64 << 20  # bytes


@dataclass
class _Name:
    """A class or a function that the archive names; never looked up."""

    name: str


@dataclass
class _Object:
    """An instance of a class of the archive: its attributes, uninterpreted."""

    cls: str
    attributes: dict[str, Any] = field(default_factory=dict)


def is_archive(path: Path) -> bool:
    """Return whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return any("/code/" in name for name in names) and any(n.endswith("/data.pkl") for n in names)


def read_archive(path: Path) -> dict[str, Tensor]:
    """Return the parameters and buffers of the archive's module, by their dotted names.

    Raises:
        InputError: when the archive holds something that such files do not hold.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            root = next(n for n in names if n.endswith("/data.pkl"))[: -len("data.pkl")]
            kept = _find_declared(archive, root)
            return _collect_tensors(_Reader(archive, root).read_tree(), kept)
    except (*_DAMAGE, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is not a TorchScript archive that can be read as data ({error!r}). "
            "Ask for the weights as .safetensors."
        ) from error


_DAMAGE = (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, EOFError,
           NotImplementedError, StopIteration, OSError)  # fmt: skip


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    # TorchScript compresses its code only; a few bytes could stand for any number of them.
    member = archive.getinfo(name)
    if member.file_size > max(member.compress_size, MOST_CODE):
        raise ValueError(f"{name} would unpack to {member.file_size} bytes")
    return archive.read(member)


def _collect_tensors(top: _Object, kept: dict[str, set[str]]) -> dict[str, Tensor]:
    # An object may be named from many places, and each name of a tensor counts; a file of three
    # kilobytes can name one by more ways than there are atoms, or by way of itself.
    found: dict[str, Tensor] = {}
    waiting, visited = [("", top)], 0
    while waiting:
        prefix, node = waiting.pop()
        visited += 1
        if visited > MOST_OBJECTS or prefix.count(".") > DEEPEST:
            raise ValueError("its objects refer to one another without end")
        for name, value in node.attributes.items():
            if isinstance(value, _Object):
                waiting.append((f"{prefix}{name}.", value))
            elif isinstance(value, Tensor) and name in kept.get(node.cls, ()):
                found[f"{prefix}{name}"] = value
    return found


def _find_declared(archive: zipfile.ZipFile, root: str) -> dict[str, set[str]]:
    # A class lists its parameters and buffers in its source; its other tensors are constants, as
    # CLIP's causal mask, and are not weights.
    declared: dict[str, set[str]] = {}
    for file in archive.namelist():
        if not (file.startswith(f"{root}code/__torch__/") and file.endswith(".py")):
            continue
        module = file[len(f"{root}code/__torch__/") : -len(".py")].replace("/", ".")
        for chunk in re.split(r"^class ", _read_member(archive, file).decode(), flags=re.MULTILINE)[
            1:
        ]:
            lists = re.findall(r"^  __(?:parameters|buffers)__ = \[(.*?)\]", chunk, re.M | re.S)
            names = {name for part in lists for name in re.findall(r'"([^"]+)"', part)}
            declared[f"{module}.{chunk.partition('(')[0]}"] = names
    return declared


class _Reader:
    """A stack machine for the few instructions of TorchScript's own serialiser."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self.archive, self.root = archive, root
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Tensor] = {}

    def read_tree(self) -> _Object:
        for instruction, argument, _ in pickletools.genops(
            _read_member(self.archive, f"{self.root}data.pkl")
        ):
            self._step(instruction.name, argument)
        (result,) = self.stack
        return result

    def _step(self, name: str, argument: Any) -> None:
        if name in ("PROTO", "STOP"):
            return
        if name == "GLOBAL":
            self.stack.append(_Name(argument.replace(" ", ".")))
        elif name.startswith(("BININT", "LONG", "BINUNICODE", "BINFLOAT", "SHORT_BINUNICODE")) and (
            name not in ("LONG_BINPUT", "LONG_BINGET")
        ):
            self.stack.append(argument)
        elif name in ("NONE", "NEWTRUE", "NEWFALSE"):
            self.stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name == "BINPERSID":
            self.stack.append(self._read_storage(self.stack.pop()))
        else:
            self._build_container(name)

    def _build_container(self, name: str) -> None:
        stack = self.stack
        if name in ("MARK", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT"):
            made: dict[str, Any] = {"EMPTY_TUPLE": (), "EMPTY_LIST": [], "EMPTY_DICT": {}}
            stack.append(made.get(name, _MARK))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "TUPLE":
            items = self._pop_to_mark()
            stack.append(tuple(items))
        elif name in ("APPEND", "SETITEM"):
            count = 1 if name == "APPEND" else 2
            items, stack[-count:] = stack[-count:], []
            self._fill(stack[-1], items)
        elif name in ("APPENDS", "SETITEMS"):
            items = self._pop_to_mark()
            self._fill(stack[-1], items)
        elif name in ("NEWOBJ", "REDUCE", "BUILD"):
            argument = stack.pop()
            stack.append(_build_object(name, stack.pop(), argument))
        else:
            raise ValueError(f"instruction {name}")

    def _fill(self, container: Any, items: list[Any]) -> None:
        if isinstance(container, list):
            container.extend(items)
        else:
            container.update(zip(items[::2], items[1::2], strict=True))

    def _pop_to_mark(self) -> list[Any]:
        start = len(self.stack) - 1
        while self.stack[start] is not _MARK:
            start -= 1
        items, self.stack[start:] = self.stack[start + 1 :], []
        return items

    def _read_storage(self, description: tuple[Any, ...]) -> Tensor:
        _, kind, key, _, count = description
        if key not in self.storages:  # once, however many tensors lie in it
            dtype = STORAGES[kind.name.rpartition(".")[2]]
            data = bytearray(_read_member(self.archive, f"{self.root}data/{key}"))
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0)
        return self.storages[key][:count]


def _build_object(instruction: str, head: Any, argument: Any) -> Any:
    if instruction == "NEWOBJ":
        return _Object(head.name.removeprefix("__torch__.")) if isinstance(head, _Name) else head
    if instruction == "BUILD":
        if isinstance(head, _Object) and isinstance(argument, dict):
            head.attributes |= argument
        return head
    if head == _Name("torch._utils._rebuild_tensor_v2"):
        storage, offset, size, stride = argument[:4]
        if math.prod(size) > storage.numel():
            raise ValueError(f"a tensor of {size} in {storage.numel()} values")
        return storage.as_strided(size, stride, offset)
    if head == _Name("torch._utils._rebuild_parameter"):
        return argument[0]
    return _Object("")  # a list with a type, a device: nothing that holds weights
