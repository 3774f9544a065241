"""The linear probe against scikit-learn at a tight tolerance, and against a plain search."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from clip_adapt.methods import linear_probe
from clip_adapt.methods.linear_probe import LinearProbe
from sklearn.linear_model import LogisticRegression
from torch.autograd.functional import hessian

from clip_adapt.data.task import Task

NAMES = ("cat", "dog", "eel", "bee")


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 16, generator=generator)
    y = torch.arange(80) % 4
    z = centres[y] + 1.2 * torch.randn(80, 16, generator=generator)
    return F.normalize(z, dim=1), y


def objective(z, y, weight, bias, strength, start=0.0):
    """Written plainly: C times the summed cross entropy plus half the squared distance."""
    logits = z.double() @ weight.double().T + bias.double()
    picked = logits[torch.arange(len(y)), y]
    loss = (logits.logsumexp(1) - picked).sum()
    return float(strength * loss + 0.5 * (weight.double() - start).square().sum())


@pytest.mark.parametrize("strength", [1e-2, 1.0, 1e2])
def test_the_optimum_is_scikit_learns(tiny_backbone, problem, strength):
    z, y = problem
    probe = LinearProbe(tiny_backbone, Task(NAMES), C=strength).eval()
    probe.fit(z, y)
    reference = LogisticRegression(C=strength, tol=1e-8, max_iter=20_000)
    reference.fit(z.double().numpy(), y.numpy())
    theirs = torch.tensor(reference.coef_), torch.tensor(reference.intercept_)
    ours = objective(z, y, probe.weight, probe.bias, strength)
    best = objective(z, y, *theirs, strength)
    assert ours <= best * (1 + 1e-4) and best <= ours * (1 + 1e-4)
    fresh = F.normalize(torch.randn(1000, 16), dim=1)
    with torch.no_grad():
        same = probe(fresh).argmax(1).numpy() == reference.predict(fresh.double().numpy())
    assert same.mean() >= 0.995


def newton(loss, v):
    """The minimum of a convex function by damped Newton steps with the whole second derivative."""
    for _ in range(100):
        at = v.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(at), at)
        if gradient.abs().max() < 1e-12:
            break
        curvature = hessian(loss, v) + 1e-14 * torch.eye(len(v), dtype=v.dtype)
        step, length = torch.linalg.solve(curvature, gradient), 1.0
        while loss(v - length * step) > loss(v) and length > 1e-8:
            length /= 2
        v = v - length * step
    return float(loss(v))


@pytest.mark.parametrize("images", [60, 9])  # more than numbers in a feature, and fewer
@pytest.mark.parametrize("balanced", [False, True])
def test_every_penalty_reaches_newtons_minimum(problem, images, balanced):
    z, y = problem[0][:images].double() + 3.0, problem[1][:images]  # far from centred
    start = torch.randn(4, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = torch.tensor([0.5, 1.0, 2.0, 1.5] if balanced else [1.0] * 4, dtype=torch.float64)
    solver = linear_probe.Solver(z, y, start, weights if balanced else None)

    for strength in (1e-5, 1.0, 100.0, 1e-2):  # each goes on from the last

        def loss(v, strength=strength):
            weight, bias = v[:64].reshape(4, 16), v[64:]
            entropy = F.cross_entropy(z @ weight.T + bias, y, weight=weights)
            return entropy + 0.5 / (strength * images) * (weight - start).square().sum()

        weight, bias = solver.solve(strength)
        found = torch.cat([weight.flatten(), bias])
        best = newton(loss, torch.zeros(68, dtype=torch.float64))
        assert float(loss(found)) <= best * (1 + 1e-9)
        penalty = torch.zeros(solver.solution.shape[1], dtype=torch.float64)
        # A bias is a coordinate of both, so its curvature is that of the plain objective.
        curvature = solver._curvature(penalty)[:, -1]
        assert torch.allclose(curvature, hessian(loss, found).diagonal()[64:], rtol=1e-6)


@pytest.mark.parametrize("standardize", [False, True])
def test_init_zero_shot_regularises_towards_zero_shot(tiny_backbone, problem, standardize):
    z, y = problem
    options = {"init": "zero_shot", "standardize": standardize}
    strong = LinearProbe(tiny_backbone, Task(NAMES), C=1e-9, **options).eval()
    strong.fit(z, y)
    start = tiny_backbone.logit_scale * strong.zero_shot_weights
    assert torch.allclose(strong.weight, start, rtol=1e-3, atol=1e-3)


def test_the_gradient_vanishes_at_the_solution(tiny_backbone, problem):
    z, y = problem
    probe = LinearProbe(tiny_backbone, Task(NAMES), C=3.0, init="zero_shot")
    probe.fit(z, y)
    start = (tiny_backbone.logit_scale * probe.zero_shot_weights).double()
    residual = (z.double() @ probe.weight.double().T + probe.bias.double()).softmax(1)
    residual[torch.arange(len(y)), y] -= 1
    gradient = 3.0 * residual.T @ z.double() + probe.weight.double() - start
    assert float(gradient.abs().max()) < 1e-3  # weights are stored in float32
    assert float(residual.sum(0).abs().max()) < 1e-4


def test_standardised_features_equal_scikit_learns_pipeline(tiny_backbone, problem):
    z, y = problem
    probe = LinearProbe(tiny_backbone, Task(NAMES), C=0.5, standardize=True).eval()
    probe.fit(z, y)
    x = ((z.double() - z.double().mean(0)) / z.double().std(0)).numpy()
    reference = LogisticRegression(C=0.5, tol=1e-8, max_iter=20_000).fit(x, y.numpy())
    with torch.no_grad():
        ours = probe(z).softmax(1).numpy()
    assert np.abs(ours - reference.predict_proba(x)).max() < 1e-4


def plain_search(accuracy):
    """The published search on a list, interval ends in log10, as a loop without functions."""
    grid = [6.0, 4.0, 2.0, 0.0, -2.0, -4.0, -6.0]
    scores = [accuracy(10**g) for g in grid]
    low = grid[int(np.argmax(scores))] - 1
    high = low + 2
    for _ in range(8):
        a, b = accuracy(10**low), accuracy(10**high)
        final = high if a < b else low
        low, high = ((low + high) / 2, high) if a < b else (low, (low + high) / 2)
    return 10**final


@pytest.mark.parametrize("peak", [-5.3, -0.7, 0.1, 2.9])
def test_the_search_for_c_is_the_published_one(peak):
    tried = []

    def accuracy(strength):
        tried.append(strength)
        return -round(abs(np.log10(strength) - peak), 3)

    found = linear_probe.search(accuracy)
    assert len(tried) == len(set(tried))
    assert found == pytest.approx(plain_search(accuracy), rel=1e-9)
    assert abs(np.log10(found) - peak) < 0.5


def test_val_decides_when_there_is_one(tiny_backbone, problem, caplog):
    z, y = problem
    caplog.set_level("INFO")
    probe = LinearProbe(tiny_backbone, Task(NAMES))
    probe.validation = (z[:20], y[:20])
    probe.fit(z[20:], y[20:])
    assert "chosen on val" in caplog.text
    folded = LinearProbe(tiny_backbone, Task(NAMES))
    folded.fit(z, y)
    assert "chosen on folds" in caplog.text
    single = LinearProbe(tiny_backbone, Task(NAMES))
    single.fit(z[:4], y[:4])
    assert "one image a class and no val" in caplog.text


def test_balanced_classes_are_scikit_learns(tiny_backbone, problem):
    z, y = problem
    kept = torch.cat([(y == label).nonzero()[: 3 + 5 * label, 0] for label in range(4)])
    z, y = z[kept], y[kept]
    probe = LinearProbe(tiny_backbone, Task(NAMES), C=10.0).eval()
    probe.set_criterion(y, class_balanced=True, label_smoothing=0.0)
    probe.fit(z, y)
    reference = LogisticRegression(C=10.0, tol=1e-8, max_iter=20_000, class_weight="balanced")
    reference.fit(z.double().numpy(), y.numpy())
    np.testing.assert_allclose(probe.weight.numpy(), reference.coef_, atol=2e-4)
