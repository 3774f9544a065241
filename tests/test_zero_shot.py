"""Zero-shot against the formula in plain float64."""

from __future__ import annotations

import math

import pytest
import torch
from clip_adapt.methods.zero_shot import ZeroShot

from clip_adapt.data.task import Task
from clip_adapt.errors import InputError

CLASSES = ("cat", "dog", "eel")
DESCRIPTIONS = {"cat": ["it purrs"], "dog": ["it barks", "it fetches"], "eel": ["it is long"]}
TEMPLATES = ("a photo of a {}.", "art of the {}.")


def unit(v):
    return [x / math.sqrt(sum(y * y for y in v)) for x in v]


def plain_weights(backbone, texts):
    rows = []
    for of_class in texts:
        tokens = backbone.tokenizer(of_class)
        embedded = [unit(v) for v in backbone.model.text(tokens).tolist()]
        rows.append(unit([sum(column) / len(column) for column in zip(*embedded, strict=True)]))
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(
    ("prompts", "texts"),
    [
        ("templates", [[t.format(c) for t in TEMPLATES] for c in CLASSES]),
        ("descriptions", [DESCRIPTIONS[c] for c in CLASSES]),
        ("both", [[t.format(c) for t in TEMPLATES] + DESCRIPTIONS[c] for c in CLASSES]),
    ],
)
def test_weights_and_logits_equal_the_formula(double_backbone, prompts, texts):
    method = ZeroShot(double_backbone, Task(CLASSES, TEMPLATES, DESCRIPTIONS, prompts)).eval()
    expected = plain_weights(double_backbone, texts)
    z = torch.nn.functional.normalize(torch.randn(5, 16, dtype=torch.float64), dim=1)
    scale = math.exp(float(double_backbone.model.logit_scale))
    with torch.no_grad():
        assert torch.allclose(method.weights(), expected, rtol=0, atol=1e-12)
        assert torch.allclose(method(z), scale * z @ expected.T, rtol=0, atol=1e-10)


def test_missing_descriptions_are_named(tiny_backbone):
    task = Task(CLASSES, descriptions={"cat": ["it purrs"]}, prompts="descriptions")
    with pytest.raises(InputError, match="the card has none for: dog, eel"):
        ZeroShot(tiny_backbone, task).weights()
