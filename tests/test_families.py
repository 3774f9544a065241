"""Every family of towers: the numbers of its own classes, every method, every delta."""

from __future__ import annotations

import shutil

import families
import pytest
import torch
import torch.nn.functional as F

from clip_adapt import testing
from clip_adapt.adapted import delta
from clip_adapt.backbone import attention
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.backbone.weights import plan
from clip_adapt.config.cards import ModelCard
from clip_adapt.errors import InputError
from clip_adapt.method import finding
from clip_adapt.training.recipe import Recipe

TEXTS = ["a photo of a cat.", "an eye with cataract.", "dog"]
# The probe without its search; more than the one hidden unit that a feature of 16 would give.
OPTIONS = {"linear_probe": {"C": 1.0}, "cocoop": {"reduction": 4}}
FAST = ("vit", "resnet", "siglip", "bert")
PAIRED = [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in families.FAMILIES]
SHORT = Recipe(epochs=2, batch_size=24, optimizer="adam", lr=0.01, weight_decay=0.0)


@pytest.fixture(scope="session")
def cards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    return {name: families.write(name, folder) for name in families.FAMILIES}


@pytest.fixture(params=families.FAMILIES)
def card(request, cards):
    return cards[request.param]


def test_towers_give_the_numbers_of_their_own_classes(card):
    original = plan.load(card).model.eval()
    backbone = Backbone.from_card(card, device="cpu")
    size, length = backbone.image_size, backbone.context_length
    pixels = torch.randn(3, 3, size, size) + 3 * torch.randn(3, 3, 1, 1)
    with torch.no_grad():
        image = F.normalize(original.visual(pixels), dim=-1)
        ids = backbone.tokenizer(TEXTS, length)
        text = F.normalize(original.text.forward(ids), dim=-1)  # with all its padding
        assert torch.allclose(backbone.encode_image(pixels), image, rtol=0, atol=1e-6)
        assert torch.allclose(backbone.encode_text(TEXTS), text, rtol=0, atol=1e-6)
    assert image.shape == text.shape == (3, backbone.embed_dim)
    assert image.std(0).max() > 1e-3 and text.std(0).max() > 1e-3  # inputs make a difference


def test_all_attention_is_separate_and_converts_back(card):
    original = plan.load(card).model
    backbone = Backbone.from_card(card, device="cpu")
    before = original.state_dict()
    separated = backbone.model.state_dict()
    assert attention.find_fused(backbone.model) == []
    fused = attention.fuse_state_dict(separated, backbone.model)
    assert fused.keys() == before.keys()
    assert all(torch.equal(fused[name], before[name]) for name in before)


def test_words_as_context_equal_the_words_themselves(card):
    backbone = Backbone.from_card(card, device="cpu")
    context = backbone.embed_words("a photo of a")
    with torch.no_grad():
        soft = backbone.encode_prompts(context, ["cat.", "dog."])
        hard = backbone.encode_text(["a photo of a cat.", "a photo of a dog."])
    assert torch.allclose(soft, hard, rtol=0, atol=1e-6)


def test_context_gets_a_gradient_through_the_text_tower(card):
    backbone = Backbone.from_card(card, device="cpu")
    context = torch.randn(2, backbone.token_width, requires_grad=True)
    (
        backbone.encode_prompts(context, ["cat.", "dog."]) @ torch.randn(backbone.embed_dim)
    ).sum().backward()
    assert bool((context.grad.abs().sum(1) > 0).all())


@pytest.mark.parametrize("family", PAIRED)
@pytest.mark.parametrize("name", finding.list_methods())
def test_every_method_trains_saves_and_loads(name, family, cards, tmp_path):
    def fresh():
        return Backbone.from_card(cards[family], device="cpu")

    found = finding.find_method(name)
    case = testing.Case(found.cls, fresh, OPTIONS.get(name, {}), SHORT)
    backbone = fresh()
    made, _ = case.trained(backbone)
    pixels, labels = case.toy(backbone)
    if made.trainable():
        made.train().loss(made(made.encode_image(pixels)), labels).backward()
    reached = [bool(p.grad.abs().sum() > 0) for p in made.trainable()]
    # In towers this small a ReLU over four numbers may be dead, and the layer behind it with it.
    assert sum(reached) >= 0.9 * len(reached)
    delta.save(tmp_path, made, delta.describe(found, made), "")
    again, _ = delta.load(tmp_path, backbone=fresh())
    with torch.no_grad():
        before, after = (m.eval()(m.encode_image(pixels)) for m in (made, again))
    assert torch.equal(before, after)


# What not every architecture allows: a method with options. No family refuses a method's own.
ASKED = {
    "checkpoints": ("lora", {"checkpointing": True}),
    "VeRA": ("lora", {"peft": "VeRA"}),
    "three blocks": ("lora", {"layers": "top:3"}),
    "30 vectors": ("coop", {"n_ctx": 30}),
    "70 vectors": ("coop", {"n_ctx": 70}),
}
CANNOT = "method.checkpointing=true: the image tower of "
CONVOLVES = "PEFT refuses VeraConfig: Target module Conv2d("
TWO = " tower has 2 blocks; expected all, top:1 to top:2, or a list of 0 to 1"
LONG = "tokens does not fit into the text tower's {}: 'x x x"
REFUSED = {
    "vit": {"three blocks": f"image{TWO}"},
    "own-attention": {"checkpoints": CANNOT, "three blocks": f"image{TWO}"},
    "resnet": {"three blocks": f"text{TWO}", "VeRA": CONVOLVES},
    "siglip": {
        "checkpoints": CANNOT,
        "three blocks": f"text{TWO}",
        "30 vectors": LONG.format(24),
        "70 vectors": LONG.format(24),
    },
    "coca": {"three blocks": f"text{TWO}", "70 vectors": LONG.format(76)},
    "timm-vit": {"three blocks": f"text{TWO}"},
    "pe-core": {
        "checkpoints": CANNOT,
        "three blocks": f"text{TWO}",
        "30 vectors": LONG.format(32),
        "70 vectors": LONG.format(32),
    },
    "convnext": {"three blocks": f"text{TWO}"},
    "efficientnet": {"three blocks": f"text{TWO}", "VeRA": CONVOLVES},
    "mobileclip": {"checkpoints": CANNOT, "three blocks": f"text{TWO}", "VeRA": CONVOLVES},
    "bert": {"three blocks": f"text{TWO}", "70 vectors": LONG.format(40)},
    "roberta": {"three blocks": f"text{TWO}", "70 vectors": LONG.format(40)},
}


def score(backbone, asked):
    """Return logits of two images by a method that is made and not trained."""
    name, options = ASKED[asked]
    case = testing.Case(finding.find_method(name).cls, lambda: backbone, options)
    pixels, _ = case.toy(backbone)
    made = case.make().train()
    return made(made.encode_image(pixels[:2]))


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
@pytest.mark.parametrize("family", families.FAMILIES)
def test_what_an_architecture_does_not_allow_is_refused_and_nothing_else(family, cards):
    backbone = Backbone.from_card(cards[family], device="cpu")
    for asked in ASKED:
        if part := REFUSED[family].get(asked):
            with pytest.raises(InputError) as caught:
                score(backbone, asked)
            assert part in str(caught.value)
        else:
            assert score(backbone, asked).shape == (2, 3)


def test_siglip_scores_are_sigmoid_logits(cards):
    backbone = Backbone.from_card(cards["siglip"], device="cpu")
    made = testing.Case(finding.find_method("zero_shot").cls, lambda: backbone).make().eval()
    z = F.normalize(torch.randn(4, backbone.embed_dim), dim=1)
    with torch.no_grad():
        expected = (
            backbone.model.logit_scale.exp() * z @ made.weights().T + backbone.model.logit_bias
        )
        assert torch.allclose(made(z), expected, atol=1e-6)
    assert float(backbone.logit_bias) == -10


def test_of_coca_the_contrastive_part_is_left(cards):
    backbone = Backbone.from_card(cards["coca"], device="cpu")
    names = backbone.model.state_dict()
    assert not any(name.startswith("text_decoder") for name in names)
    assert backbone.context_length == 76


@pytest.mark.parametrize("name", ["siglip", "bert", "roberta"])
def test_a_text_that_would_be_cut_is_refused(name, cards):
    backbone = Backbone.from_card(cards[name], device="cpu")
    special = len({"siglip": ["</s>"], "bert": "12", "roberta": "12"}[name])
    fits = " ".join(["cat"] * (backbone.context_length - special))
    assert backbone.encode_text([fits]).shape == (1, backbone.embed_dim)
    with pytest.raises(
        InputError, match=f"does not fit into the text tower's {backbone.context_length}"
    ):
        backbone.encode_text([f"{fits} cat"])


def test_a_hugging_face_tower_is_told_by_its_configuration(cards, tmp_path):
    first = Backbone.from_card(cards["bert"], device="cpu").fingerprint
    source = cards["bert"].architecture.rpartition("/")[0]
    for file in (
        "bert.json",
        "bert/config.json",
        "bert/tokenizer.json",
        "bert/tokenizer_config.json",
    ):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(f"{source}/{file}", tmp_path / file)
    moved = ModelCard(str(tmp_path / "bert.json"), cards["bert"].pretrained, name="bert")
    assert Backbone.from_card(moved, device="cpu").fingerprint == first
    config = tmp_path / "bert" / "config.json"
    config.write_text(
        config.read_text().replace('"num_attention_heads": 2', '"num_attention_heads": 4')
    )
    assert Backbone.from_card(moved, device="cpu").fingerprint != first


def test_half_precision_keeps_the_scale_of_the_logits(cards):
    full = Backbone.from_card(cards["siglip"], device="cpu")
    half = Backbone.from_card(cards["siglip"], device="cpu", precision="bf16")
    assert half.dtype == torch.bfloat16
    assert float(half.logit_scale) == float(full.logit_scale)
    frozen = sum(p.numel() * p.element_size() for p in full.parameters())
    assert sum(p.numel() * p.element_size() for p in half.parameters()) < 0.51 * frozen
