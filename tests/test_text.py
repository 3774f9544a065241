"""The packed text tower against the tower itself: the same features and gradients in float64."""

from __future__ import annotations

import json
import math
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clip_adapt.backbone import encoding_plan, packing, prompts
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config.cards import ModelCard
from clip_adapt.errors import InputError

WORDS = ["cat", "dog", "eel", "ox", "bee", "ant", "owl", "hen", "fox", "cow"]
PLACES = [("end", False), ("end", True), ("middle", False), ("middle", True), ("front", False)]


def names_of_every_length(count, longest):
    """Class names of 1, 2 ... ``longest`` tokens and round again."""
    return [
        " ".join(WORDS[(i + k) % 10] for k in range(i % longest + 1)) + "." for i in range(count)
    ]


def plain(backbone, prompt, context):
    """All 77 positions of every prompt, one tower pass: the published computation."""
    with prompts.replace_embeddings(backbone.token_embedding, prompt, context):
        return F.normalize(backbone.model.text(prompt.ids), dim=-1)


def both(backbone, names, context, position):
    """Features and gradients with respect to the context, packed and plain."""
    ours, theirs = (context.detach().clone().requires_grad_() for _ in range(2))
    prompt = prompts.tokenize_with_slots(backbone.tokenizer, names, context.shape[-2], position, 77)
    packed = backbone.encode_prompts(ours, names, position)
    expected = plain(backbone, prompt, theirs)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).double()
    (packed * weight).sum().backward()
    (expected * weight).sum().backward()
    return (packed, ours.grad), (expected, theirs.grad)


def assert_equal(pair, other, tolerance=1e-12):
    for ours, theirs in zip(pair, other, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=tolerance)


def a_context(backbone, n_ctx, count, own):
    shape = (count, n_ctx) if own else (n_ctx,)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, backbone.token_width, generator=generator).double()


@contextmanager
def computed(tower):
    """The numbers of tokens that pass the first block's MLP, pass by pass."""
    counts = []
    handle = tower.transformer.resblocks[0].mlp.register_forward_pre_hook(
        lambda module, inputs: counts.append(inputs[0][..., 0].numel())
    )
    yield counts
    handle.remove()


@pytest.mark.parametrize(("position", "own"), PLACES)
@pytest.mark.parametrize("count", [1, 2, 10, 130])
def test_prompts_equal_the_plain_tower(double_backbone, position, own, count):
    names = names_of_every_length(count, 70)  # with 4 vectors, start, stop and end: 77 tokens
    context = a_context(double_backbone, 4, count, own)
    assert encoding_plan.is_packable(double_backbone.model.text)
    assert_equal(*both(double_backbone, names, context, position))


@pytest.mark.slow
@pytest.mark.parametrize(("position", "own"), [("end", False), ("end", True)])
def test_a_thousand_classes_equal_the_plain_tower(double_backbone, position, own):
    names = names_of_every_length(1000, 9)
    context = a_context(double_backbone, 16, 1000, own)
    assert_equal(*both(double_backbone, names, context, position))


def test_thousands_of_texts_equal_the_plain_tower(double_backbone):
    templates = ("a photo of a {}", "{}", "art of the {}")
    texts = [t.format(name) for name in names_of_every_length(800, 12) for t in templates]
    ids = double_backbone.tokenizer(texts)
    with torch.no_grad():
        plain_parts = [double_backbone.model.text(part) for part in ids.split(400)]
        expected = F.normalize(torch.cat(plain_parts), dim=-1)
        assert torch.allclose(double_backbone.encode_text(texts), expected, rtol=0, atol=1e-12)


def test_class_weights_are_means_over_prompts(double_backbone):
    texts = [["a cat", "the cat on the tree"], ["a dog"], ["x", "y", "an eel"]]
    with torch.no_grad():
        features = [
            F.normalize(double_backbone.model.text(double_backbone.tokenizer(t)), dim=-1)
            for t in texts
        ]
    expected = torch.stack([F.normalize(f.mean(0), dim=0) for f in features])
    assert torch.allclose(double_backbone.class_weights(texts), expected, rtol=0, atol=1e-12)


def test_what_prompts_share_is_computed_once(double_backbone):
    tower = double_backbone.model.text
    names = ["cat.", "dog.", "eel."]  # start, 16 vectors, then name, stop and end
    context = a_context(double_backbone, 16, 3, own=False)
    with computed(tower) as counts:
        double_backbone.encode_prompts(context, names)
        double_backbone.encode_prompts(context.expand(3, -1, -1), names)
        double_backbone.encode_prompts(context, names, "middle")
    assert counts == [17 + 3 * 3, 1 + 3 * 19, 9 + 3 * 11]


def test_the_last_block_goes_on_for_end_tokens_only(double_backbone):
    seen = []
    last = double_backbone.model.text.transformer.resblocks[-1]
    handles = [
        module.register_forward_pre_hook(lambda m, inputs: seen.append(len(inputs[0])))
        for module in (
            last.attn.q_proj,
            last.attn.out_proj,
            last.mlp,
            double_backbone.model.text.ln_final,
        )
    ]
    double_backbone.encode_text(["a cat", "a dog on a tree"])
    for handle in handles:
        handle.remove()
    assert seen == [2, 2, 2, 2]


@pytest.mark.parametrize("chunk", [1, 3, 7])
@pytest.mark.parametrize(("position", "own"), PLACES)
def test_chunks_change_nothing(double_backbone, chunk, position, own):
    names = names_of_every_length(8, 8)
    context = a_context(double_backbone, 4, 8, own)
    double_backbone.text_chunk = chunk
    with computed(double_backbone.model.text) as counts:
        packed, expected = both(double_backbone, names, context, position)
    assert_equal(packed, expected)
    parts = math.ceil(8 / chunk)
    assert len(counts) == 2 * parts + 1  # each part there and on the way back; the plain pass


def test_auto_chunks_when_memory_is_short(double_backbone, monkeypatch):
    names = names_of_every_length(40, 8)
    context = a_context(double_backbone, 4, 40, own=False)
    with computed(double_backbone.model.text) as counts:
        whole, expected = both(double_backbone, names, context, "end")
        assert len(counts) == 2
        monkeypatch.setattr(encoding_plan, "measure_total_memory", lambda device: 100_000)
        double_backbone._plans.clear()
        chunked, _ = both(double_backbone, names, context, "end")
        assert len(counts) > 6
    assert_equal(whole, expected)
    assert_equal(chunked, expected)


def test_without_gradients_memory_does_not_grow_with_the_texts(double_backbone):
    texts = names_of_every_length(1000, 3)
    with torch.no_grad(), computed(double_backbone.model.text) as counts:
        double_backbone.encode_text(texts)
    assert len(counts) == 4 and max(counts) < 300 * 6


@pytest.fixture
def with_lora(double_backbone):
    """The tower with PEFT LoRA in q, k and v, its B not zero: (backbone, LoRA parameters)."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "k_proj", "v_proj"], lora_dropout=0.5)
    peft.inject_adapter_in_model(config, double_backbone.model.text)
    double_backbone.double().model.eval()  # what PEFT puts in is in training mode
    parameters = [p for p in double_backbone.model.text.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(3)
    for p in parameters:
        p.data = torch.randn(p.shape, generator=generator).double() * 0.1
    return double_backbone, parameters


@pytest.mark.parametrize("chunk", ["auto", 2])
def test_lora_in_the_tower_gets_the_plain_gradients(with_lora, chunk):
    backbone, parameters = with_lora
    backbone.text_chunk = chunk
    texts = ["a cat", "a dog on a tree", "an eel", "x"]
    expected = F.normalize(backbone.model.text(backbone.tokenizer(texts)), dim=-1)
    packed = backbone.encode_text(texts)
    assert encoding_plan.is_packable(backbone.model.text)
    weight = torch.randn(packed.shape).double()
    ours = torch.autograd.grad((packed * weight).sum(), parameters)
    theirs = torch.autograd.grad((expected * weight).sum(), parameters)
    assert len(ours) == 12 and all(g.abs().max() > 1e-6 for g in theirs)
    assert_equal([packed, *ours], [expected, *theirs], 1e-11)


def test_dropout_ends_the_sharing_and_only_dropout_at_work(with_lora):
    backbone, _ = with_lora
    tower = backbone.model.text
    texts = ["a photo of a cat", "a photo of a dog"]  # start, 4 shared words, 1 own, end
    with computed(tower) as counts:
        backbone.encode_text(texts)
        for module in tower.modules():
            if isinstance(module, nn.Dropout):
                module.train()
        assert encoding_plan.has_active_dropout(tower)
        first, again = backbone.encode_text(texts), backbone.encode_text(texts)
        for module in tower.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        backbone.encode_text(texts)
    assert counts == [5 + 2 * 2, 2 * 7, 2 * 7, 5 + 2 * 2]
    assert not torch.allclose(first, again)  # dropout does act


def test_dropout_draws_anew_for_the_way_back_of_a_chunk_what_it_drew(with_lora):
    backbone, parameters = with_lora
    for module in backbone.model.text.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    backbone.text_chunk = 1
    texts = ["a cat", "a dog"]

    def loss():
        torch.manual_seed(7)
        return backbone.encode_text(texts)[:, 0].sum()

    grads = torch.autograd.grad(loss(), parameters)
    step = 1e-6
    with torch.no_grad():
        direction = [torch.randn_like(p) for p in parameters]
        values = []
        for sign in (1, -1):
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=sign * step)
            values.append(float(loss()))
            for p, d in zip(parameters, direction, strict=True):
                p.sub_(d, alpha=sign * step)
    slope = sum(float((g * d).sum()) for g, d in zip(grads, direction, strict=True))
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=1e-4)


def variant(tmp_path, name, **text_cfg):
    """A tiny CLIP whose text tower differs in the given keys."""
    from conftest import TINY

    config = tmp_path / f"{name}.json"
    config.write_text(json.dumps({**TINY, "text_cfg": {**TINY["text_cfg"], **text_cfg}}))
    torch.manual_seed(0)
    return Backbone.from_card(ModelCard(str(config), "random", name=name), device="cpu").double()


PACKABLE = {
    "eos": {"pool_type": "eos", "eos_id": 49407},
    "bias": {"proj_bias": True},
    "no_projection": {"proj_type": "none", "width": 16},
    "layer_scale": {"ls_init_value": 0.5},
    "quick": {},
}
OTHERS = {
    "not_causal": {"no_causal_mask": True},
    "last_token": {"no_causal_mask": True, "pool_type": "last"},
    "first_token": {"pool_type": "first"},
    "normed_scores": {"qk_norm": True},
}


@pytest.mark.parametrize("name", [*PACKABLE, *OTHERS])
def test_every_kind_of_tower_equals_itself(tmp_path, name):
    backbone = variant(tmp_path, f"text_{name}", **{**PACKABLE, **OTHERS}[name])
    assert encoding_plan.is_packable(backbone.model.text) == (name in PACKABLE)
    context = a_context(backbone, 4, 6, own=False)
    assert_equal(*both(backbone, names_of_every_length(6, 5), context, "end"))
    backbone.text_chunk = 2
    assert_equal(*both(backbone, names_of_every_length(6, 5), context, "end"))


def test_a_hook_or_another_mask_makes_it_another_tower(double_backbone):
    tower = double_backbone.model.text
    texts = ["a cat", "a dog on a tree"]
    before = double_backbone.encode_text(texts)
    block = tower.transformer.resblocks[0]
    handle = block.register_forward_hook(lambda module, inputs, out: out * 2)
    changed = double_backbone.encode_text(texts)
    expected = F.normalize(tower(double_backbone.tokenizer(texts)), dim=-1)
    assert not torch.allclose(changed, before) and torch.allclose(changed, expected)
    handle.remove()
    assert torch.equal(double_backbone.encode_text(texts), before)
    tower.attn_mask[1, 0] = -math.inf
    assert not encoding_plan.is_packable(tower)
    expected = F.normalize(tower(double_backbone.tokenizer(texts)), dim=-1)
    assert torch.allclose(double_backbone.encode_text(texts), expected, rtol=0, atol=1e-12)


def test_a_hook_on_the_embedding_acts_in_the_packed_tower(double_backbone):
    texts = ["a cat", "a dog on a tree"]
    handle = double_backbone.token_embedding.register_forward_hook(lambda m, i, out: out + 1)
    expected = F.normalize(double_backbone.model.text(double_backbone.tokenizer(texts)), dim=-1)
    assert torch.allclose(double_backbone.encode_text(texts), expected, rtol=0, atol=1e-12)
    handle.remove()


def test_plans_are_forgotten_in_time_and_never_mixed_up(double_backbone):
    context = a_context(double_backbone, 4, 2, own=False)
    for index in range(20):
        names = [f"{WORDS[index % 10]}.", "x."]
        assert_equal(*both(double_backbone, names, context, ("end", "middle")[index % 2]))
    assert len(double_backbone._plans) <= 8


def test_half_precision_and_autocast_stay_close(tiny_card, tiny_backbone):
    half = Backbone.from_card(tiny_card, device="cpu", precision="bf16")
    names = names_of_every_length(20, 6)
    context = torch.randn(4, 32).mul(0.02).requires_grad_()
    w = tiny_backbone.encode_prompts(context, names)
    in_half = half.encode_prompts(context, names)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = tiny_backbone.encode_prompts(context, names)
    in_half.sum().backward()
    assert in_half.dtype == cast.dtype == context.grad.dtype == torch.float32
    assert torch.allclose(w, in_half, atol=0.05) and torch.allclose(w, cast, atol=0.05)


def test_rows_hold_every_prompt_once_and_are_about_full():
    sizes = [3 + (i * 7) % 11 for i in range(200)]
    rows, length = packing._fill_rows(sizes)
    assert sorted(p for row in rows for p in row) == list(range(200))
    assert len(rows) * length < 1.1 * sum(sizes)
    assert packing._fill_rows([5]) == ([[0]], 5)


def test_too_long_a_text_is_refused_before_anything_runs(tiny_backbone):
    with pytest.raises(InputError, match="does not fit into the text tower's 77"):
        tiny_backbone.encode_text(["cat", " ".join(["cat"] * 80)])
