"""The image tower's short last block against the tower's own forward, outputs and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from clip_adapt.methods.lora import LoRA

from clip_adapt.backbone import image_tower
from clip_adapt.data.task import Task


def plain(backbone, pixels):
    return F.normalize(backbone.model.visual(pixels), dim=-1)


def tuned(backbone):
    """LoRA on the image side whose updates are not zero."""
    method = LoRA(backbone, Task(("cat", "dog")), towers="image", dropout=0.0).double()
    with torch.no_grad():
        for index, parameter in enumerate(method.parameters()):
            torch.manual_seed(index)
            parameter.copy_(torch.randn_like(parameter))
    return method


def test_features_are_those_of_the_towers_own_forward(double_backbone):
    pixels = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    method = tuned(double_backbone)
    assert image_tower.pools_by_class_token(method.tuned.model.visual)
    ours, theirs = method.encode_image(pixels), plain(method.tuned, pixels)
    assert torch.allclose(ours, theirs, atol=1e-13) and not torch.equal(ours, theirs)


def test_where_nothing_is_learned_the_tower_runs_as_it_is(double_backbone):
    pixels = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(double_backbone.encode_image(pixels), plain(double_backbone, pixels))
    method = tuned(double_backbone)
    with torch.no_grad():
        assert torch.equal(method.encode_image(pixels), plain(method.tuned, pixels))


def test_gradients_of_an_update_are_those_of_the_towers_own_forward(double_backbone):
    pixels, gradients = torch.randn(4, 3, 32, 32, dtype=torch.float64), []
    method = tuned(double_backbone)
    for encode in (method.encode_image, lambda pixels: plain(method.tuned, pixels)):
        method.zero_grad()
        encode(pixels)[:, :3].square().sum().backward()
        gradients.append([p.grad.clone() for p in method.parameters()])
    assert any(float(g.abs().max()) > 1e-3 for g in gradients[0])
    assert all(torch.allclose(a, b, atol=1e-13) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("change", ["pool", "hook", "checkpointing", "tokens"])
def test_any_other_tower_runs_as_it_is(double_backbone, change):
    tower = double_backbone.model.visual
    if change == "pool":
        tower.pool_type = "avg"
    elif change == "hook":
        tower.transformer.resblocks[-1].register_forward_hook(lambda *_: None)
    elif change == "checkpointing":
        tower.set_grad_checkpointing(True)
    else:
        tower.output_tokens = True
    assert not image_tower.pools_by_class_token(tower)
    if change != "tokens":
        pixels = torch.randn(2, 3, 32, 32, dtype=torch.float64)
        with torch.no_grad():
            assert torch.equal(double_backbone.encode_image(pixels), plain(double_backbone, pixels))
