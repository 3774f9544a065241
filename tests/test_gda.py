"""GDA against the published formula, written with a pseudo-inverse, and its choice of alpha."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from clip_adapt.methods.gda import GDA

from clip_adapt.data.task import Task

NAMES = ("cat", "dog", "eel")
LABELS = torch.tensor([0] * 9 + [1] * 4 + [2] * 6)


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 16, generator=generator)
    held = torch.arange(30) % 3
    z = centres[LABELS] + 1.1 * torch.randn(len(LABELS), 16, generator=generator)
    z_held = centres[held] + 1.1 * torch.randn(30, 16, generator=generator)
    return F.normalize(z.double(), dim=1), LABELS, F.normalize(z_held.double(), dim=1), held


def plain_classifier(z, y):
    """W (C, D) and b (C,) by the formula: pinv of the whole matrix, priors 1/C."""
    means = torch.stack([z[y == c].mean(0) for c in range(3)])
    centred = torch.cat([z[y == c] - means[c] for c in range(3)])
    n, d = centred.shape
    covariance = torch.cov(centred.T)
    shrunk = (n - 1) * covariance + covariance.trace() * torch.eye(d, dtype=z.dtype)
    inverse = d * torch.linalg.pinv(shrunk)
    weight = means @ inverse
    bias = [math.log(1 / 3) - float(m @ inverse @ m) / 2 for m in means]
    return weight, torch.tensor(bias, dtype=z.dtype)


def plain_logits(method, z, weight, bias, alpha):
    scale = math.exp(float(method.backbone.model.logit_scale))
    return scale * z @ method.zero_shot_weights.T + alpha * (z @ weight.T + bias)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 10.0])
def test_logits_equal_the_formula(double_backbone, problem, alpha):
    z, y, held, _ = problem
    method = GDA(double_backbone, Task(NAMES), alpha=alpha).double().eval()
    method.fit(z, y)
    weight, bias = plain_classifier(z, y)
    assert torch.allclose(method.weight, weight, rtol=1e-9, atol=1e-9)
    assert torch.allclose(method.bias, bias, rtol=1e-9, atol=1e-9)
    expected = plain_logits(method, held, weight, bias, alpha)
    assert torch.allclose(method(held), expected, rtol=1e-9, atol=1e-9)


def best_alpha(splits):
    """The first best of the published values, by counting right answers."""
    grid = [10.0**power for power in range(-4, 3)]
    counts = [
        sum(int((logits(alpha).argmax(1) == y).sum()) for logits, y in splits) for alpha in grid
    ]
    return grid[counts.index(max(counts))]


def test_alpha_is_the_first_best_on_val(double_backbone, problem, caplog):
    caplog.set_level("INFO")
    z, y, held, labels = problem
    method = GDA(double_backbone, Task(NAMES)).double()
    method.validation = (held, labels)
    method.fit(z, y)
    classifier = plain_classifier(z, y)
    chosen = best_alpha([(lambda a: plain_logits(method, held, *classifier, a), labels)])
    assert float(method.alpha) == chosen
    assert f"alpha={chosen:g} chosen on val" in caplog.text


def test_without_val_the_support_set_is_folded(double_backbone, problem, caplog):
    caplog.set_level("INFO")
    z, y, _, _ = problem
    method = GDA(double_backbone, Task(NAMES)).double()
    method.fit(z, y)
    rank = torch.cat([torch.arange(9), torch.arange(4), torch.arange(6)])
    splits = []
    for fold in range(4):  # as many as the smallest class has images
        out = rank % 4 == fold
        fitted = plain_classifier(z[~out], y[~out])
        held = z[out]
        splits.append((lambda a, h=held, f=fitted: plain_logits(method, h, *f, a), y[out]))
    assert float(method.alpha) == best_alpha(splits)
    assert "chosen on folds" in caplog.text


def test_one_image_a_class_uses_the_common_mean(double_backbone, problem, caplog):
    caplog.set_level("INFO")
    z, _, _, _ = problem
    few, y = z[[0, 9, 13]], torch.arange(3)
    method = GDA(double_backbone, Task(NAMES)).double()
    method.fit(few, y)
    centred = few - few.mean(0)
    shrunk = centred.T @ centred
    shrunk += shrunk.trace() / 2 * torch.eye(16, dtype=z.dtype)
    assert torch.allclose(method.weight, few @ (16 * torch.linalg.inv(shrunk)), rtol=1e-9)
    assert float(method.alpha) == 1.0
    assert "one image a class: the covariance is that around the common mean" in caplog.text
    assert "leave nothing to choose alpha by" in caplog.text


def test_images_that_are_all_alike_leave_zero_shot(double_backbone, problem):
    z, _, held, _ = problem
    method = GDA(double_backbone, Task(NAMES)).double().eval()
    method.fit(z[:1].repeat(6, 1), torch.tensor([0, 0, 1, 1, 2, 2]))
    zero_shot = plain_logits(method, held, torch.zeros(3, 16).double(), torch.zeros(3), 0.0)
    assert torch.allclose(method(held).softmax(1), zero_shot.softmax(1), atol=1e-12)
