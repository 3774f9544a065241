"""A model folder of somebody else's gives sizes and weights; it runs, opens and fetches nothing."""

from __future__ import annotations

import copy
import json

import huggingface_hub
import pytest
from families import TEXT, VIT, bert, write_text_files

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.backbone.weights import foreign
from clip_adapt.errors import InputError

EVIL = """
from pathlib import Path
Path("ran").touch()
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
class Evil(PreTrainedTokenizerFast):
    pass
class Config(BertConfig):
    model_type = "evil"
class Model(BertModel):
    config_class = Config
"""


@pytest.fixture
def folder(tmp_path):
    """A function that writes a model folder of this configuration: its path."""

    def write(vision=(), text=()):
        place = tmp_path / "model"
        write_text_files("bert", place / "bert")
        config = copy.deepcopy(bert("bert"))
        config["vision_cfg"] |= dict(vision)
        config["text_cfg"] |= dict(text)
        (place / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
        return place

    return write


def add_to(file, **facts):
    """Change a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))


def load(place):
    return Backbone.load(str(place), pretrained="random", device="cpu")


def test_a_folder_without_tricks_loads(folder):
    assert load(folder(text={"tokenizer_kwargs": {"clean": "whitespace"}})).embed_dim == 24


@pytest.mark.parametrize("options", [{"trust_remote_code": True}, {}])
def test_the_python_of_a_tokenizer_is_not_run(folder, tmp_path, options, monkeypatch):
    place = folder(text={"tokenizer_kwargs": options})
    (place / "bert" / "evil.py").write_text(EVIL)
    own = {"AutoTokenizer": [None, "evil.Evil"]}
    add_to(place / "bert" / "tokenizer_config.json", auto_map=own, tokenizer_class="Evil")
    monkeypatch.setattr("builtins.input", lambda *words: "y")  # as an answer to transformers
    try:
        load(place)
    except InputError as error:
        assert not options or "gives the tokenizer trust_remote_code=True: expected" in str(error)
    else:
        assert not options
    assert not (tmp_path / "ran").exists()


def test_the_python_of_a_text_tower_is_not_run(folder, tmp_path, monkeypatch):
    place = folder()
    (place / "bert" / "evil.py").write_text(EVIL)
    own = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    add_to(place / "bert" / "config.json", auto_map=own, model_type="evil")
    monkeypatch.setattr("builtins.input", lambda *words: "y")
    with pytest.raises(InputError, match="kind 'evil' of its own Python code, which is not run"):
        load(place)
    assert not (tmp_path / "ran").exists()


def test_a_kernel_is_not_fetched(folder):
    place = folder()
    add_to(place / "bert" / "config.json", _attn_implementation="someone/kernel")
    with pytest.raises(InputError, match="_attn_implementation=someone/kernel, compiled code"):
        load(place)


@pytest.mark.parametrize(
    "vision",
    [
        {"timm_model_name": "hf-hub:someone/thing"},
        {"timm_model_name": "local-dir:model"},
        {"timm_kwargs": {"checkpoint_path": "x.pt"}},
        {"timm_kwargs": {"pretrained_cfg": {"url": "https://example.org/x.pt"}}},
    ],
)
def test_an_image_tower_is_made_of_sizes(folder, vision, monkeypatch):
    asked = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: asked.append(a))
    monkeypatch.setattr("timm.models._hub.hf_hub_download", lambda *a, **k: asked.append(a))
    with pytest.raises(InputError, match=r"its configuration (names|gives) the image tower"):
        load(folder(vision=vision))
    assert asked == []


def test_a_vocabulary_is_not_a_files_to_choose(tmp_path):
    text = {**TEXT, "tokenizer_kwargs": {"bpe_path": "/etc/passwd"}}
    config = {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": text}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="gives the tokenizer bpe_path='/etc/passwd': expected"):
        load(tmp_path)


def test_the_parts_of_weights_lie_beside_their_index(folder, tmp_path):
    from clip_adapt.backbone.weights import checkpoint

    with pytest.raises(InputError, match=r"names '\.\./a\.safetensors', which is not a file"):
        checkpoint.read_shards(tmp_path / "index.json", {"x": "../a.safetensors"})


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("text_cfg", "layers", 10**200),
        ("vision_cfg", "image_size", 49_408),
        ("vision_cfg", "head_width", 8.0),
        ("vision_cfg", "layers", [1, -1]),
        ("text_cfg", "vocab_size", True),
    ],
)
def test_sizes_of_no_model_are_refused(part, key, value):
    with pytest.raises(InputError, match=f"its configuration says {key}=.*: expected a whole"):
        foreign.check_sizes({"embed_dim": 8, part: {"width": 8, key: value}})
    foreign.check_sizes({"embed_dim": 8, part: {"width": 8, "layers": [3, 4], "heads": None}})
