"""CoOp against the formula, written out plainly in float64, and a learning test."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from clip_adapt.methods.coop import CoOp

from clip_adapt.data.task import Task
from clip_adapt.errors import InputError
from clip_adapt.training.schedule import Schedule

NAMES = ("cataract", "x-ray of the hand", "pterygium")
START, END, STOP = 49406, 49407, 269  # token ids of CLIP's vocabulary; 269 is "." behind a word


def plain_text_tower(backbone, rows, end):
    """The text tower on given token embeddings (C, 77, W), operation by operation."""
    text = backbone.model.text
    x = rows + text.positional_embedding
    length = x.shape[1]
    blocked = torch.full((length, length), -math.inf, dtype=x.dtype).triu(1)
    for block in text.transformer.resblocks:
        h = F.layer_norm(x, x.shape[-1:], block.ln_1.weight, block.ln_1.bias)
        a = block.attn
        q, k, v = (
            (h @ p.weight.T + p.bias).unflatten(-1, (a.heads, -1)).transpose(1, 2)
            for p in (a.q_proj, a.k_proj, a.v_proj)
        )
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + blocked
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + mixed @ a.out_proj.weight.T + a.out_proj.bias
        h = F.layer_norm(x, x.shape[-1:], block.ln_2.weight, block.ln_2.bias)
        h = F.gelu(h @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias)
        x = x + h @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias
    x = F.layer_norm(x, x.shape[-1:], text.ln_final.weight, text.ln_final.bias)
    z = x[torch.arange(len(x)), end] @ text.text_projection
    return z / z.norm(dim=1, keepdim=True)


def plain_prompts(backbone, ctx, position):
    """Token embeddings (C, 77, W) of [start] context and name [.] [end], and the end's places."""
    table, rows, ends = backbone.token_embedding.weight, [], []
    for c, name in enumerate(NAMES):
        vectors = ctx[c] if ctx.dim() == 3 else ctx
        ids = backbone.tokenizer.encode(name)
        assert backbone.tokenizer.encode(f"{name}.") == [*ids, STOP]
        half = len(vectors) // 2
        words = table[torch.tensor(ids)]
        middle = {
            "end": [vectors, words],
            "front": [words, vectors],
            "middle": [vectors[:half], words, vectors[half:]],
        }[position]
        row = torch.cat([table[START][None], *middle, table[STOP][None], table[END][None]])
        ends.append(len(row) - 1)
        rows.append(torch.cat([row, table[0].expand(77 - len(row), -1)]))
    return torch.stack(rows), torch.tensor(ends)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("csc", [False, True])
def test_weights_and_gradients_equal_the_formula(double_backbone, position, csc):
    method = CoOp(double_backbone, Task(NAMES), n_ctx=5, csc=csc, position=position).double()
    target = torch.randn(3, double_backbone.embed_dim, dtype=torch.float64)
    ours = method.weights()
    (gradient,) = torch.autograd.grad((ours * target).sum(), method.ctx)

    ctx = method.ctx.detach().clone().requires_grad_()
    plain = plain_text_tower(double_backbone, *plain_prompts(double_backbone, ctx, position))
    (expected,) = torch.autograd.grad((plain * target).sum(), ctx)

    assert torch.allclose(ours, plain, rtol=0, atol=1e-12)
    assert torch.allclose(gradient, expected, rtol=1e-9, atol=1e-12)
    assert float(expected.abs().max()) > 1e-6


def test_logits_and_loss_equal_the_formula(double_backbone):
    method = CoOp(double_backbone, Task(NAMES), n_ctx=4).double()
    z = F.normalize(torch.randn(7, double_backbone.embed_dim, dtype=torch.float64), dim=1)
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    logits = method(z)
    w = plain_text_tower(double_backbone, *plain_prompts(double_backbone, method.ctx, "end"))
    scale = math.exp(float(double_backbone.model.logit_scale))
    expected = torch.stack([torch.stack([scale * (a * b).sum() for b in w]) for a in z])
    by_hand = [
        math.log(sum(math.exp(v) for v in r)) - r[k]
        for r, k in zip(expected.tolist(), y, strict=True)
    ]
    assert torch.allclose(logits, expected, rtol=0, atol=1e-10)
    assert method.loss(logits, y).item() == pytest.approx(sum(by_hand) / len(by_hand), abs=1e-10)


def test_words_start_at_their_own_prompt(tiny_backbone):
    method = CoOp(tiny_backbone, Task(("cat", "dog")), n_ctx=16, ctx_init="a photo of a")
    assert method.ctx.shape == (4, tiny_backbone.token_width)
    with torch.no_grad():
        prompts = tiny_backbone.encode_text(["a photo of a cat.", "a photo of a dog."])
        assert torch.allclose(method.weights(), prompts, atol=1e-6)


def test_shapes_and_random_start(tiny_backbone):
    width = tiny_backbone.token_width
    generic = CoOp(tiny_backbone, Task(NAMES, seed=5), n_ctx=64)
    again = CoOp(tiny_backbone, Task(NAMES, seed=5), n_ctx=64)
    other = CoOp(tiny_backbone, Task(NAMES, seed=6), n_ctx=64)
    own = CoOp(tiny_backbone, Task(NAMES), n_ctx=4, csc=True)
    assert generic.ctx.shape == (64, width) and own.ctx.shape == (3, 4, width)
    assert torch.equal(generic.ctx, again.ctx) and not torch.equal(generic.ctx, other.ctx)
    assert generic.ctx.std().item() == pytest.approx(0.02, rel=0.1)
    assert not torch.equal(own.ctx[0], own.ctx[1])


def test_a_prompt_that_is_too_long_is_refused(tiny_backbone):
    method = CoOp(tiny_backbone, Task(("cat", "dog")), n_ctx=75)
    with pytest.raises(InputError, match="does not fit into the text tower's 77"):
        method.weights()


def test_cosine_by_epoch_equals_the_authors_scheduler():
    ours = Schedule("cosine", lr=0.002, total=50, warmup=1, warmup_lr=1e-5)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.002)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    expected = [1e-5]
    for _ in range(49):
        expected.append(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()
    assert [ours.at(epoch) for epoch in range(50)] == pytest.approx(expected, rel=1e-9)
