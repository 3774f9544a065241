"""Views that are made together equal those that are made one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from clip_adapt.data.items import Item
from clip_adapt.inputs import views
from clip_adapt.inputs.crops import compute_filter
from clip_adapt.inputs.pixels import Pixels

# Photographs, tall, wide, odd, smaller than the input, and thinner than any crop of the recipe.
SIZES = [(640, 480), (480, 640), (64, 64), (33, 71), (71, 33), (32, 32), (32, 90), (20, 25), (9, 7),
         (31, 33), (40, 33), (400, 12), (12, 400)]  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures with the sharp and the smooth of photographs, every other one a JPEG."""
    folder, rng, items = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0), []
    for number, (width, height) in enumerate(SIZES):
        coarse = rng.integers(0, 256, (height // 5 + 1, width // 5 + 1, 3), dtype=np.uint8)
        picture = np.array(
            Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        )
        picture[height // 3 : height // 2, width // 4 : width // 2] = 255
        picture[height // 2 :, : width // 3] = rng.integers(0, 2, (1, 1)) * 255
        path = folder / f"{number}.{'jpg' if number % 2 else 'png'}"
        Image.fromarray(picture).save(path)
        items.append(Item(str(path), number))
    return items


def difference(backbone, one, two):
    """Return the difference of two views in units of 1/255."""
    std = torch.tensor(backbone.transform["std"]).view(3, 1, 1)
    return ((one - two) * std).abs() * 255


@pytest.mark.parametrize("room", ["device", "host"])
@pytest.mark.parametrize("augment", views.PRESETS)
def test_views_made_together_equal_single_ones(tiny_backbone, pictures, augment, room, monkeypatch):
    if room == "host":
        monkeypatch.setattr("clip_adapt.inputs.crops.fits", lambda size, device: False)
    single, together = (Pixels(tiny_backbone, pictures, augment, way) for way in (False, True))
    rows = [*range(len(pictures)), 3, 0]
    worst, total = 0.0, []
    for epoch in range(12):
        single.set_epoch(epoch)
        together.set_epoch(epoch)
        one, two = single.batch(rows), together.batch(rows)
        assert one.shape == two.shape == (len(rows), 3, 32, 32)
        assert one.dtype == two.dtype == torch.float32
        found = difference(tiny_backbone, one, two)
        worst, total = max(worst, float(found.max())), [*total, float(found.mean())]
    assert worst <= 2.01
    assert sum(total) / len(total) < 0.01  # a unit here and there


def test_the_centre_view_is_exact(tiny_backbone, pictures):
    single, together = (Pixels(tiny_backbone, pictures, "none", way) for way in (False, True))
    assert torch.equal(single.batch([4, 1, 1]), together.batch([4, 1, 1]))


def test_a_part_shares_the_images_of_the_whole(tiny_backbone, pictures, monkeypatch):
    whole = Pixels(tiny_backbone, pictures, "coop", True)
    expected = whole.batch([2, 5])
    mask = torch.tensor([number in (2, 5) for number in range(len(pictures))])
    monkeypatch.setattr("clip_adapt.data.decoding.load", None)  # nothing is decoded again
    assert torch.equal(whole.select(mask).batch([0, 1]), expected)


def test_weights_are_the_formula_of_keys():
    def keys(t):
        t = abs(t)
        if t >= 2:
            return 0.0
        return 1.5 * t**3 - 2.5 * t**2 + 1 if t < 1 else -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2

    lengths, mirrored, coarse = torch.tensor([[7, 3, 7, 7], [0, 0, 1, 0], [0, 0, 0, 1]])
    made = compute_filter(lengths, mirrored, coarse, room=9, size=5)
    for row, length in ((0, 7), (1, 3)):
        scale, wide = length / 5, max(length / 5, 1)
        for s in range(5):
            plain = [keys((x + 0.5 - (s + 0.5) * scale) / wide) for x in range(length)]
            expected = torch.tensor(plain + [0.0] * (9 - length)) / sum(plain)
            torch.testing.assert_close(made[row, s], expected, atol=1e-6, rtol=0)
    assert torch.equal(made[2], made[0].flip(0))
    in_steps = made[3] * 2**15  # the largest is 0.709
    assert torch.equal(in_steps, in_steps.round()) and not torch.equal(made[3], made[0])
    torch.testing.assert_close(made[3], made[0], atol=2**-16, rtol=0)


def test_many_views_are_made_in_parts(tiny_backbone, pictures, monkeypatch):
    pixels = Pixels(tiny_backbone, pictures, "coop", True)
    expected = pixels.batch(list(range(8)))
    monkeypatch.setattr("clip_adapt.inputs.crops.TOGETHER", 3)
    torch.testing.assert_close(pixels.batch(list(range(8))), expected, atol=0.02, rtol=0)
