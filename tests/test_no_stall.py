"""No step of a training waits for the device, whatever the method: shown without a GPU.

The towers, the method and its features are moved to torch's ``meta`` device, which has shapes and
no numbers. There every call that would read a number from a GPU, mix tensors of two devices, or
copy in the foreground is refused.
"""

from __future__ import annotations

import contextlib
import copy
import functools

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clip_adapt.backbone import encoding_plan
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.data.captions import Captions
from clip_adapt.data.items import Item
from clip_adapt.data.task import Task
from clip_adapt.inputs.pixels import Pixels
from clip_adapt.method import finding
from clip_adapt.training import loop
from clip_adapt.training.examples import Examples
from clip_adapt.training.fitting import Training
from clip_adapt.training.loop import Loop
from clip_adapt.training.pair_step import PairStep
from clip_adapt.training.recipe import Recipe
from clip_adapt.training.side_by_side_loop import TogetherLoop

NAMES = ("cataract", "pterygium", "corneal scarring")
VARIANTS = {
    "adapter": [{"side": "both", "learn_ratio": True}],
    "coop": [{}, {"csc": True}, {"position": "middle"}],
    "lora": [{}, {"dropout": 0.0, "towers": "image"}, {"towers": "text"}, {"dora": True}],
}
CASES = [(name, options) for name in finding.list_methods() for options in VARIANTS.get(name, [{}])]
# The way back of masked_scatter selects by the mask.
READS = ("_local_scalar_dense", "nonzero", "masked_select", "masked_scatter_backward", "unique",
         "repeat_interleave", "equal")  # fmt: skip


class Watch(TorchDispatchMode):
    """Refuses what would make the program wait for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        name = func._schema.name.removeprefix("aten::")
        there = [t for t in tensors if t.is_meta]
        if there:
            # repeat_interleave counts its result unless the number is given.
            assert not name.startswith(READS), f"{name} reads from the device"
            indices = args[1] if name.startswith("index") and isinstance(args[1], list) else ()
            masks = [i for i in indices if i is not None and i.dtype == torch.bool]
            assert not masks, f"{name} with a mask asks the device how many are meant"
            assert name != "lift_fresh", "a tensor is made from Python's numbers on the device"
        if name in ("_to_copy", "copy_"):
            source, target = (
                (tensors[0], kwargs.get("device")) if name == "_to_copy" else tensors[::-1]
            )
            target = getattr(target, "device", target) or source.device
            moves = source.device.type != torch.device(target).type
            waits = not (kwargs.get("non_blocking") or args[-1] is True)
            assert not (moves and source.is_meta), f"{name} brings a tensor back from the device"
            assert not (moves and waits), f"{name} makes the program wait for the device"
        elif there:  # a single number of the CPU goes along with the call
            here = [t for t in tensors if not t.is_meta and t.dim()]
            assert not here, f"{name} mixes devices: {[tuple(t.shape) for t in here]} on the CPU"
        return func(*args, **kwargs)


class Bare:
    """What the loop uses of an Accelerator, on the meta device."""

    device = torch.device("meta")
    is_main_process = sync_gradients = True
    accumulate = contextlib.nullcontext
    scaler = None

    def prepare(self, thing):
        return thing

    def prepare_data_loader(self, loader, device_placement):
        return loader

    def backward(self, loss):
        loss.backward()

    def clip_grad_norm_(self, parameters, norm):
        nn.utils.clip_grad_norm_(parameters, norm)

    def prepare_model(self, model, evaluation_mode):
        return model


@pytest.fixture
def on_device(monkeypatch):
    """A function that copies a method, its backbone included, to the meta device."""

    def move(tensor, memo):
        made = tensor.detach().to("meta")
        return (
            nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made
        )

    def copied(made):
        made.generator = None
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "__deepcopy__", move)
            patch.setattr(nn.Parameter, "__deepcopy__", move)
            return copy.deepcopy(made, {id(made.backbone.tokenizer): made.backbone.tokenizer})

    # Asked once a tower.
    monkeypatch.setattr(encoding_plan, "_is_causal", lambda mask, version: True)
    monkeypatch.setattr(loop, "make_accelerator", lambda *args: Bare())
    monkeypatch.setattr(loop, "read_sums", lambda sums: [1.0] * len(sums))  # once an epoch
    return copied


@pytest.fixture
def items(tmp_path):
    """Pictures of several sizes, one of them a JPEG."""
    made = []
    for number, (width, height) in enumerate([(40, 60), (64, 33), (20, 30), (80, 80), (50, 41)]):
        picture = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        path = tmp_path / f"{number}.{'png' if number else 'jpg'}"
        Image.fromarray(picture).save(path)
        made.append(Item(str(path), number % 3))
    return made


def watched(loop):
    """Run the first epoch, in which plans are made, then one that must not wait."""
    bar = contextlib.nullcontext()
    bar.update = bar.set_postfix = lambda *args, **kwargs: None
    loop._epoch(0, bar)
    with Watch():
        loop._epoch(1, bar)


def examples(made, items, labels):
    if made.tunes_image_tower:
        return Examples(Pixels(made.backbone, items, "medical"), labels)
    return Examples(torch.randn(len(labels), 2, made.backbone.embed_dim), labels)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_a_step_waits_for_nothing(name, options, optimizer, tiny_backbone, items, on_device):
    made = finding.find_method(name).cls(tiny_backbone, Task(NAMES, shots=2), **options)
    if not made.trainable():
        pytest.skip("nothing is trained by steps")
    labels = torch.tensor([0, 1, 2, 0, 1])
    if made.solves:
        made.fit(torch.randn(5, tiny_backbone.embed_dim), labels)
    made = on_device(made)
    made.set_criterion(labels, class_balanced=True, label_smoothing=0.1)
    recipe = Recipe(epochs=2, batch_size=2, optimizer=optimizer, clip_norm=1.0)
    watched(Loop(made, examples(made, items, labels), recipe))


TOGETHER = ["adapter", "coop", "taskres", "tip_adapter"]


@pytest.mark.parametrize("name", TOGETHER)
def test_a_step_of_several_runs_waits_for_nothing(name, tiny_backbone, on_device):
    made = finding.find_method(name).cls(tiny_backbone, Task(NAMES, shots=2))
    labels = torch.tensor([0, 1, 2, 0, 1])
    support = Examples(torch.randn(5, 2, tiny_backbone.embed_dim), labels)
    if made.solves:
        made.fit(support.inputs[:, 0], labels)
    first = on_device(made)
    second = copy.deepcopy(first, {id(first.backbone): first.backbone})
    trainings = []
    for seed, run in enumerate((first, second)):
        run.set_criterion(labels, class_balanced=False, label_smoothing=0.1)
        recipe = Recipe(epochs=2, batch_size=2, lr=10.0**-seed, seed=seed, clip_norm=1.0)
        trainings.append(Training(run.train(), support, recipe))
    loop = TogetherLoop(trainings)
    for epoch, waits in enumerate((contextlib.nullcontext, Watch)):  # plans are made in the first
        with waits():
            for rows in zip(*loop.loaders, strict=True):
                loop._set_rates(epoch)
                loop._make_step(rows, epoch)


@pytest.mark.parametrize("way", ["plain tower", "in parts"])
@pytest.mark.parametrize("name", ["coop", "cocoop", "lora"])
def test_other_ways_through_the_text_tower_wait_for_nothing(
    name, way, tiny_card, items, on_device, monkeypatch
):
    backbone = Backbone.from_card(tiny_card, device="cpu")
    if way == "plain tower":
        monkeypatch.setattr(encoding_plan, "is_packable", lambda tower: False)
    else:
        backbone.text_chunk = 2
    options = {"dropout": 0.0} if name == "lora" else {}  # parts draw their dropout again
    made = on_device(finding.find_method(name).cls(backbone, Task(NAMES, shots=2), **options))
    labels = torch.tensor([0, 1, 2, 0, 1])
    recipe = Recipe(epochs=2, batch_size=2)
    watched(Loop(made, examples(made, items, labels), recipe))


ABLE = [
    (name, o)
    for name, o in CASES
    if finding.find_method(name).cls.trains_on_captions and not o.get("csc")
]


@pytest.mark.parametrize(("name", "options"), ABLE, ids=str)
def test_a_step_on_captions_waits_for_nothing(name, options, tiny_backbone, items, on_device):
    made = on_device(finding.find_method(name).cls(tiny_backbone, Task(()), **options))
    texts = ["one eye", "two eyes of a cat", "an eye", "a dog", "one eye of a dog"]
    captions = Captions(texts, [[0, 1], [1], [2], [3, 0], [4]])
    make_step = functools.partial(PairStep, captions=captions, val_captions=captions, dedup=True)
    support, recipe = examples(made, items, torch.arange(5)), Recipe(epochs=2, batch_size=2)
    watched(Loop(made, support, recipe, make_step=make_step))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda x: x.sum().item(), "reads"),
        (lambda x: float(x.sum()), "reads"),
        (lambda x: bool((x > 0).any()), "reads"),
        (lambda x: x[x > 0], "reads|mask"),
        (lambda x: x.cpu(), "back from the device"),
        (lambda x: x + torch.ones(3), "mixes|same device"),
        (lambda x: x[torch.tensor([0, 1])], "mixes"),
        (lambda x: x.new_tensor(1.0), "Python's numbers|wait"),
        (lambda x: torch.tensor([1.0], device=x.device), "Python's numbers|wait"),
        (lambda x: torch.ones(3).to(x.device), "wait"),
        (lambda x: x.copy_(torch.ones(3)), "wait"),
        (lambda x: x.masked_select(x > 0), "reads"),
    ],
)
def test_the_watch_sees_what_waits(bad, message):
    x = torch.ones(3, device="meta")
    with Watch(), pytest.raises((AssertionError, RuntimeError), match=message):
        bad(x)
