"""The backbone against open_clip's own model, and the soft prompt against the hard one."""

from __future__ import annotations

import math

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clip_adapt.backbone import attention, encoding_plan, prompts
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config.cards import ModelCard
from clip_adapt.errors import InputError

TEXTS = ["a photo of a cat.", "x", "a much longer description of a very small animal in a tree."]


@pytest.fixture
def reference(tiny_card):
    """open_clip's model with the same weights and its fused attention."""
    open_clip.add_model_config(tiny_card.architecture)
    name = tiny_card.architecture.rpartition("/")[2].removesuffix(".json")
    model = open_clip.create_model(name, pretrained=tiny_card.pretrained, force_custom_text=True)
    return model.eval()


def test_features_equal_open_clips(tiny_backbone, reference):
    pixels = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        image = reference.encode_image(pixels, normalize=True)
        text = reference.encode_text(tiny_backbone.tokenizer(TEXTS), normalize=True)
        assert torch.allclose(tiny_backbone.encode_image(pixels), image, atol=1e-6)
        assert torch.allclose(tiny_backbone.encode_text(TEXTS), text, atol=1e-6)
    assert float(tiny_backbone.logit_scale) == pytest.approx(reference.logit_scale.exp().item())
    assert tiny_backbone.logit_bias is None


def test_shapes_and_unit_length(tiny_backbone):
    z = tiny_backbone.encode_image(torch.randn(2, 3, 32, 32))
    w = tiny_backbone.encode_text(TEXTS)
    assert z.shape == (2, tiny_backbone.embed_dim) and w.shape == (3, tiny_backbone.embed_dim)
    assert torch.allclose(z.norm(dim=1), torch.ones(2)) and torch.allclose(
        w.norm(dim=1), torch.ones(3)
    )
    assert (tiny_backbone.image_size, tiny_backbone.context_length) == (32, 77)


def test_a_truncated_run_equals_all_77_positions(double_backbone):
    ids = double_backbone.tokenizer(TEXTS)
    full = F.normalize(double_backbone.model.text(ids), dim=1)
    short = double_backbone.encode_text(TEXTS)
    assert (
        encoding_plan.count_columns(double_backbone.model.text, ids)
        == int((ids != 0).sum(1).max())
        < 77
    )
    assert torch.allclose(short, full, rtol=0, atol=1e-12)


def test_everything_is_frozen_for_good(tiny_backbone):
    tiny_backbone.train()
    assert not any(m.training for m in tiny_backbone.model.modules())
    assert not any(p.requires_grad for p in tiny_backbone.parameters())


def test_words_as_context_equal_the_words_themselves(double_backbone):
    context = double_backbone.embed_words("a photo of a").double()
    soft = double_backbone.encode_prompts(context, ["cat.", "dog."])
    hard = double_backbone.encode_text(["a photo of a cat.", "a photo of a dog."])
    assert torch.allclose(soft, hard, rtol=0, atol=1e-7)  # words are read out in float32


def test_only_the_slots_are_replaced_and_only_while_asked(double_backbone):
    before = double_backbone.encode_text(["cat."])
    context = torch.randn(3, double_backbone.token_width, dtype=torch.float64)
    changed = double_backbone.encode_prompts(context, ["cat."])
    assert not torch.allclose(before, changed, atol=1e-3)
    assert torch.equal(before, double_backbone.encode_text(["cat."]))


def test_a_failing_prompt_leaves_no_hook(tiny_backbone):
    ids, slots = torch.zeros(1, 77, dtype=torch.long), torch.ones(1, 77, dtype=torch.bool)
    prompt = prompts.PromptTokens(ids, slots)
    with (
        pytest.raises(ZeroDivisionError),
        prompts.replace_embeddings(
            tiny_backbone.token_embedding, prompt, torch.zeros(77, tiny_backbone.token_width)
        ),
    ):
        raise ZeroDivisionError
    assert not tiny_backbone.token_embedding._forward_hooks


@pytest.mark.parametrize("name", ["x-ray", "x y z", "the z-score of q"])
def test_placeholders_step_aside_for_class_names(double_backbone, name):
    context = double_backbone.embed_words("a photo of a").double()
    soft = double_backbone.encode_prompts(context, [f"{name}.", "dog."])
    hard = double_backbone.encode_text([f"a photo of a {name}.", "a photo of a dog."])
    assert torch.allclose(soft, hard, rtol=0, atol=1e-7)


def test_no_placeholder_left_is_said(tiny_backbone):
    with pytest.raises(InputError, match="no placeholder is left"):
        tiny_backbone.encode_prompts(torch.zeros(1, 32), [" ".join(prompts.PLACEHOLDERS)])


def test_a_text_that_does_not_fit_is_refused(tiny_backbone):
    fits = " ".join(["cat"] * 75)
    assert tiny_backbone.encode_text([fits]).shape == (1, 16)
    with pytest.raises(InputError, match="78 tokens does not fit into the text tower's 77"):
        tiny_backbone.encode_text([f"{fits} cat"])


def test_the_fingerprint_tells_weights_and_size(tiny_card, tiny_backbone):
    again = Backbone.from_card(tiny_card, device="cpu")
    assert again.fingerprint == tiny_backbone.fingerprint and len(again.fingerprint) == 64
    larger = Backbone.from_card(ModelCard(**{**vars(tiny_card), "image_size": 64}), device="cpu")
    torch.manual_seed(9)
    random = Backbone.from_card(ModelCard(**{**vars(tiny_card), "pretrained": "random"}))
    assert len({again.fingerprint, larger.fingerprint, random.fingerprint}) == 3
    assert larger.image_size == 64 and larger.encode_image(torch.randn(1, 3, 64, 64)).shape[0] == 1


def test_half_precision_keeps_features_in_float32(tiny_card, tiny_backbone):
    half = Backbone.from_card(tiny_card, device="cpu", precision="bf16")
    assert half.dtype == torch.bfloat16 and half.fingerprint == tiny_backbone.fingerprint
    context = torch.randn(2, 32, requires_grad=True)
    w = half.encode_prompts(context, ["cat.", "dog."])
    w.sum().backward()
    assert w.dtype == context.grad.dtype == torch.float32
    full = tiny_backbone.encode_prompts(context, ["cat.", "dog."])
    assert torch.allclose(w, full, atol=0.05)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_separate_attention_equals_fused(batch_first, bias):
    torch.manual_seed(0)
    fused = nn.MultiheadAttention(24, 3, bias=bias, batch_first=batch_first).double()
    if bias:
        nn.init.normal_(fused.in_proj_bias)
        nn.init.normal_(fused.out_proj.bias)
    x = torch.randn(4, 4, 24, dtype=torch.float64)
    mask = torch.full((9, 9), -math.inf, dtype=torch.float64).triu(1)
    ours = attention.SeparateAttention.of(fused)
    expected = fused(x, x, x, need_weights=False, attn_mask=mask[:4, :4])[0]
    assert torch.allclose(ours(x, x, x, attn_mask=mask)[0], expected, rtol=0, atol=1e-12)
    assert torch.allclose(ours(x, x, x)[0], fused(x, x, x)[0], rtol=0, atol=1e-12)


def test_the_state_dict_converts_there_and_back(reference):
    before = {k: v.clone() for k, v in reference.state_dict().items()}
    assert attention.separate_attention(reference) == 4
    separated = reference.state_dict()
    assert "text.transformer.resblocks.0.attn.q_proj.weight" in separated
    fused = attention.fuse_state_dict(separated, reference)
    assert fused.keys() == before.keys()
    assert all(torch.equal(fused[k], before[k]) for k in before)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (ModelCard("ViT-B-61", "openai", name="ViT-B-61"), "unknown model 'ViT-B-61' - did you"),
        (ModelCard("ViT-B-32", None, name="ViT-B-32"), "needs weights: give model.pretrained="),
        (ModelCard("ViT-B-32", "openai"), "use model=ViT-B-32-quickgelu"),
        (ModelCard("ViT-B-32-quickgelu", "laion2b_e16"), "neither a tag"),
        (ModelCard("ViT-B-32", "no/such.safetensors"), "neither a tag of ViT-B-32 nor a file"),
        (ModelCard("no/such.json", "random"), "architecture file no/such.json does not exist"),
    ],
)
def test_what_cannot_be_loaded_says_why(card, message):
    with pytest.raises(InputError, match=message):
        Backbone.from_card(card, device="cpu")


def test_damaged_and_foreign_weights_say_why(tiny_card, tmp_path):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"\x00" * 100)
    with pytest.raises(InputError, match=r"'tiny' cannot be loaded.*damaged or not a safetensors"):
        Backbone.from_card(ModelCard(**{**vars(tiny_card), "pretrained": str(damaged)}))
    pickled = tmp_path / "foreign.pt"
    torch.save({"state_dict": {"x": object}}, pickled)
    with pytest.raises(InputError, match="holds more than tensors, and reading it would run code"):
        Backbone.from_card(ModelCard(**{**vars(tiny_card), "pretrained": str(pickled)}))


def test_device_and_precision_are_checked(tiny_card):
    with pytest.raises(InputError, match="device=gpu cannot be used here"):
        Backbone.from_card(tiny_card, device="gpu")
    with pytest.raises(InputError, match="precision=fp8: expected one of auto, fp32, bf16, fp16"):
        Backbone.from_card(tiny_card, precision="fp8")


def test_the_embedded_backbone_loads_and_sees():
    backbone = Backbone.load("lite", device="cpu")
    assert (backbone.image_size, backbone.context_length, backbone.embed_dim) == (160, 77, 256)
    w = backbone.encode_text(["a photo of a dog.", "a picture of a dog.", "a photo of a bridge."])
    assert float(w[0] @ w[1]) > float(w[0] @ w[2])
    assert Backbone.load("lite", image_size=224).image_size == 224
