"""CoCoOp: many images at once equal one at a time, and both equal the formula in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from clip_adapt.methods import cocoop
from clip_adapt.methods.cocoop import CoCoOp

from clip_adapt.data.task import Task

NAMES = ("cataract", "x-ray of the hand", "dog")


def images(count):
    generator = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(count, 16, generator=generator, dtype=torch.float64), dim=1)


def plain_text(backbone, context, name):
    """The feature of one prompt through open_clip's own tower, token embeddings written by hand."""
    text, table = backbone.model.text, backbone.token_embedding.weight
    ids = [49406, *[0] * len(context), *backbone.tokenizer.encode(f"{name}."), 49407]
    rows = table[torch.tensor(ids + [0] * (77 - len(ids)))]
    rows = torch.cat([rows[:1], context, rows[1 + len(context) :]])
    x = (rows + text.positional_embedding).unsqueeze(0)
    x = text.ln_final(text.transformer(x, attn_mask=text.attn_mask))
    feature = x[0, len(ids) - 1] @ text.text_projection
    return feature / feature.norm()


def plain_logits(backbone, own, z):
    """One image, one class after the other."""
    factor = math.exp(float(backbone.model.logit_scale))
    rows = []
    for image in z:
        hidden = (own["meta_net.0.weight"] @ image + own["meta_net.0.bias"]).clamp_min(0)
        shift = own["meta_net.2.weight"] @ hidden + own["meta_net.2.bias"]
        context = torch.stack([vector + shift for vector in own["ctx"]])
        rows.append([factor * (image * plain_text(backbone, context, n)).sum() for n in NAMES])
    return torch.stack([torch.stack(row) for row in rows])


@pytest.mark.parametrize("options", [{}, {"ctx_init": None, "n_ctx": 3, "reduction": 4}], ids=str)
def test_logits_and_gradients_equal_the_formula(double_backbone, options):
    method = CoCoOp(double_backbone, Task(NAMES), **options).double()
    z, y = images(4), torch.tensor([0, 1, 2, 0])
    own = {n: p.detach().clone().requires_grad_() for n, p in method.named_parameters()}
    expected = plain_logits(double_backbone, own, z)
    loss = (expected.logsumexp(1) - expected[torch.arange(4), y]).mean()
    loss.backward()
    logits = method(z)
    method.loss(logits, y).backward()
    assert torch.allclose(logits, expected, rtol=1e-10, atol=1e-10)
    for name, parameter in method.named_parameters():
        assert torch.allclose(parameter.grad, own[name].grad, rtol=1e-8, atol=1e-11), name


@pytest.mark.parametrize("prompts", [1, 6, 7, 256])
def test_a_batch_equals_one_image_after_the_other(double_backbone, prompts, monkeypatch):
    monkeypatch.setattr(cocoop, "PROMPTS", prompts)
    method = CoCoOp(double_backbone, Task(NAMES)).double()
    z, y = images(5), torch.tensor([0, 1, 2, 0, 1])
    together = method(z)
    (gradient,) = torch.autograd.grad(method.loss(together, y), method.ctx)
    alone = torch.cat([method(row.unsqueeze(0)) for row in z])
    (expected,) = torch.autograd.grad(method.loss(alone, y), method.ctx)
    assert torch.allclose(together, alone, rtol=0, atol=1e-11)
    assert torch.allclose(gradient, expected, rtol=1e-9, atol=1e-12)
    assert (together[0] - together[1]).abs().max().item() > 1e-3


def test_no_more_prompts_than_said_pass_the_tower_at_once(tiny_backbone, monkeypatch):
    monkeypatch.setattr(cocoop, "PROMPTS", 7)
    method = CoCoOp(tiny_backbone, Task(NAMES)).eval()
    sizes = []
    encode = tiny_backbone.encode_prompts
    monkeypatch.setattr(
        tiny_backbone,
        "encode_prompts",
        lambda context, texts: sizes.append(len(texts)) or encode(context, texts),
        raising=False,
    )
    with torch.no_grad():
        assert method(images(5).float()).shape == (5, 3)
    assert sizes == [6, 6, 3]


def test_without_the_network_it_is_the_prompt_of_its_words(tiny_backbone):
    method = CoCoOp(tiny_backbone, Task(NAMES)).eval()
    z = images(3).float()
    with torch.no_grad():
        method.meta_net[2].weight.zero_()
        method.meta_net[2].bias.zero_()
        w = tiny_backbone.encode_text([f"a photo of a {name}." for name in NAMES])
        assert torch.allclose(method(z), tiny_backbone.logit_scale * z @ w.T, atol=1e-4)


def test_shapes_and_seeds(tiny_backbone):
    def made(seed, **options):
        return CoCoOp(tiny_backbone, Task(NAMES, seed=seed), reduction=4, **options)

    width = tiny_backbone.token_width
    shapes = {n: tuple(p.shape) for n, p in made(1).named_parameters()}
    assert shapes == {
        "ctx": (4, width),
        "meta_net.0.weight": (4, 16),
        "meta_net.0.bias": (4,),
        "meta_net.2.weight": (width, 4),
        "meta_net.2.bias": (width,),
    }
    torch.manual_seed(0)
    one = made(5, ctx_init=None, n_ctx=6).state_dict()
    torch.manual_seed(1)
    again = made(5, ctx_init=None, n_ctx=6).state_dict()
    other = made(6, ctx_init=None, n_ctx=6).state_dict()
    assert one["ctx"].shape == (6, width)
    assert all(torch.equal(one[n], again[n]) and not torch.equal(one[n], other[n]) for n in one)
