"""CLIP-Adapter against the formula in float64, on either side, at every depth."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from clip_adapt.methods.adapter import Adapter

from clip_adapt.data.task import Task

NAMES = ("cat", "dog", "eel")
PLAIN = {
    "relu": lambda x: x.clamp_min(0),
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + (-x).exp()),
    "tanh": lambda x: 1 - 2 / ((2 * x).exp() + 1),
}


def plain(features, matrices, ratio, act):
    """ratio * mlp(f) + (1 - ratio) * f for one row after the other, then of unit length."""
    rows = []
    for row in features:
        hidden = row
        for matrix in matrices:
            hidden = act(torch.stack([(line * hidden).sum() for line in matrix]))
        mixed = ratio * hidden + (1 - ratio) * row
        rows.append(mixed / mixed.square().sum().sqrt())
    return torch.stack(rows)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"side": "text", "ratio": 0.6},
        {"side": "both", "depth": 3, "reduction": 2, "activation": "gelu"},
        {"depth": 1, "activation": "silu", "ratio": 1.0},
        {"side": "both", "learn_ratio": True, "ratio": 0.7, "activation": "tanh"},
    ],
    ids=str,
)
def test_logits_and_gradients_equal_the_formula(double_backbone, options):
    method = Adapter(double_backbone, Task(NAMES), **options).double()
    generator = torch.Generator().manual_seed(0)
    z = F.normalize(torch.randn(6, 16, generator=generator, dtype=torch.float64), dim=1)
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    method.loss(method(z), y).backward()

    own = {n: p.detach().clone().requires_grad_() for n, p in method.named_parameters()}
    act = PLAIN[options.get("activation", "relu")]

    def side(name, features):
        matrices = [p for n, p in own.items() if n.startswith(f"sides.{name}.layers")]
        learned = own.get(f"sides.{name}.ratio_logit")
        ratio = options.get("ratio", 0.2) if learned is None else 1 / (1 + (-learned).exp())
        return plain(features, matrices, ratio, act) if matrices else features

    w = side("text", double_backbone.encode_text([f"a photo of a {n}." for n in NAMES]))
    logits = math.exp(float(double_backbone.model.logit_scale)) * side("image", z) @ w.T
    loss = (logits.logsumexp(1) - logits[torch.arange(6), y]).mean()
    loss.backward()

    assert torch.allclose(method(z), logits, rtol=1e-10, atol=1e-10)
    for name, parameter in method.named_parameters():
        assert torch.allclose(parameter.grad, own[name].grad, rtol=1e-8, atol=1e-12), name


def shapes(backbone, **options):
    made = Adapter(backbone, Task(NAMES), **options)
    return [tuple(p.shape) for p in made.parameters()]


def test_the_layers_are_those_that_the_options_say(tiny_backbone):
    assert shapes(tiny_backbone) == [(4, 16), (16, 4)]
    assert shapes(tiny_backbone, depth=1) == [(16, 16)]
    assert shapes(tiny_backbone, depth=3, reduction=8) == [(2, 16), (2, 2), (16, 2)]
    assert shapes(tiny_backbone, reduction=100) == [(1, 16), (16, 1)]
    assert shapes(tiny_backbone, side="both", learn_ratio=True) == [(), (4, 16), (16, 4)] * 2


def test_a_learned_ratio_starts_where_it_is_told_and_stays_a_share(tiny_backbone):
    method = Adapter(tiny_backbone, Task(NAMES), learn_ratio=True, ratio=0.3)
    logit = method.sides["image"].ratio_logit
    assert logit.sigmoid().item() == pytest.approx(0.3)
    features = F.normalize(torch.randn(4, 16), dim=1)
    with torch.no_grad():
        logit.fill_(50.0)
        mlp = F.normalize(method.sides["image"].layers(features), dim=1)
        assert torch.allclose(method.sides["image"](features), mlp, atol=1e-6)
        logit.fill_(-50.0)
        assert torch.allclose(method.sides["image"](features), features, atol=1e-6)


def test_ratio_zero_is_zero_shot(tiny_backbone):
    z = F.normalize(torch.randn(4, 16), dim=1)
    made = Adapter(tiny_backbone, Task(NAMES), side="both", ratio=0.0).eval()
    with torch.no_grad():
        base = tiny_backbone.logit_scale * z @ made.zero_shot_weights.T
        assert torch.allclose(made(z), base, atol=1e-5)


def test_the_start_is_the_seeds_and_pytorchs_own(tiny_backbone):
    def first(seed):
        return Adapter(tiny_backbone, Task(NAMES, seed=seed)).sides["image"].layers[0].weight

    torch.manual_seed(0)
    one = first(4)
    torch.manual_seed(1)
    assert torch.equal(one, first(4)) and not torch.equal(one, first(5))
    assert 0.15 < one.abs().max().item() <= 1 / math.sqrt(16)
