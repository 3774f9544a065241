"""Deep prompts through the fast text tower against every block called by hand, in float64."""

from __future__ import annotations

import json

import families
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY

from clip_adapt.backbone import encoding_plan, prompts
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config.cards import ModelCard
from clip_adapt.errors import InputError

NAMES = [
    "cat.",
    "spotted tall dog.",
    "eel.",
    "red ox on a hill.",
    "bee.",
    "x-ray of a hen.",
    "ant.",
]
POSITIONS = ["end", "middle", "front"]
N_CTX = 3


@pytest.fixture(scope="module")
def tall(tmp_path_factory):
    """A CLIP whose text tower has four blocks."""
    folder = tmp_path_factory.mktemp("tall")
    config = folder / "tall.json"
    config.write_text(json.dumps({**TINY, "text_cfg": {**TINY["text_cfg"], "layers": 4}}))
    torch.manual_seed(0)
    backbone = Backbone.from_card(ModelCard(str(config), "random", name="tall"), device="cpu")
    return backbone.double()


@pytest.fixture(params=["auto", 1, 3])
def chunked(request, tall, monkeypatch):
    monkeypatch.setattr(tall, "text_chunk", request.param)
    return tall


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (0.5 * torch.randn(shape, generator=generator)).double().requires_grad_()


def draw_vectors(backbone, depth, own_context=False, own_deep=False, names=NAMES):
    count = len(names)
    width = backbone.token_width
    context = draw(*([count] if own_context else []), N_CTX, width, seed=1)
    deep = draw(*([count] if own_deep else []), depth, N_CTX, width, seed=2)
    return context, deep


def put(states, slots, vectors):
    """States (N, L, W) with vectors (n_ctx, W) or (N, n_ctx, W) where slots (N, L) are True."""
    out = states.clone()
    for row in range(len(states)):
        out[row, slots[row]] = vectors if vectors.dim() == 2 else vectors[row]
    return out


def of_block(deep, index):
    """What block ``index`` finds, or None."""
    depth = deep.shape[-3]
    return deep.select(-3, index - 1) if 1 <= index <= depth else None


def plain(backbone, context, deep, position, names=NAMES):
    """All positions of every prompt, block by block: nothing packed, cut or shared."""
    tower = backbone.model.text
    length = backbone.context_length
    prompt = prompts.tokenize_with_slots(backbone.tokenizer, names, N_CTX, position, length)
    x, mask, slots = tower.token_embedding(prompt.ids), tower.attn_mask, prompt.slots
    x = put(x, slots, context)
    if tower.cls_emb is not None:  # CoCa's class token stands behind the text
        x = torch.cat([x, tower.cls_emb.expand(len(x), 1, -1)], 1)
        slots = torch.cat([slots, torch.zeros(len(x), 1, dtype=torch.bool)], 1)
        mask = tower._build_additive_mask(prompt.ids, x.shape[1], x.dtype) + mask
    x = x + tower.positional_embedding
    for index, block in enumerate(tower.transformer.resblocks):
        vectors = of_block(deep, index)
        x = x if vectors is None else put(x, slots, vectors)
        x = block(x, attn_mask=mask)
    x = tower.ln_final(x)
    if tower.pool_type == "last" or tower.cls_emb is not None:
        pooled = x[:, -1]
    else:
        pooled = x[torch.arange(len(x)), prompt.ids.argmax(1)]
    projection = tower.text_projection
    out = projection(pooled) if isinstance(projection, torch.nn.Module) else pooled @ projection
    return F.normalize(out, dim=-1)


def plain_hugging_face(backbone, context, deep, position, names=NAMES):
    tower, length = backbone.model.text, backbone.context_length
    prompt = prompts.tokenize_with_slots(backbone.tokenizer, names, N_CTX, position, length)
    inner, attended = tower.transformer, prompt.ids != tower.config.pad_token_id
    words = put(inner.embeddings.word_embeddings(prompt.ids), prompt.slots, context)
    if tower.config.model_type == "roberta":
        places = attended.long().cumsum(1) * attended + tower.config.pad_token_id
        x = inner.embeddings(inputs_embeds=words, position_ids=places)
    else:
        x = inner.embeddings(inputs_embeds=words)
    mask = torch.zeros(len(x), 1, length, length, dtype=x.dtype)
    mask = mask.masked_fill(~attended[:, None, None, :], torch.finfo(x.dtype).min)
    for index, block in enumerate(inner.encoder.layer):
        vectors = of_block(deep, index)
        x = x if vectors is None else put(x, prompt.slots, vectors)
        x = block(x, mask)
        x = x[0] if isinstance(x, tuple) else x
    if tower.config.model_type == "roberta":
        pooled = (x * attended[..., None]).sum(1) / attended.sum(1, keepdim=True)
    else:
        pooled = x[:, 0]
    return F.normalize(tower.proj(pooled), dim=-1)


def assert_same(backbone, context, deep, position, reference=plain, names=NAMES):
    """The same features, and the same gradients of context and deep prompts."""
    features, gradients = [], []
    for encode in (
        lambda: backbone.encode_prompts(context, names, position, deep=deep),
        lambda: reference(backbone, context, deep, position, names),
    ):
        out = encode()
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).double()
        features.append(out)
        gradients.append(torch.autograd.grad((out * weight).sum(), (context, deep)))
    assert torch.allclose(*features, rtol=0, atol=1e-10)
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-10)
    # Every vector of every block has a say.
    assert all(bool((g.abs().amax(-1) > 1e-7).all()) for g in gradients[1])


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(("own_context", "own_deep"), [(False, False), (True, True)])
@pytest.mark.parametrize("depth", [1, 3])
def test_packed_prompts_equal_the_blocks_called_by_hand(
    chunked, depth, own_context, own_deep, position
):
    assert encoding_plan.is_packable(chunked.model.text)
    assert_same(chunked, *draw_vectors(chunked, depth, own_context, own_deep), position)


@pytest.mark.parametrize(("own_context", "own_deep"), [(False, True), (True, False)])
def test_what_only_one_of_them_has_of_its_own_is_repeated_for_the_other(
    chunked, own_context, own_deep
):
    assert_same(chunked, *draw_vectors(chunked, 2, own_context, own_deep), "end")


@pytest.mark.parametrize("chunk", ["auto", 2])
@pytest.mark.parametrize("family", ["siglip", "own-attention", "mobileclip", "coca"])
@pytest.mark.parametrize("own", [False, True])
def test_towers_of_open_clip_that_are_not_packed(family, own, chunk, tmp_path):
    backbone = Backbone.from_card(families.write(family, tmp_path), device="cpu").double()
    backbone.text_chunk = chunk
    assert not encoding_plan.is_packable(backbone.model.text)
    names = ["cat.", "a dog.", "cataract eye."]
    vectors = draw_vectors(backbone, 1, own, own, names)
    for position in POSITIONS:
        assert_same(backbone, *vectors, position, names=names)


@pytest.mark.parametrize("chunk", ["auto", 2])
@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("own", [False, True])
def test_towers_of_transformers(family, own, chunk, tmp_path):
    backbone = Backbone.from_card(families.write(family, tmp_path), device="cpu").double()
    backbone.text_chunk = chunk
    names = ["cat.", "a dog.", "cataract eye."]
    vectors = draw_vectors(backbone, 1, own, own, names)
    for position in POSITIONS:
        assert_same(backbone, *vectors, position, plain_hugging_face, names)
    for block in backbone.blocks("text"):
        assert not block.module._forward_pre_hooks


def test_the_way_stays_the_fast_one(tall):
    context, deep = draw_vectors(tall, 3)
    counts = []
    block = tall.model.text.transformer.resblocks[1]
    handle = block.mlp.register_forward_pre_hook(
        lambda module, inputs: counts.append(inputs[0][..., 0].numel())
    )
    names = ["cat.", "dog.", "eel."]  # start and 3 vectors shared; name, stop and end of its own
    tall.encode_prompts(context, names, deep=deep)
    tall.encode_prompts(context, names, deep=deep.expand(3, -1, -1, -1))
    handle.remove()
    assert counts == [4 + 3 * 3, 1 + 3 * 6]


def test_plans_know_what_deep_prompts_change(tall):
    context, deep = draw_vectors(tall, 3)
    own = draw_vectors(tall, 3, own_deep=True)[1]
    context.requires_grad_(False)
    for vectors in (deep, own, deep, own.detach(), deep.detach()):
        with torch.no_grad():
            expected = plain(tall, context, vectors, "end")
        for _ in range(2):
            ours = tall.encode_prompts(context, NAMES, deep=vectors)
            assert ours.requires_grad == vectors.requires_grad
            assert torch.allclose(ours, expected, rtol=0, atol=1e-10)
    without = tall.encode_prompts(context, NAMES)
    assert torch.equal(without, tall.encode_prompts(context, NAMES, deep=deep[:0]))
    assert not torch.allclose(without, ours, atol=1e-3)


def test_chunks_keep_nothing_for_deep_prompts_that_learn_alone(tall, monkeypatch):
    context, deep = draw_vectors(tall, 2)
    context.requires_grad_(False)
    monkeypatch.setattr(tall, "text_chunk", 3)
    calls = []
    block = tall.model.text.transformer.resblocks[1]
    handle = block.mlp.register_forward_pre_hook(lambda module, inputs: calls.append(module))
    tall.encode_prompts(context, NAMES, deep=deep).sum().backward()
    handle.remove()
    assert len(calls) == 2 * 3  # each chunk there and on the way back


@pytest.mark.parametrize(
    "shape", [(4, 3, 32), (1, 2, 32), (1, 3, 16), (3, 32), (6, 1, 3, 32), (7, 4, 3, 32)]
)
def test_what_does_not_fit_is_refused(tall, shape):
    message = (
        rf"deep prompts of shape {tuple(shape)} do not fit: expected (blocks, 3, 32), or (7, "
        r"blocks, 3, 32) with vectors of each text's own, for at most 3 blocks: of the text "
        r"tower's 4 the first takes the context"
    )
    with pytest.raises(InputError) as error:
        tall.encode_prompts(torch.zeros(3, 32).double(), NAMES, deep=torch.zeros(shape).double())
    assert str(error.value) == message


def test_a_tower_that_checkpoints_its_blocks_is_refused_where_it_would_be_wrong(tall):
    context, deep = draw_vectors(tall, 1)
    twin = tall.twin()
    twin.model.text.set_grad_checkpointing(True)
    with pytest.raises(InputError, match=r"checkpoints its own blocks.*set text_chunk=N"):
        twin.encode_prompts(context, NAMES, deep=deep)
    with torch.no_grad():
        ours = twin.encode_prompts(context, NAMES, deep=deep)
        assert torch.allclose(ours, plain(tall, context, deep, "end"), rtol=0, atol=1e-10)


def test_half_precision_stays_close(tiny_card, tiny_backbone):
    half = Backbone.from_card(tiny_card, device="cpu", precision="bf16")
    context, deep = (t.detach().float().requires_grad_() for t in draw_vectors(tiny_backbone, 1))
    expected = tiny_backbone.encode_prompts(context, NAMES, deep=deep)
    ours = half.encode_prompts(context, NAMES, deep=deep)
    ours.sum().backward()
    assert ours.dtype == deep.grad.dtype == torch.float32
    assert torch.allclose(ours, expected, atol=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = tiny_backbone.encode_prompts(context, NAMES, deep=deep)
    assert torch.allclose(cast, expected, atol=0.05)
