"""The example of a method from a paper, in one file that builds on a shipped one."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_coop import NAMES, plain_prompts, plain_text_tower

from clip_adapt import testing
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.data.task import Task
from clip_adapt.evaluation import resampling
from clip_adapt.method.finding import find_method
from clip_adapt.training.examples import Examples
from clip_adapt.training.recipe import Recipe
from clip_adapt.training.step import ClassStep

FILE = Path(__file__).parent.parent / "docs" / "examples" / "kgcoop.py"


def test_it_is_short_and_repeats_no_option():
    tree = ast.parse(FILE.read_text(encoding="utf-8"))
    lines = {
        line
        for node in ast.walk(tree)
        if hasattr(node, "lineno")
        for line in range(node.lineno, node.end_lineno + 1)
    }
    strings = [n for n in ast.walk(tree) if isinstance(n, ast.Expr)]
    texts = [n for n in strings if isinstance(n.value, ast.Constant)]
    for text in texts:
        lines -= set(range(text.lineno, text.end_lineno + 1))
    lines = {n for n in lines if FILE.read_text(encoding="utf-8").splitlines()[n - 1].strip()}
    assert len(lines) <= 30
    made = find_method(str(FILE)).cls.__init__
    assert set(made.__kwdefaults__) == {"weight"}


def test_a_step_equals_the_formula(double_backbone):
    method = find_method(str(FILE)).cls(double_backbone, Task(NAMES), n_ctx=3).double()
    assert method.options == {
        "n_ctx": 3, "ctx_init": None, "csc": False, "position": "end", "weight": 8.0,
    }  # fmt: skip
    z = F.normalize(torch.randn(12, 1, double_backbone.embed_dim, dtype=torch.float64), dim=-1)
    labels = torch.tensor([0] * 8 + [1] * 2 + [2] * 2)
    method.set_criterion(labels, class_balanced=True, label_smoothing=0.0)
    step = ClassStep(method, Examples(z, labels), Recipe(epochs=1))
    loss, _ = step(*step.batch(torch.arange(12), 0))
    (gradient,) = torch.autograd.grad(loss, method.ctx)

    ctx = method.ctx.detach().clone().requires_grad_()
    w = plain_text_tower(double_backbone, *plain_prompts(double_backbone, ctx, "end"))
    with torch.no_grad():
        t = double_backbone.encode_text([f"a photo of a {name}." for name in NAMES])
    scores = (double_backbone.logit_scale * z[:, 0] @ w.T).log_softmax(1)
    share = torch.tensor([0.5, 2, 2], dtype=torch.float64)[labels]
    entropy = -(share * scores[torch.arange(12), labels]).sum() / share.sum()
    cosine = (w * t).sum(1) / (w.norm(dim=1) * t.norm(dim=1))
    plain = entropy + 8 * (1 - cosine.mean())
    (expected,) = torch.autograd.grad(plain, ctx)
    assert float(8 * (1 - cosine.detach().mean())) > 0.1
    assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-10)
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-11)


def test_it_keeps_every_law(tiny_card):
    testing.check_method(
        find_method(str(FILE)).cls,
        lambda: Backbone.from_card(tiny_card, device="cpu"),
        options={"n_ctx": 4, "weight": 0.5},
        recipe=Recipe(epochs=60, batch_size=24, optimizer="adam", lr=0.05, weight_decay=0.0),
        file=FILE,
    )


def test_it_works_with_balanced_classes(train_tiny, animals):
    code, _, err = train_tiny(animals, f"method={FILE}", "class_balanced=true", "method.n_ctx=2")
    assert code == 0, err
    config = Path("out/config.yaml").read_text(encoding="utf-8")
    assert "ctx_init: a photo of a" in config and "batch_size: 128" in config


def test_it_sweeps_side_by_side(animals, tiny_model, run_cli, monkeypatch):
    monkeypatch.setattr(resampling, "RESAMPLES", 20)
    words = [f"method={FILE}", f"dataset={animals}", f"model={tiny_model}", "shots=2", "epochs=2"]
    code, out, err = run_cli("sweep", *words, "seed=[1,2]", "tensorboard=false", "output=out")
    assert code == 0, err
    assert out.count("(its share of 2 trained side by side)") == 2
    for file in Path("out").glob("*/metrics.json"):
        assert json.loads(file.read_text())["side_by_side"] == 2
