"""transformers' CLIP and SigLIP, converted: the same features and logits from the same weights."""

from __future__ import annotations

import json
import shutil

import families
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from open_clip.constants import OPENAI_DATASET_STD as OPENAI_STD
from PIL import Image

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.backbone.weights import transformers_images
from clip_adapt.config.cards import ModelCard
from clip_adapt.data import decoding
from clip_adapt.errors import InputError
from clip_adapt.inputs import views

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
IMAGE = {**SIZES, "image_size": 32, "patch_size": 8}


def clip(act="quick_gelu", **text):
    """Return a tiny CLIPModel whose towers have widths of their own."""
    text = {**SIZES, "hidden_size": 16, "hidden_act": act, **text}
    image = {**IMAGE, "hidden_act": act}
    config = transformers.CLIPConfig(text_config=text, vision_config=image, projection_dim=24)
    return transformers.CLIPModel(config)


def siglip(act="gelu_pytorch_tanh"):
    """Return a tiny SiglipModel."""
    text = {**SIZES, "vocab_size": 80, "max_position_embeddings": 24, "hidden_act": act}
    image = {**IMAGE, "hidden_act": act}
    return transformers.SiglipModel(
        transformers.SiglipConfig(text_config=text, vision_config=image)
    )


def written(model, folder, seed=0):
    """Write a model with weights away from their start as transformers does."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.eval().save_pretrained(folder)
    if model.config.model_type == "siglip":
        families.write_text_files("siglip", folder)
        (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    return folder


CASES = {
    "clip quick_gelu": clip,
    "clip gelu": lambda: clip("gelu"),
    "clip, old end token": lambda: clip(eos_token_id=2),
    "clip, end token of its own": lambda: clip(eos_token_id=269),
    "siglip": siglip,
    "siglip gelu": lambda: siglip("gelu"),
}


@pytest.mark.parametrize("case", CASES)
def test_features_and_logits_are_transformers_own(case, tmp_path):
    theirs = CASES[case]()
    backbone = Backbone.load(str(written(theirs, tmp_path / "model")), device="cpu")
    pixels = torch.randn(3, 3, 32, 32)
    ids = backbone.tokenizer(["a photo of a cat.", "dog", "the eye."], backbone.context_length)
    if case == "clip, end token of its own":  # "." ends a text before its padding
        assert bool((ids == 269).any(1)[[0, 2]].all())
        ids = ids[[0, 2]]
    with torch.no_grad():
        expected = theirs(input_ids=ids, pixel_values=pixels)
        image, text = backbone.encode_image(pixels), F.normalize(backbone.model.text(ids), dim=-1)
        logits = backbone.logit_scale * image @ text.T
        if backbone.logit_bias is not None:
            logits = logits + backbone.logit_bias
    assert torch.allclose(image, expected.image_embeds, rtol=0, atol=1e-5)
    assert torch.allclose(text, expected.text_embeds, rtol=0, atol=1e-5)
    assert torch.allclose(logits, expected.logits_per_image, rtol=0, atol=1e-5)
    assert text.std(0).max() > 1e-3 and image.std(0).max() > 1e-3


def test_a_converted_model_is_told_by_its_weights(tmp_path):
    first = Backbone.load(str(written(clip(), tmp_path / "a")), device="cpu")
    second = Backbone.load(str(written(clip(), tmp_path / "b", seed=1)), device="cpu")
    assert first.fingerprint != second.fingerprint


def test_a_larger_image_and_a_bin_file(tmp_path):
    model = siglip()
    folder = written(model, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    larger = Backbone.load(str(folder), image_size=64, device="cpu")
    assert larger.image_size == 64
    assert larger.encode_image(torch.randn(1, 3, 64, 64)).shape == (1, 32)


def test_the_image_transform_is_the_processors(tmp_path):
    folder = written(clip(), tmp_path / "model")
    assert Backbone.load(str(folder), device="cpu").transform["resize_mode"] == "shortest"
    held = {
        "image_mean": [0.5] * 3,
        "image_std": [0.25] * 3,
        "resample": 2,
        "do_center_crop": False,
    }
    held["size"] = {"height": 32, "width": 32}
    (folder / "preprocessor_config.json").write_text(json.dumps(held))
    transform = Backbone.load(str(folder), device="cpu").transform
    assert transform["mean"] == [0.5] * 3 and transform["std"] == [0.25] * 3
    assert (transform["interpolation"], transform["resize_mode"]) == ("bilinear", "squash")
    siglip_default = transformers_images.convert_preprocessing(None, "siglip", 32)
    assert siglip_default["resize_mode"] == "squash" and siglip_default["mean"] == [0.5] * 3


def test_what_version_5_writes_comes_first(tmp_path):
    folder = written(clip(), tmp_path / "model")
    own = {"image_mean": [0.4] * 3, "image_std": [0.2] * 3, "image_processor_type": "CLIPX"}
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1] * 3}))
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": own}))
    transform = Backbone.load(str(folder), device="cpu").transform
    assert transform["mean"] == [0.4] * 3 and transform["std"] == [0.2] * 3
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "CLIPProcessor"}))
    transform = Backbone.load(str(folder), device="cpu").transform
    assert transform["mean"] == [0.1] * 3 and transform["std"] == pytest.approx(OPENAI_STD)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize(
    "own",
    [
        {},
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]},
        {"resample": 2},
        {"size": {"height": 32, "width": 32}, "do_center_crop": False},
    ],
)
def test_pixels_are_the_processors_own(kind, own, tmp_path):
    made = {"clip": transformers.CLIPImageProcessor, "siglip": transformers.SiglipImageProcessor}
    side = {"height": 32, "width": 32}
    sizes = {"size": {"shortest_edge": 32}, "crop_size": side} if kind == "clip" else {"size": side}
    processor = made[kind](**{**sizes, **own})
    folder = written(clip() if kind == "clip" else siglip(), tmp_path / "model")
    (folder / "processor_config.json").write_text(
        json.dumps({"image_processor": json.loads(processor.to_json_string())})
    )
    backbone = Backbone.load(str(folder), device="cpu")
    wave = np.sin(np.arange(60 * 45 * 3).reshape(60, 45, 3) / 90) * 100 + 120
    picture = Image.fromarray(wave.astype(np.uint8))
    theirs = processor(images=picture, return_tensors="pt")["pixel_values"][0]
    ours = views.make_centre_view(backbone, decoding.load(picture))
    assert ours.shape == theirs.shape
    # The libraries round at different places: two steps of 255 at most.
    assert (ours - theirs).abs().max() <= 2.01 / 255 / min(processor.image_std)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"resample": 0}, "resample=0"),
        ({"resample": 1}, "resample=1"),
        ({"do_normalize": False}, "do_normalize=False"),
        ({"do_rescale": False}, "do_rescale=False"),
        ({"do_resize": False}, "do_resize=False"),
        ({"do_pad": True}, "do_pad=True"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor=0.0078"),
        ({"size": {"shortest_edge": 36}}, "size={'shortest_edge': 36} with a centre crop of"),
        ({"size": 36}, "size=36"),
        ({"do_center_crop": False}, "centre crop of off"),
        ({"crop_size": {"height": 32, "width": 24}}, "'width': 24"),
        ({"size": {"longest_edge": 32}}, "longest_edge"),
        ({"size": {"height": 32, "width": 64}, "do_center_crop": False}, "'width': 64"),
        ({"image_processor_type": "ViTImageProcessor"}, "ViTImageProcessor, whose defaults are"),
    ],
)
def test_what_our_transform_cannot_do_is_refused(asked, named, tmp_path):
    with pytest.raises(InputError) as refused:
        transformers_images.convert_preprocessing(asked, "clip", 32)
    assert named in str(refused.value)


@pytest.mark.parametrize("asked", [{"size": 32, "crop_size": 32}, {"size": 32, "resample": None}])
def test_what_older_versions_wrote(asked):
    made = transformers_images.convert_preprocessing(asked, "clip", 32)
    assert (made["resize_mode"], made["interpolation"]) == ("shortest", "bicubic")


def test_a_fingerprint_does_not_hold_the_place_of_a_tokenizer(tmp_path):
    folder = written(siglip(), tmp_path / "model")
    shutil.copytree(folder, tmp_path / "elsewhere" / "copy")
    here, there = (
        Backbone.load(str(place), device="cpu").fingerprint
        for place in (folder, tmp_path / "elsewhere" / "copy")
    )
    assert here == there


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (
            {"model_type": "siglip2"},
            "type 'siglip2' is not a known CLIP: expected one of clip",
        ),
        ({"model_type": "bert"}, "type 'bert' is not a known CLIP"),
        (
            {"model_type": "clip", "text_config": {"hidden_act": "relu"}},
            "the towers have the activations quick_gelu and relu",
        ),
        (
            {"model_type": "siglip", "vision_config": {"vision_use_head": False}},
            "without its pooling head",
        ),
    ],
)
def test_what_cannot_be_converted_says_why(held, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(held))
    with pytest.raises(InputError, match=message):
        Backbone.from_card(ModelCard(str(tmp_path)))
