"""TaskRes against the formula in float64: weights, logits and gradient."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from clip_adapt.methods.taskres import TaskRes

from clip_adapt.data.task import Task

NAMES = ("cat", "dog", "eel")


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_logits_and_gradients_equal_the_formula(double_backbone, scale):
    method = TaskRes(double_backbone, Task(NAMES), scale=scale).double()
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 16, generator=generator, dtype=torch.float64)
    method.residual.data.copy_(start)
    z = F.normalize(torch.randn(7, 16, generator=generator, dtype=torch.float64), dim=1)
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    method.loss(method(z), y).backward()

    r = start.clone().requires_grad_()
    text = double_backbone.encode_text([f"a photo of a {name}." for name in NAMES])
    shifted = [t + scale * row for t, row in zip(text, r, strict=True)]
    factor = math.exp(float(double_backbone.model.logit_scale))
    columns = [factor * (z @ w) / w.square().sum().sqrt() for w in shifted]
    logits = torch.stack(columns, dim=1)
    loss = (logits.logsumexp(1) - logits[torch.arange(7), y]).mean()
    (expected,) = torch.autograd.grad(loss, r)

    assert torch.allclose(method(z), logits, rtol=1e-12, atol=1e-12)
    assert torch.allclose(method.residual.grad, expected, rtol=1e-9, atol=1e-12)


def test_only_the_residuals_are_learned(tiny_backbone):
    method = TaskRes(tiny_backbone, Task(NAMES))
    assert {name: p.shape for name, p in method.named_parameters()} == {"residual": (3, 16)}
    assert not method.residual.any()
