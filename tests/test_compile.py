"""compile=true changes the speed and nothing else."""

from __future__ import annotations

import families
import pytest
import torch

from clip_adapt.backbone import Backbone

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch's compiler


@pytest.fixture
def compilations(monkeypatch):
    """The functions that were compiled; by a quick backend, without a C++ compiler."""
    compiled, real = [], torch.compile

    def quick(function, *args, **kwargs):
        compiled.append(function)
        return real(function, *args, backend="aot_eager", **kwargs)

    monkeypatch.setattr(torch, "compile", quick)
    yield compiled
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["vit", "bert", "timm-vit"])
def test_compiled_towers_give_the_same(family, tmp_path, compilations):
    card = families.write(family, tmp_path)
    plain = Backbone.from_card(card, device="cpu")
    fast = Backbone.from_card(card, device="cpu", compile=True)
    assert len(compilations) == 2
    assert fast.fingerprint == plain.fingerprint
    assert fast.state_dict().keys() == plain.state_dict().keys()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(fast.encode_image(pixels), plain.encode_image(pixels), atol=1e-5)
        texts = ["a photo of a cat.", "dog"]
        assert torch.allclose(fast.encode_text(texts), plain.encode_text(texts), atol=1e-5)
    for seed in range(3):  # another context at each step, as in training
        torch.manual_seed(seed)
        context = torch.randn(2, plain.token_width, requires_grad=True)
        other = context.detach().clone().requires_grad_()
        for backbone, leaf in ((fast, context), (plain, other)):
            w = backbone.encode_prompts(leaf, ["cat.", "dog."])
            (w @ torch.ones(backbone.embed_dim)).sum().backward()
        assert torch.allclose(context.grad, other.grad, atol=1e-5)


@pytest.mark.slow
def test_a_hook_inside_a_compiled_tower_is_heard(tmp_path, compilations):
    backbone = Backbone.from_card(families.write("vit", tmp_path), device="cpu", compile=True)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = backbone.encode_image(pixels)
        block = backbone.model.visual.transformer.resblocks[0]
        handle = block.register_forward_hook(
            lambda module, inputs, output: output + 1.5 * torch.randn(32)
        )
        assert not torch.allclose(backbone.encode_image(pixels), before, atol=1e-3)
        handle.remove()
        assert torch.allclose(backbone.encode_image(pixels), before, atol=1e-5)
