"""The laws that every method keeps."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_adapt.adapted import delta
from clip_adapt.adapted.classifier import Classifier
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.method.contract import CLAIMS, Method
from clip_adapt.method.finding import Found
from clip_adapt.testing.case import CLASSES, Case
from clip_adapt.testing.interruption import an_interrupted_training_goes_on
from clip_adapt.training import contrastive
from clip_adapt.training.recipe import Recipe


def check_method(
    cls: type[Method],
    fresh: Callable[[], Backbone],
    *,
    options: Mapping[str, Any] | None = None,
    recipe: Recipe | None = None,
    file: Path | None = None,
) -> None:
    """Run every law; the first that is broken raises an AssertionError which says so.

    Args:
        cls: a subclass of Method.
        fresh: a function that loads the same small backbone anew at every call.
        options: keyword arguments of the constructor.
        recipe: for the toy task; the default trains 150 epochs with Adam at 0.01.
        file: where the class is defined, for a method outside the package.
    """
    case = Case(cls, fresh, options or {}, file=file)
    case.recipe = recipe or case.recipe
    for law in LAWS:
        law(case)


def logits_have_one_row_an_image(case: Case) -> None:
    """Logits are (N, C), and a row does not depend on the other rows of its batch."""
    made = case.make().eval()
    pixels, _ = case.toy(made.backbone)
    with torch.no_grad():
        z = made.encode_image(pixels)
        logits = made(z)
        one = torch.cat([made(row.unsqueeze(0)) for row in z])
    assert logits.shape == (len(pixels), len(CLASSES)), f"logits have shape {tuple(logits.shape)}"
    assert torch.allclose(logits, one, rtol=1e-4, atol=1e-4), "a row depends on its batch"


def the_whole_equals_its_parts(case: Case) -> None:
    """``forward(z)`` gives what ``logits(z, weights())`` gives, before training and after."""
    for made in (case.make().eval(), case.trained(case.fresh())[0]):
        pixels, _ = case.toy(made.backbone)
        with torch.no_grad():
            z = made.encode_image(pixels)
            whole, parts = made(z), made.logits(z, made.weights())
        assert torch.allclose(whole, parts, rtol=1e-5, atol=1e-5), (
            "forward(z) differs from logits(z, weights())"
        )


def what_is_not_claimed_does_nothing(case: Case) -> None:
    """A method without a claim of contract.CLAIMS does not do it; one with it defines how."""
    made = case.make().eval()
    pixels, labels = case.toy(made.backbone)
    for claim, function in CLAIMS.items():
        inherits = getattr(case.cls, function) is getattr(Method, function)
        claimed = getattr(made, claim)
        assert not (claimed and inherits), f"{claim} is claimed and there is no {function}"
    with torch.no_grad():
        z = made.encode_image(pixels)
        w = made.weights()
        before = made(z)
        if not made.solves:
            made.fit(z, labels)
            assert torch.equal(made(z), before), "fit changes a method that does not claim solves"
        if not made.penalizes:
            assert not made.penalty(z, z, w), "there is a penalty, and penalizes is not claimed"
        if not made.has_own_loss:
            plain = F.cross_entropy(before, labels)
            assert torch.equal(made.loss(before, labels), plain), "has_own_loss is not claimed"
    for parameter in made.trainable():
        parameter.grad = torch.ones_like(parameter)
    if not made.changes_gradients:
        made.before_step()
        untouched = all(bool((p.grad == 1).all()) for p in made.trainable() if p.grad is not None)
        assert untouched, "before_step changes gradients, and changes_gradients is not claimed"


def every_parameter_gets_a_gradient(case: Case) -> None:
    """After one step of the loss every trainable parameter has a gradient that is not zero.

    A parameter may start where its gradient vanishes (LoRA's A behind a B of zeros), so the check
    is made after a short training.
    """
    made, _ = Case(case.cls, case.fresh, case.options, _shorter(case.recipe, 3)).trained(
        case.fresh()
    )
    made.train()
    pixels, labels = case.toy(made.backbone)
    z = made.encode_image(pixels)
    if made.trainable():
        made.loss(made(z), labels).backward()
    for name, parameter in made.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} gets no gradient"
            assert bool(parameter.grad.abs().sum() > 0), f"the gradient of {name} is zero"


def the_backbone_stays_as_it_is(case: Case) -> None:
    """Every frozen tensor is bit-equal after training, and still in eval mode."""
    backbone = case.fresh()
    before = copy.deepcopy(backbone.state_dict())
    case.trained(backbone)
    after = backbone.state_dict()
    for name, tensor in before.items():
        assert name in after and torch.equal(tensor, after[name]), f"training changed {name}"
    frozen = [m for m in backbone.modules() if m.training]
    assert not any(isinstance(m, torch.nn.BatchNorm2d | torch.nn.Dropout) for m in frozen), (
        "training left a frozen layer in train mode"
    )


def the_loss_halves(case: Case) -> None:
    """On a separable toy task the loss falls to at most half of where it starts."""
    _, curve = case.trained(case.fresh())
    if curve:
        first, last = curve[0]["loss"], curve[-1]["loss"]
        assert last <= first / 2, f"the loss went from {first:.3f} to {last:.3f} only"


def a_delta_gives_bit_equal_logits(case: Case) -> None:
    """Saved and loaded on a fresh backbone, the logits are the same to the last bit."""
    made, _ = case.trained(case.fresh())
    pixels, _ = case.toy(made.backbone)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        _save(case, made, Path(folder))
        again, _ = delta.load(
            folder, backbone=case.fresh(), method_file=str(case.file) if case.file else None
        )
        before, after = made(made.encode_image(pixels)), again(again.encode_image(pixels))
    assert torch.equal(before, after), "logits differ after saving and loading"


def the_delta_holds_only_what_was_trained(case: Case) -> None:
    """The state dict holds no tensor of the backbone; the file holds nothing but the state dict."""
    made, _ = case.trained(case.fresh())
    frozen = {p.data_ptr() for p in made.backbone.parameters() if p.numel() > 1}
    frozen |= {b.data_ptr() for b in made.backbone.buffers() if b.numel() > 1}
    for name, tensor in made.state_dict(keep_vars=True).items():
        assert tensor.data_ptr() not in frozen, f"{name} belongs to the backbone"
    with tempfile.TemporaryDirectory() as folder:
        _, tensors = delta.read(_save(case, made, Path(folder)))
    assert tensors.keys() == made.state_dict().keys(), "the file holds other tensors"


def a_claimed_start_is_zero_shot(case: Case) -> None:
    """A method that says so gives the logits of zero-shot CLIP before training."""
    if not case.cls.starts_at_zero_shot:
        return
    made = case.make().eval()
    pixels, _ = case.toy(made.backbone)
    plain = Method(made.backbone, made.task).eval()
    with torch.no_grad():
        ours, base = made(made.encode_image(pixels)), plain(plain.encode_image(pixels))
    assert torch.allclose(ours, base, atol=1e-5), "the start is not zero-shot"


def cached_features_equal_live_ones(case: Case) -> None:
    """A method that does not tune the image tower gives the same from features as from pixels."""
    if case.make().tunes_image_tower:
        return
    made, _ = case.trained(case.fresh())
    pixels, _ = case.toy(made.backbone)
    classifier = Classifier(made)
    with torch.no_grad():
        z = made.backbone.encode_image(pixels)
    cached = classifier.probabilities_of_features(z)
    assert torch.allclose(cached, classifier.probabilities(pixels), atol=1e-6), (
        "features and pixels give different answers"
    )


def the_same_seed_gives_the_same_delta(case: Case) -> None:
    """Two runs with one seed end with bit-equal tensors."""
    first, _ = case.trained(case.fresh(), seed=3)
    second, _ = case.trained(case.fresh(), seed=3)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), f"{name} differs between runs"


def evaluation_repeats(case: Case) -> None:
    """In eval mode the same images give the same logits, and weights() is computed once."""
    made, _ = case.trained(case.fresh())
    pixels, _ = case.toy(made.backbone)
    calls = 0
    original = made.weights

    def counted() -> Tensor:
        nonlocal calls
        calls += 1
        return original()

    made.__dict__["weights"] = counted
    with torch.no_grad():
        z = made.encode_image(pixels)
        first, second = made(z), made(z)
    assert torch.equal(first, second), "evaluation is not deterministic"
    assert calls <= 1, "weights() is computed for every batch in eval mode"
    rows = F.softmax(first.float(), dim=1).sum(1)
    assert torch.allclose(rows, torch.ones_like(rows)), "probabilities do not sum to 1"


def a_claimed_transfer_fits_other_classes(case: Case) -> None:
    """A method that says so carries its whole state to other classes, however many they are.

    On its own classes it gives the same logits again; on others, logits that the state decides.
    """
    made, _ = case.trained(case.fresh())
    if not made.works_on_other_classes:
        return
    pixels, _ = case.toy(made.backbone)
    others = ("cat", "dog", "eel", "owl", "ant")
    with torch.no_grad():
        same = made.for_task(made.task)
        z = made.encode_image(pixels)
        assert torch.equal(same(same.encode_image(pixels)), made(z)), "the state did not carry over"
        moved = made.for_task(replace(made.task, classes=others, descriptions={}))
        logits = moved(moved.encode_image(pixels))
    assert logits.shape == (len(pixels), len(others)), f"logits have shape {tuple(logits.shape)}"
    assert bool(torch.isfinite(logits).all()), "logits of other classes are not finite"
    for name, tensor in made.state_dict().items():
        assert torch.equal(tensor, moved.state_dict()[name]), f"{name} did not carry over"


def a_claimed_training_on_captions_reaches_every_parameter(case: Case) -> None:
    """A method that says so gives unit features of any texts, and learns all it has from pairs."""
    made, _ = Case(case.cls, case.fresh, case.options, _shorter(case.recipe, 3)).trained(
        case.fresh()
    )
    if not made.trains_on_captions:
        return
    assert made.works_on_other_classes, "what learns from captions belongs to no class"
    made.train().zero_grad(set_to_none=True)
    pixels, _ = case.toy(made.backbone)
    texts = [f"picture {number} of an eye" for number in range(len(pixels))]
    z = made.image_features(made.encode_image(pixels))
    t = made.text_features(made.encode_text(texts))
    for features in (z, t):
        length = features.detach().norm(dim=1)
        assert torch.allclose(length, torch.ones_like(length), atol=1e-5), "not of unit length"
    contrastive.compute_loss(z, t, made.backbone.logit_scale, made.backbone.logit_bias).backward()
    for name, parameter in made.named_parameters():
        if parameter.requires_grad:
            reached = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
            assert reached, f"{name} learns nothing from captions"


LAWS: tuple[Callable[[Case], None], ...] = (
    logits_have_one_row_an_image,
    the_whole_equals_its_parts,
    what_is_not_claimed_does_nothing,
    every_parameter_gets_a_gradient,
    the_backbone_stays_as_it_is,
    the_loss_halves,
    a_delta_gives_bit_equal_logits,
    the_delta_holds_only_what_was_trained,
    a_claimed_start_is_zero_shot,
    cached_features_equal_live_ones,
    the_same_seed_gives_the_same_delta,
    evaluation_repeats,
    a_claimed_transfer_fits_other_classes,
    a_claimed_training_on_captions_reaches_every_parameter,
    an_interrupted_training_goes_on,
)


def _shorter(recipe: Recipe, epochs: int) -> Recipe:
    return Recipe(**{**vars(recipe), "epochs": epochs})


def _save(case: Case, made: Method, folder: Path) -> Path:
    name = case.file.stem if case.file else case.cls.__module__.rpartition(".")[2]
    header = delta.describe(Found(name, case.cls, case.file), made)
    return delta.save(folder, made, header, "")
