"""Tip-Adapter against the formula, and its search against two nested loops, in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from clip_adapt.methods.tip_adapter import TipAdapter

import clip_adapt
from clip_adapt.data.task import Task
from clip_adapt.training.examples import Examples
from clip_adapt.training.loop import train
from clip_adapt.training.recipe import Recipe

NAMES = ("cat", "dog", "eel")
LABELS = torch.tensor([2, 0, 0, 1, 2, 2, 0, 2])  # 3, 1 and 4 images, in no order
STEPS = {"search_scale": [9.0, 4.0], "search_step": [15, 12]}


def features(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, 16, generator=generator, dtype=torch.float64), dim=1)


def clusters(count, seed):
    """Features near three centres, with their labels."""
    y = torch.arange(count) % 3
    return F.normalize(features(3, 99)[y] + 0.9 * features(count, seed), dim=1), y


def make(backbone, **options):
    return TipAdapter(backbone, Task(NAMES, shots=4), **options).double().eval()


def plain_logits(backbone, zero_shot, z, keys, y, alpha, beta, left_out=None):
    """One image and one key after the other."""
    scale = math.exp(float(backbone.model.logit_scale))
    rows = []
    for image in z:
        row = [scale * float(image @ w) for w in zero_shot]
        for k, (key, label) in enumerate(zip(keys, y.tolist(), strict=True)):
            if k != left_out:
                row[label] += alpha * math.exp(-beta * (1 - float(image @ key)))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def plain_search(right, betas, alphas):
    """The first best of a grid, beta outside, alpha inside."""
    best = (-1, 0.0, 0.0)
    for beta in betas:
        for alpha in alphas:
            count = right(alpha, beta)
            if count > best[0]:
                best = (count, alpha, beta)
    return best


def grids():
    """The values of beta and of alpha that STEPS stand for."""
    sizes = zip(STEPS["search_scale"], STEPS["search_step"], strict=True)
    return [[0.1 + i * (top - 0.1) / n for i in range(n)] for top, n in sizes]


def test_logits_equal_the_formula_with_unequal_classes(double_backbone):
    method = make(double_backbone, alpha=0.7, beta=3.5)
    keys, z = features(8, 0), features(5, 1)
    method.fit(keys, LABELS)
    expected = plain_logits(
        double_backbone, method.zero_shot_weights, z, keys, LABELS, float(method.alpha), 3.5
    )
    assert torch.allclose(method(z), expected, rtol=1e-12, atol=1e-12)
    assert float(method.alpha) == pytest.approx(0.7)


def test_gradients_reach_the_keys_and_nothing_else(double_backbone):
    method = make(double_backbone, alpha=0.7, beta=3.5)
    keys, z, y = features(8, 0), features(5, 1), torch.tensor([0, 1, 2, 0, 1])
    method.fit(keys, LABELS)
    method.loss(method(z), y).backward()
    free = keys.clone().requires_grad_()
    cache = torch.exp(-3.5 * (1 - z @ free.T)) @ F.one_hot(LABELS).double()
    scale = double_backbone.logit_scale
    logits = scale * z @ method.zero_shot_weights.T + method.alpha * cache
    F.cross_entropy(logits, y).backward()
    gradient = torch.cat([method.keys.grad[c, : int((c == LABELS).sum())] for c in range(3)])
    expected = torch.cat([free.grad[c == LABELS] for c in range(3)])
    assert torch.allclose(gradient, expected, rtol=1e-9, atol=1e-12)
    assert float(method.keys.grad.abs().sum()) == pytest.approx(float(gradient.abs().sum()))


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_the_search_on_val_equals_nested_loops(double_backbone, seed, monkeypatch):
    # Several parts of val, and several blocks in each: 12 places an image, 17 images.
    monkeypatch.setattr("clip_adapt.methods.tip_adapter.CHUNK", 60)
    monkeypatch.setattr("clip_adapt.methods.tip_adapter.IN_CACHE", 24)
    monkeypatch.setattr("clip_adapt.methods.tip_adapter.ANEW", 4)
    keys, z = features(8, 0), features(17, seed)
    y = torch.randint(3, (17,), generator=torch.Generator().manual_seed(seed))
    method = make(double_backbone, **STEPS)
    method.validation = (z, y)
    method.fit(keys, LABELS)
    method.finish()

    def right(alpha, beta):
        logits = plain_logits(
            double_backbone, method.zero_shot_weights, z, keys, LABELS, alpha, beta
        )
        return int((logits.argmax(1) == y).sum())

    _, alpha, beta = plain_search(right, *grids())
    assert (float(method.alpha), float(method.beta)) == pytest.approx((alpha, beta))


def test_the_cache_of_every_beta_equals_its_exponentials(double_backbone):
    """Products of exponentials stay those of exp, and an empty place counts nothing at beta 0."""
    method = make(double_backbone, search_scale=[30.0, 4.0])
    keys = features(8, 0)
    method.fit(keys, LABELS)
    distance = 1 - torch.einsum("nd,csd->snc", features(5, 1), method.keys.detach())
    absent = (method.filled.T == 0).unsqueeze(1).expand_as(distance)
    caches = method._caches(distance, absent)
    assert len(caches) == len(method.betas) == 200
    for beta, cache in zip(method.betas, caches, strict=True):
        expected = (torch.exp(-beta * distance) * ~absent).sum(0)
        assert torch.allclose(cache, expected, rtol=1e-13, atol=0)
    at_zero = make(double_backbone, beta=0.0)
    assert at_zero._caches(distance, absent)[0, 0].tolist() == [3.0, 1.0, 4.0]


def test_without_val_each_image_is_left_out_of_the_cache(double_backbone, caplog):
    caplog.set_level("INFO")
    z, y = features(9, 5), torch.arange(9) % 3
    method = make(double_backbone, **STEPS)
    method.fit(z, y)
    method.finish()

    def right(alpha, beta):
        weights = method.zero_shot_weights
        rows = [
            plain_logits(double_backbone, weights, z[i : i + 1], z, y, alpha, beta, left_out=i)
            for i in range(len(z))
        ]
        return int((torch.cat(rows).argmax(1) == y).sum())

    best, alpha, beta = plain_search(right, *grids())
    assert best < len(y)  # with its own key in the cache every image would be right
    assert (float(method.alpha), float(method.beta)) == pytest.approx((alpha, beta))
    assert "chosen on the support set, each image left out of the cache" in caplog.text


def test_one_image_a_class_and_no_val_keep_the_start(double_backbone, caplog):
    caplog.set_level("INFO")
    method = make(double_backbone)
    method.fit(features(3, 0), torch.arange(3))
    method.finish()
    assert (float(method.alpha), float(method.beta)) == pytest.approx((1.17, 1.0))
    assert "one image a class and no val leave nothing to choose them by" in caplog.text


def test_a_given_value_is_not_searched_for(double_backbone):
    z, y = clusters(12, 6)
    both = make(double_backbone, alpha=0.25, beta=2.0)
    beta_only = make(double_backbone, alpha=0.25)
    for method in (both, beta_only):
        method.validation = (z, y)
        method.fit(features(8, 0), LABELS)
        method.finish()
    assert (float(both.alpha), float(both.beta)) == (0.25, 2.0)
    assert float(beta_only.alpha) == 0.25 and float(beta_only.beta) != 1.0


def test_the_search_follows_the_training_of_the_keys(tiny_backbone):
    z, y = (t.float() if t.is_floating_point() else t for t in clusters(9, 5))
    method = TipAdapter(tiny_backbone, Task(NAMES, shots=4), **STEPS)
    method.validation = (z[:6].flip(1), y[:6])
    method.fit(z, y)
    filled = method.keys.detach().clone()
    recipe = Recipe(epochs=5, batch_size=4, optimizer="adamw", lr=0.05)
    train(method, Examples(z.unsqueeze(1), y), recipe)
    assert not torch.equal(method.keys, filled)
    chosen = float(method.alpha), float(method.beta)
    method.finish()
    assert (float(method.alpha), float(method.beta)) == chosen
    with torch.no_grad():
        method.keys.copy_(filled)
    method.finish()
    assert (float(method.alpha), float(method.beta)) != chosen


def test_an_alpha_at_the_end_of_its_grid_is_reported(double_backbone, caplog):
    caplog.set_level("INFO")
    z, y = clusters(12, 6)
    method = make(double_backbone, search_scale=[5.0, 0.2], search_step=[3, 2])
    method.validation = (z, y)
    method.fit(z, y)
    method.finish()
    assert "a larger method.search_scale may be better" in caplog.text


def test_the_scales_are_two_numbers(tiny_backbone):
    with pytest.raises(ValueError, match=r"method.search_scale=\[7.0\]: expected two numbers"):
        TipAdapter(tiny_backbone, Task(NAMES, shots=4), search_scale=[7.0])


@pytest.mark.parametrize("sampling", ["natural", "all"])
def test_a_class_may_have_more_images_than_shots(train_tiny, make_folder, tmp_path, sampling):
    folder = make_folder(tmp_path / "animals")
    for index in range(3):
        (folder / "train" / "cat" / f"{index}.png").unlink()
    code, _, error = train_tiny(folder, "method=tip_adapter", f"sampling={sampling}", "shots=3")
    assert code == 0, error
    model = clip_adapt.load("out", model="tiny.yaml")
    counts = model.method.filled.sum(1).tolist()
    assert counts == ([3, 6, 6] if sampling == "all" else counts) and max(counts) > 3
