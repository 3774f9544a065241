"""What all tests share: a tiny CLIP, tiny image folders, and a place of their own for every file."""

import json
import os

# Read once, when huggingface_hub is imported: no test may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from clip_adapt import cli
from clip_adapt.backbone import Backbone
from clip_adapt.cards import ModelCard

ROOT = Path(__file__).parents[1]
SPLITS = ("train", "val", "test")
CLASSES = ("cat", "dog", "eel")
COLOURS = ((200, 60, 60), (60, 200, 60), (60, 60, 200), (200, 200, 60), (60, 200, 200))

ARCHITECTURE = {
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

torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory):
    """The cache folder of a whole session: a feature that one test computed serves the next."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path, session_cache):
    """Nothing that a test writes lands in the repository or in the user's own cache."""
    monkeypatch.setenv("CLIP_ADAPT_CACHE", str(session_cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def tiny_card(tmp_path_factory):
    """The card of a two-layer CLIP with seeded random weights, in files of its own."""
    folder = tmp_path_factory.mktemp("tiny")
    architecture = folder / "tiny-clip.json"
    architecture.write_text(json.dumps(ARCHITECTURE), encoding="utf-8")
    open_clip.add_model_config(architecture)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model("tiny-clip", force_custom_text=True)
    weights = folder / "tiny-clip.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, weights)
    return ModelCard(architecture=str(architecture), pretrained=str(weights), name="tiny")


@pytest.fixture(scope="session")
def tiny_backbone(tiny_card):
    """The two-layer CLIP, shared by all tests: it is frozen."""
    return Backbone.from_card(tiny_card, device="cpu")


@pytest.fixture
def double_backbone(tiny_card):
    """A fresh two-layer CLIP in float64."""
    return Backbone.from_card(tiny_card, device="cpu").double()


@pytest.fixture(scope="session")
def tiny_yaml(tiny_card):
    """The two-layer CLIP as a card.yaml, for command lines."""
    path = Path(tiny_card.architecture).with_name("tiny.yaml")
    path.write_text(
        f"architecture: {tiny_card.architecture}\npretrained: {tiny_card.pretrained}\n",
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="session")
def image_folder():
    """Return the function that writes class folders of small pictures."""
    return make_folder


def make_folder(root, splits=SPLITS, classes=CLASSES, per_class=6, size=40, seed=0):
    """Write PNG pictures, a colour a class with noise, no two of them alike; return the root.

    Args:
        root: where ``split/class/number.png`` go; ``class/number.png`` without splits.
        splits: names of the splits; empty for a folder without.
        classes: names of the class folders.
        per_class: pictures a class and split.
        size: edge in pixels.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    for split in splits or ("",):
        for label, name in enumerate(classes):
            folder = Path(root) / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(per_class):
                write_picture(folder / f"{number}.png", COLOURS[label % len(COLOURS)], rng, size)
    return Path(root)


def write_picture(path, colour, rng, size=40):
    """Write one noisy picture of a colour."""
    noise = rng.integers(-50, 51, (size, size, 3))
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="session")
def animals(tmp_path_factory):
    """A folder with train, val and test of three classes; to be read only."""
    return make_folder(tmp_path_factory.mktemp("pictures") / "animals")


@pytest.fixture
def run_cli(capsys):
    """Return a function that runs a command line: words -> (exit code, stdout, stderr)."""

    def run(*words):
        capsys.readouterr()
        code = cli.run(str(words[0]), [str(word) for word in words[1:]])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def train_tiny(run_cli, tiny_yaml):
    """Return a function that trains on the two-layer CLIP: words -> (exit code, stdout, stderr)."""

    def train(dataset, *words, method="coop"):
        own = ("method.n_ctx=2",) if method == "coop" else ()
        given = {str(word).partition("=")[0] for word in words}
        usual = {"epochs": 2, "shots": 2, "tensorboard": "false", "output": "out"}
        defaults = [f"{key}={value}" for key, value in usual.items() if key not in given]
        base = (f"method={method}", f"dataset={dataset}", f"model={tiny_yaml}", *own)
        return run_cli("train", *base, *defaults, *words)

    return train


def everything_in(folder):
    """Return every file and folder below a folder, hidden ones too, as sorted relative paths."""
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))
