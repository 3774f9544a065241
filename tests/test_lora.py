"""LoRA against the formula written out plainly, what it may touch, and what it counts."""

from __future__ import annotations

import copy

import open_clip
import pytest
import torch
import torch.nn.functional as F
from clip_adapt.methods.lora import LoRA
from torch.func import functional_call

import clip_adapt
from clip_adapt.adapted.classifier import Classifier
from clip_adapt.backbone import attention, tunable_layers, tuning
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.data.task import Task
from clip_adapt.errors import InputError
from clip_adapt.runs.configuration import compose

TASK = Task(("cat", "dog", "spotted eel"))


@pytest.fixture(scope="module")
def lite():
    return Backbone.load("lite", device="cpu")


def shaken(method, seed=0):
    """Give every tensor of the method a value, so that an update is no longer zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in method.state_dict().values():
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return method


def pixels(backbone, count=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    size = backbone.image_size
    return torch.randn(count, 3, size, size, generator=generator).to(backbone.dtype)


def plain_logits(backbone, images, weights):
    """CLIP with other weights, all 77 tokens: written without any of the method's code."""
    model = copy.deepcopy(backbone.model)
    ids = backbone.tokenizer([f"a photo of a {name}." for name in TASK.classes])

    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images, ids):
            return F.normalize(self.model.visual(images)), F.normalize(self.model.text(ids))

    changed = {f"model.{name}": tensor for name, tensor in weights.items()}
    z, w = functional_call(Whole(), changed, (images, ids))
    return backbone.logit_scale * z @ w.T


@pytest.mark.parametrize(
    ("options", "gamma"),
    [
        ({}, 1 / 2**0.5),
        ({"rank": 3, "alpha": 6.0, "rslora": False, "target": ["q", "k", "v", "out"]}, 2.0),
        ({"layers": "top:1", "target": ["v"]}, 1 / 2**0.5),
    ],
)
def test_outputs_and_gradients_are_those_of_the_formula(double_backbone, options, gamma):
    backbone = double_backbone
    method = shaken(LoRA(backbone, TASK, dropout=0.0, **options).double())
    images, labels = pixels(backbone), torch.tensor([0, 1, 2, 1, 0])
    loss = F.cross_entropy(method(method.encode_image(images)), labels)
    loss.backward()

    parts = {n: t.detach().clone().requires_grad_() for n, t in method.state_dict().items()}
    base = backbone.model.state_dict()
    weights = {}
    for name, a in parts.items():
        if name.endswith("lora_A.weight"):
            layer = name.removesuffix(".lora_A.weight")
            b = parts[f"{layer}.lora_B.weight"]
            weights[f"{layer}.weight"] = base[f"{layer}.weight"] + gamma * b @ a
    F.cross_entropy(plain_logits(backbone, images, weights), labels).backward()

    assert len(weights) == len(parts) // 2 > 0
    with torch.no_grad():
        expected = plain_logits(backbone, images, weights)
        ours = method(method.encode_image(images))
    assert torch.allclose(ours, expected, atol=1e-10)
    for name, parameter in method.named_parameters():
        assert torch.allclose(parameter.grad, parts[name].grad, rtol=1e-8, atol=1e-12), name


def test_the_layers_are_those_that_were_asked_for(tiny_backbone):
    names = {
        name.rpartition(".lora_")[0]
        for name in LoRA(tiny_backbone, TASK, layers=[1], target=["q", "out"]).state_dict()
    }
    assert names == {
        f"{tower}.transformer.resblocks.1.attn.{layer}"
        for tower in ("visual", "text")
        for layer in ("q_proj", "out_proj")
    }


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("all", [0, 1, 2, 3]),
        ("top:1", [3]),
        ("top:3", [1, 2, 3]),
        ("top:4", [0, 1, 2, 3]),
        ([0], [0]),
        ([3, 1, 1], [1, 3]),
    ],
)
def test_layers_are_counted_from_the_input(layers, expected):
    assert tunable_layers.choose_indices(layers, 4, "image") == expected


@pytest.mark.parametrize(
    "layers",
    [[], [-1], [0, -4], [4], [0, 4], "top", "top:", "top:0", "top:5", "top:-1", "last:1", "3"],
)
def test_layers_that_are_not_there_are_refused(layers):
    with pytest.raises(InputError) as error:
        tunable_layers.choose_indices(layers, 4, "text")
    assert str(error.value) == (
        f"method.layers={layers}: the text tower has 4 blocks; expected all, top:1 to top:4, or a "
        "list of 0 to 3"
    )


@pytest.mark.parametrize("peft", ["LNTuning", "lntuningconfig"])
@pytest.mark.filterwarnings("ignore:Unsupported layer type")
def test_layer_normalisations_are_tuned_in_the_layers_that_were_asked_for(tiny_backbone, peft):
    def norms(**options):
        method = LoRA(tiny_backbone, TASK, peft=peft, **options)
        return {name.partition(".ln_tuning_layers")[0] for name in method.state_dict()}

    inside = {
        f"{tower}.transformer.resblocks.{i}.{norm}"
        for tower in ("visual", "text")
        for i in (0, 1)
        for norm in ("ln_1", "ln_2")
    }
    assert norms() == inside | {"visual.ln_pre", "visual.ln_post", "text.ln_final"}
    assert norms(layers="top:1") == {name for name in inside if ".1." in name}
    assert norms(layers=[0], towers="text") == {
        f"text.transformer.resblocks.0.{norm}" for norm in ("ln_1", "ln_2")
    }


def test_a_tower_without_layer_normalisations_says_so():
    with pytest.raises(InputError, match="the image tower has no layer normalisation there"):
        tunable_layers.choose_norms(torch.nn.Sequential(torch.nn.BatchNorm2d(2)), "image", "all")


def test_the_recipe_trains_184320_numbers_on_vit_b_16():
    model = open_clip.create_model("ViT-B-16", force_custom_text=True).requires_grad_(False)
    attention.separate_attention(model)
    names = [
        f"{side}.{name}"
        for side in ("visual", "text")
        for name in tunable_layers.choose_layers(getattr(model, side), side, ["q", "k", "v"], "all")
    ]
    added = tuning.inject_tuner(
        model, tuning.make_config("Lora", {"r": 2, "lora_alpha": 1.0}, names)
    )
    assert len(names) == 3 * (12 + 12)
    assert sum(tensor.numel() for tensor in added.values()) == 184_320
    assert sum(tensor.nbytes for tensor in added.values()) < 1_000_000


def test_a_convolutional_tower_is_tuned_in_its_pointwise_layers(lite):
    method = LoRA(lite, TASK, towers="image")
    layers = {name.rpartition(".lora_")[0] for name in method.state_dict()}
    modules = dict(lite.model.named_modules())
    expected = {
        name
        for name, m in modules.items()
        if name.startswith("visual.")
        and (
            (isinstance(m, torch.nn.Conv2d) and m.weight.shape[2:] == (1, 1) and m.groups == 1)
            or isinstance(m, torch.nn.Linear)
        )
    }
    assert layers == expected and len(expected) > 20


def test_merged_weights_give_the_logits_of_the_adapter(tiny_backbone, lite):
    for backbone in (tiny_backbone, lite):
        method = shaken(LoRA(backbone, TASK)).eval()
        images = pixels(backbone)
        plain = backbone.twin()
        merged = method.merged()
        assert merged.keys() == backbone.model.state_dict().keys()
        plain.__dict__["_modules"] = {"model": copy.deepcopy(backbone.model)}
        plain.model.load_state_dict(merged)
        texts = [[t.replace("{}", c) for t in TASK.templates] for c in TASK.classes]
        with torch.no_grad():
            expected = method(method.encode_image(images))
            z, w = plain.encode_image(images), plain.class_weights(texts)
        ours = backbone.logit_scale * z @ w.T
        assert torch.allclose(ours, expected, atol=1e-5 * float(backbone.logit_scale))


def test_two_deltas_on_one_backbone_do_not_disturb_one_another(tiny_backbone):
    images = pixels(tiny_backbone)
    with torch.no_grad():
        frozen = tiny_backbone.encode_image(images)
        one, two = (shaken(LoRA(tiny_backbone, TASK).eval(), seed) for seed in (1, 2))
        alone = one(one.encode_image(images))
        assert not torch.equal(alone, two(two.encode_image(images)))
        assert torch.equal(alone, one(one.encode_image(images)))
        assert torch.equal(frozen, tiny_backbone.encode_image(images))


def test_gradients_reach_only_the_towers_that_are_tuned(tiny_backbone):
    image, text = (LoRA(tiny_backbone, TASK, towers=t) for t in ("image", "text"))
    assert not image.weights().requires_grad and text.weights().requires_grad
    z = pixels(tiny_backbone)
    assert image.encode_image(z).requires_grad and not text.encode_image(z).requires_grad
    assert image.tunes_image_tower and not text.tunes_image_tower


def test_dropout_acts_in_training_only(tiny_backbone):
    method = shaken(LoRA(tiny_backbone, TASK, dropout=0.5))
    images = pixels(tiny_backbone)
    with torch.no_grad():
        method.train()
        assert not torch.equal(method.encode_image(images), method.encode_image(images))
        method.eval()
        assert torch.equal(method.encode_image(images), method.encode_image(images))


def test_checkpointing_changes_no_gradient(double_backbone):
    gradients = []
    for checkpointing in (False, True):
        method = LoRA(double_backbone, TASK, dropout=0.0, checkpointing=checkpointing).double()
        shaken(method).train()
        logits = method(method.encode_image(pixels(double_backbone)))
        method.loss(logits, torch.tensor([0, 1, 2, 1, 0])).backward()
        gradients.append([p.grad for p in method.parameters()])
    assert all(torch.allclose(a, b, atol=1e-13) for a, b in zip(*gradients, strict=True))


def test_trained_numbers_stay_in_float32_on_a_half_precision_backbone(tiny_card):
    backbone = Backbone.from_card(tiny_card, device="cpu", precision="bf16")
    method = LoRA(backbone, TASK)
    assert {p.dtype for p in method.parameters()} == {torch.float32}
    loss = method.loss(method(method.encode_image(pixels(backbone))), torch.tensor([0, 1, 2, 1, 0]))
    loss.backward()
    assert all(p.grad is not None for p in method.parameters())


@pytest.mark.parametrize("name", ["IA3", "OFT", "LNTuning", "LoHa", "randlora"])
@pytest.mark.filterwarnings("ignore:Unsupported layer type")
def test_other_tuners_of_peft_go_into_the_same_place(tiny_backbone, name):
    method = LoRA(tiny_backbone, TASK, peft=name)
    loss = method.loss(
        method(method.encode_image(pixels(tiny_backbone))), torch.tensor([0, 1, 2, 1, 0])
    )
    loss.backward()
    assert sum(float(p.grad.abs().sum()) for p in method.trainable() if p.grad is not None) > 0
    assert not any("default" in key for key in method.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "top:3"}, r"layers=top:3: the image tower has 2 blocks; expected all, top:1"),
        ({"layers": [0, 7]}, r"layers=\[0, 7\]: the image tower has 2 blocks"),
        ({"layers": "last"}, r"expected all, top:1 to top:2, or a list of 0 to 1"),
        ({"layers": [-1]}, r"layers=\[-1\]: the image tower has 2 blocks; expected all, top:1 to"),
        ({"layers": []}, r"layers=\[\]: the image tower has 2 blocks; expected all, top:1 to"),
        ({"layers": "top:0"}, r"layers=top:0: the image tower has 2 blocks; expected all, top:1"),
        ({"layers": "top:\u00b2"}, r"the image tower has 2 blocks; expected all, top:1 to top:2"),
        ({"layers": [-1], "peft": "LNTuning"}, r"layers=\[-1\]: the image tower has 2 blocks; exp"),
        (
            {"layers": [2], "peft": "lntuning", "towers": "text"},
            r"the text tower has 2 blocks; exp",
        ),
        (
            {"peft": "LNTuningConfig", "target": ["v"]},
            r"which have no projections; leave the targe",
        ),
        ({"target": []}, r"expected at least one of q, k, v, out"),
        ({"peft": "Lorra"}, r"PEFT has no such tuner of a model's layers - did you mean 'Lora'"),
        ({"peft": "PromptTuning"}, r"PEFT has no such tuner"),
        ({"peft": "IA3", "peft_options": {"rank": 2}}, r"IA3Config of PEFT has no option 'rank'"),
        ({"peft_options": {"r": 2}}, r"peft_options needs method.peft"),
        (
            {"peft": "Lora", "peft_options": {"init_lora_weights": "pissa"}},
            r"would change frozen weights",
        ),
        ({"peft": "Lora", "peft_options": {"bias": "all"}}, r"would change frozen weights"),
        ({"peft": "AdaLora"}, r"AdaLoraConfig.*total_step"),
    ],
)
def test_what_cannot_work_is_refused_and_leaves_the_backbone_alone(tiny_card, options, message):
    backbone = Backbone.from_card(tiny_card, device="cpu")
    before = copy.deepcopy(backbone.state_dict())
    with pytest.raises(InputError, match=message):
        LoRA(backbone, TASK, **options)
    after = backbone.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not any(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("rank=0", "method.rank=0 in method lora: expected a whole number, at least 1"),
        ("target=[q, z]", "expected one of q, k, v, out"),
        ("dropout=1.5", "expected a number, at least 0 and at most 0.99"),
        ("towers=all", "expected one of both, image, text"),
    ],
)
def test_bad_options_say_what_is_allowed(run_cli, word, message):
    code, _, error = run_cli("train", "method=lora", f"method.{word}")
    assert code == 2 and message in error


def test_the_recipe_is_the_published_one_and_shorter_on_a_cpu():
    config = compose({"method": "lora", "device": "cpu"})
    o = config.options
    assert config.cpu_recipe == {"iterations_per_shot": 5, "lr": 0.01}
    assert o.iterations == 5 * 16 and o.lr == 0.01
    assert (o.optimizer, o.weight_decay, o.batch_size, o.min_lr) == ("adamw", 0.01, 32, 1e-6)
    full = compose({"method": "lora", "device": "cpu", "iterations_per_shot": 500, "lr": 2e-4})
    assert full.options.iterations == 8000 and not full.cpu_recipe
    epochs = compose({"method": "lora", "device": "cpu", "epochs": 3})
    assert epochs.options.iterations is None and epochs.options.epochs_at(16) == 3


def test_a_run_on_a_folder_with_a_delta_that_loads(animals, tiny_model, tmp_path):
    model = clip_adapt.adapt(
        animals, method="lora", shots=4, model=tiny_model, device="cpu", iterations_per_shot=6,
        lr=0.02, augment="none", guard=True, output=str(tmp_path / "run"),
    )  # fmt: skip
    assert model.metrics["test"]["accuracy"]["value"] >= 0.6
    picture = animals / "test" / "cat" / "0.png"
    again = clip_adapt.load(tmp_path / "run" / "adapter", model="tiny.yaml")
    assert isinstance(again, Classifier) and again.guard == model.guard
    assert again.predict(picture) == model.predict(picture)
