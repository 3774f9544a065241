"""The cards of configs/model: complete, and of architectures that exist and can be taken apart."""

from __future__ import annotations

import json
import shutil

import open_clip
import pytest
import torch

from clip_adapt.backbone import attention
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.backbone.weights import plan, towers
from clip_adapt.config import cards, yamls

NAMES = cards.list_cards("model")
BERT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
SMALL = ("mobileclip2-s0", "rn50")
# One architecture of open_clip for each kind of timm tower with attention.
TIMM = [
    "EVA01-g-14",
    "EVA02-B-16",
    "MobileCLIP-B",
    "MobileCLIP2-S0",
    "PE-Core-T-16-384",
    "ViT-B-16-SigLIP",
    "ViTamin-S",
    "swin_base_patch4_window7_224",
    "vit_relpos_medium_patch16_cls_224",
]


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """BiomedCLIP's repository and its BERT's as the cache holds them, without the weights."""
    from huggingface_hub import constants
    from transformers import BertConfig

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    text = {
        "hf_model_name": BERT,
        "hf_tokenizer_name": BERT,
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 256,
    }
    vision = {
        "timm_model_name": "vit_base_patch16_224",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 224,
    }
    config = {"embed_dim": 512, "vision_cfg": vision, "text_cfg": text}
    repository = cards.find_model("biomedclip").architecture.removeprefix("hf-hub:")
    for name in (repository, BERT):
        place = tmp_path / f"models--{name.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("0" * 40)
        (place / "snapshots" / ("0" * 40)).mkdir(parents=True)
        if name == BERT:
            BertConfig().save_pretrained(place / "snapshots" / ("0" * 40))
        else:
            held = json.dumps({"model_cfg": config})
            (place / "snapshots" / ("0" * 40) / "open_clip_config.json").write_text(held)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_all_that_it_should(name):
    card = cards.find_model(name)
    written = yamls.read_yaml(cards.locate_card("model", name))
    assert set(written) == {f for f in vars(card) if f != "name"}
    assert card.licence
    assert card.pretrained is not None or card.architecture.startswith("hf-hub:")
    assert (card.download is None) == card.architecture.startswith("package:")
    tags = open_clip.list_pretrained_tags_by_model(card.architecture)
    assert card.pretrained in tags or card.architecture.startswith(("package:", "hf-hub:"))


@pytest.mark.parametrize("name", NAMES)
def test_a_card_s_architecture_can_be_built_and_taken_apart(name, hub_cache):
    card = cards.find_model(name)
    wanted = plan.make_plan(card)
    with torch.device("meta"):
        model = towers.build_model(wanted.config, card.image_size, wanted.folder)
    towers.finish_model(model, wanted.config, wanted.preprocess, card.image_size)
    attention.separate_attention(model)
    assert attention.find_fused(model) == []
    sizes = {"lite": 160, "mobileclip2-s0": 256}
    assert set(torch.tensor(model.visual.image_size).flatten().tolist()) == {sizes.get(name, 224)}
    count = sum(tensor.numel() for tensor in model.state_dict().values())
    if card.download is not None:
        number, unit = card.download.split()
        bytes_ = float(number) * {"MB": 1e6, "GB": 1e9}[unit]
        assert 4 * count == pytest.approx(bytes_, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_small_one_encodes_with_random_weights(name):
    backbone = Backbone.load(name, pretrained="random", device="cpu")
    size = backbone.image_size
    z, w = backbone.encode_image(torch.randn(1, 3, size, size)), backbone.encode_text(["a cat."])
    assert z.shape == w.shape == (1, backbone.embed_dim)


@pytest.mark.parametrize("name", TIMM)
def test_timm_towers_of_open_clip_leave_no_attention_fused(name):
    with torch.device("meta"):
        model = towers.build_model(open_clip.get_model_config(name))
    assert attention.separate_attention(model.visual) > 0
    assert attention.find_fused(model.visual) == []


def test_what_biomedclip_misses_without_a_network_is_said(hub_cache):
    shutil.rmtree(hub_cache / f"models--{BERT.replace('/', '--')}")
    with pytest.raises(plan.InputError) as refused:
        Backbone.load("biomedclip", pretrained="random")
    assert f"config.json of {BERT} is missing here and the hub cannot be reached" in str(
        refused.value
    )
