"""compile=true changes the speed and nothing else."""

from __future__ import annotations

import functools

import families
import pytest
import torch
import torch.nn.functional as F

from clip_adapt.backbone import compiling
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.data.captions import Captions
from clip_adapt.data.task import Task
from clip_adapt.method import finding
from clip_adapt.training.examples import Examples
from clip_adapt.training.loop import train
from clip_adapt.training.pair_step import PairStep
from clip_adapt.training.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch's compiler


@pytest.fixture
def compilations(monkeypatch):
    """The functions that were compiled; by a quick backend, without a C++ compiler."""
    compiled, real = [], torch.compile

    def quick(function, *args, **kwargs):
        compiled.append(function)
        return real(function, *args, backend="aot_eager", **kwargs)

    monkeypatch.setattr(torch, "compile", quick)
    compiling.compile_function.cache_clear()
    yield compiled
    compiling.compile_function.cache_clear()
    torch._dynamo.reset()


@pytest.fixture
def graphs():
    """A function that tells how many graphs were made since it was last asked."""
    counters = torch._dynamo.utils.counters
    counters.clear()

    def made():
        number = counters["stats"]["unique_graphs"]
        counters.clear()
        return number

    return made


@pytest.fixture
def both(tiny_card):
    """The same backbone, plain and compiled."""
    return [Backbone.from_card(tiny_card, device="cpu", compile=way) for way in (False, True)]


def support_of(backbone):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(12, 2, backbone.embed_dim, generator=generator)
    return Examples(F.normalize(z, dim=-1), torch.arange(12) % 3)


def trained(name, backbone, recipe):
    made = finding.find_method(name).cls(backbone, Task(("cat", "dog", "eel"), shots=4))
    support = support_of(backbone)
    if made.solves:
        made.fit(support.inputs[:, 0], support.labels)
    return made, train(made, support, recipe)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((n, {}) for n in finding.list_methods() if finding.find_method(n).cls.quick),
        ("taskres", {"accumulate": 2}),
    ],
    ids=str,
)
def test_a_compiled_step_trains_the_same(name, changes, both, compilations, graphs):
    if not finding.find_method(name).cls(both[0], Task(("cat", "dog", "eel"))).trainable():
        pytest.skip("nothing is trained by steps")
    recipe = Recipe(epochs=3, batch_size=5, lr=0.05, class_balanced=True, **changes)
    (plain, expected), (fast, curve) = (trained(name, backbone, recipe) for backbone in both)
    # One for the blocks that the prompts pass before the first step, one for full batches and one
    # for an epoch's last, which has two images.
    assert graphs() == 3 and len(curve) == len(expected) == 3
    for row, other in zip(curve, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-5)
    for key, tensor in plain.state_dict().items():
        assert torch.allclose(fast.state_dict()[key], tensor, atol=1e-6)


@pytest.mark.parametrize("dedup", [True, False])
@pytest.mark.parametrize("name", ["adapter", "coop"])
def test_a_compiled_step_on_captions_trains_the_same(name, dedup, both, compilations):
    texts = [f"picture {number}" for number in range(12)]
    captions = Captions(texts, [[number, (number + 1) % 12] for number in range(12)])
    make_step = functools.partial(PairStep, captions=captions, val_captions=captions, dedup=dedup)
    cls, recipe, ends = finding.find_method(name).cls, Recipe(epochs=2, batch_size=6, lr=0.05), []
    for backbone in both:
        made = cls(backbone, Task(()))
        support = Examples(support_of(backbone).inputs, torch.arange(12))
        curve = train(made, support, recipe, make_step=make_step)
        ends.append((curve, made.state_dict()))
    (expected, plain), (curve, fast) = ends
    whole = [f for f in compilations if getattr(f, "__name__", "") == "_compute"]
    assert len(whole) == (name == "adapter")  # a step in which the text tower runs is not one
    assert [r["loss"] for r in curve] == pytest.approx([r["loss"] for r in expected], rel=1e-4)
    for key, tensor in plain.items():
        assert torch.allclose(fast[key], tensor, atol=1e-5)


@pytest.mark.parametrize("name", ["coop", "lora"])
def test_compilation_reaches_the_packed_text_and_the_twin(name, both, compilations, graphs):
    found = []
    for backbone in both:
        options = {"dropout": 0.0} if name == "lora" else {}
        made = (
            finding.find_method(name)
            .cls(backbone, Task(("cat", "dog", "tall eel")), **options)
            .train()
        )
        generator = torch.Generator().manual_seed(1)
        for parameter in made.trainable():  # LoRA's B starts at zero
            parameter.data.normal_(0, 0.1, generator=generator)
        pixels = torch.randn(3, 3, 32, 32, generator=generator)
        graphs()
        z = made.encode_image(pixels)
        images = graphs()
        w = made.weights()
        found.append((images, graphs(), z, w, made))
        (z @ w.T)[:, 0].sum().backward()
    (*nothing, z, w, plain), (images, texts, fast_z, fast_w, fast) = found
    assert nothing == [0, 0] and images == 1 and texts == 1  # one serves every block
    assert torch.allclose(fast_z, z, atol=1e-6) and torch.allclose(fast_w, w, atol=1e-6)
    for ours, theirs in zip(fast.trainable(), plain.trainable(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)
        assert float(theirs.grad.abs().max()) > 0


def test_deep_prompts_share_the_compiled_block(both, compilations, graphs):
    outcomes = []
    for backbone in both:
        generator = torch.Generator().manual_seed(1)
        context, deep = (
            torch.randn(shape, generator=generator).requires_grad_()
            for shape in ((2, 32), (1, 2, 32))
        )
        graphs()
        w = backbone.encode_prompts(context, ["cat.", "tall dog."], deep=deep)
        (w @ torch.ones(backbone.embed_dim)).sum().backward()
        first = graphs()
        backbone.encode_prompts(context + 1, ["cat.", "tall dog."], deep=deep + 1)
        outcomes.append((first, graphs(), w, context.grad, deep.grad))
    (*nothing, w, context, deep), (*made, fast_w, fast_context, fast_deep) = outcomes
    assert nothing == [0, 0] and made == [1, 0]  # one, which other vectors use again
    assert torch.allclose(fast_w, w, atol=1e-6)
    assert torch.allclose(fast_context, context, atol=1e-5)
    assert torch.allclose(fast_deep, deep, atol=1e-5) and float(deep.abs().max()) > 1e-4


@pytest.mark.parametrize("family", ["siglip", "bert"])
def test_hooks_of_deep_prompts_and_maps_compile_nothing(family, tmp_path, compilations, graphs):
    card = families.write(family, tmp_path)
    plain, fast = (Backbone.from_card(card, device="cpu", compile=way) for way in (False, True))
    context, deep = torch.randn(2, 32), torch.randn(1, 2, 32)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        w, maps = (
            [b.encode_prompts(context, ["cat.", "dog."], deep=deep) for b in (plain, fast)],
            [b.dense(pixels, [0])[0] for b in (plain, fast)],
        )
        assert graphs() == 0 and torch.equal(*w) and torch.equal(*maps)
        fast.encode_text(["cat.", "dog."])
        fast.encode_image(pixels)
        assert graphs() == 2  # and what was compiled before is so again


def test_what_cannot_be_compiled_runs_as_it_is(tiny_card, monkeypatch, caplog):
    def refuses(graph, inputs):
        raise NotImplementedError("no such operator")

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **how: real(f, backend=refuses))
    compiling.compile_function.cache_clear()
    recipe = Recipe(epochs=2, batch_size=5, lr=0.05)
    backbones = [Backbone.from_card(tiny_card, device="cpu", compile=way) for way in (False, True)]
    (plain, _), (fast, _) = (trained("taskres", backbone, recipe) for backbone in backbones)
    assert torch.equal(plain.residual, fast.residual)
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(*(backbone.encode_image(pixels) for backbone in backbones))
    compiling.compile_function.cache_clear()
    torch._dynamo.reset()
    for what in (
        "the training step",
        "VisionTransformer",
        "clip_adapt.backbone.text_tower._run_block",
    ):
        assert sum(f"compile=true: {what} is not compiled" in m for m in caplog.messages) == 1


def test_errors_of_the_function_are_its_own():
    called = []

    def wrong(x):
        called.append(x)
        raise ZeroDivisionError("by the function")

    made = compiling.Compiled(wrong, "wrong")
    made.fast = wrong
    with pytest.raises(ZeroDivisionError, match="by the function"):
        made(torch.ones(1))
    assert len(called) == 1 and made.fast is wrong  # not tried again, and still compiled


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adapter", "coop"])
def test_the_real_compiler_trains_the_same(name, both):
    recipe = Recipe(epochs=2, batch_size=5, lr=0.05)
    compiling.compile_function.cache_clear()
    (plain, _), (fast, _) = (trained(name, backbone, recipe) for backbone in both)
    torch._dynamo.reset()
    for key, tensor in plain.state_dict().items():
        assert torch.allclose(fast.state_dict()[key], tensor, atol=1e-5)


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
