"""What the tests share: a tiny real CLIP, small folders of images, and a place for every cache."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is first imported
if "PYTEST_XDIST_WORKER" in os.environ:  # as many workers as cores: each has one
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is first imported
os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = os.path.join(os.devnull, "notes")  # keeps none

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from clip_adapt import cli
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config.cards import ModelCard
from clip_adapt.evaluation import resampling

TINY = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32,
        "layers": 2,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 2,
    },
}


@pytest.fixture(scope="session")
def tiny_card(tmp_path_factory):
    """The card of a CLIP of two small towers with random weights that the fixture writes."""
    folder = tmp_path_factory.mktemp("tiny")
    config = folder / "tiny.json"
    config.write_text(json.dumps(TINY))
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny", force_custom_text=True)
    weights = folder / "tiny.safetensors"
    save_file(model.state_dict(), weights)
    return ModelCard(architecture=str(config), pretrained=str(weights), name="tiny")


@pytest.fixture(scope="session")
def tiny_backbone(tiny_card):
    return Backbone.from_card(tiny_card, device="cpu")


@pytest.fixture
def double_backbone(tiny_card):
    return Backbone.from_card(tiny_card, device="cpu").double()


@pytest.fixture
def tiny_model(tiny_card, tmp_path):
    """The path of a card.yaml of the tiny backbone, for ``model=``."""
    path = tmp_path / "tiny.yaml"
    path.write_text(f"architecture: {tiny_card.architecture}\npretrained: {tiny_card.pretrained}\n")
    return str(path)


@pytest.fixture(scope="session")
def make_folder():
    """A function that writes class folders of small images, the classes apart by colour."""

    def make(root, splits=("train", "val", "test"), classes=("cat", "dog", "eel"), per_class=6,
             size=40, seed=0):  # fmt: skip
        stream = np.random.default_rng(seed)
        colours = np.random.default_rng(1).integers(40, 200, (len(classes), 3))
        for split in splits or ("",):
            for colour, name in zip(colours, classes, strict=True):
                folder = Path(root) / split / name
                folder.mkdir(parents=True)
                for index in range(per_class):
                    noise = stream.integers(-40, 55, (size, size, 3))
                    picture = (colour + noise).clip(0, 255).astype(np.uint8)
                    Image.fromarray(picture).save(folder / f"{index}.png")
        return Path(root)

    return make


@pytest.fixture(autouse=True)
def own_place(tmp_path, tmp_path_factory, monkeypatch):
    """Caches and runs land in temporary folders, and no test reaches the network."""
    monkeypatch.setenv("CLIP_ADAPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run_cli(capsys):
    """A function that runs a command line in this process: (exit code, stdout, stderr)."""

    def run(verb, *words):
        capsys.readouterr()
        code = cli.run(verb, [str(word) for word in words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture(scope="session")
def animals(make_folder, tmp_path_factory):
    """A folder with train, val and test of three classes; to be read only."""
    return make_folder(tmp_path_factory.mktemp("pictures") / "animals")


@pytest.fixture
def train_tiny(run_cli, tiny_model, monkeypatch):
    """A function that trains the tiny CLIP shortly: (exit code, stdout, stderr)."""
    monkeypatch.setattr(resampling, "RESAMPLES", 20)  # 1000 take longer than all the rest

    def train(dataset, *words):
        usual = {
            "method": "coop",
            "dataset": dataset,
            "model": tiny_model,
            "epochs": 2,
            "shots": 2,
            "tensorboard": "false",
            "output": "out",
        }
        return run_cli("train", *(f"{key}={value}" for key, value in usual.items()), *words)

    return train


@pytest.fixture
def everything_in():
    """A function that lists all files below a folder, hidden ones too; None without a folder."""

    def listing(folder):
        top = Path(folder)
        found = sorted(p.relative_to(top).as_posix() for p in top.rglob("*") if p.is_file())
        return found if top.exists() else None

    return listing
