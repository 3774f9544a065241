"""The views of an image: the centre view, the random presets, and the fast decoder's equality."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from clip_adapt import views

COOP = views.PRESETS["coop"]


def noisy(width=40, height=30, seed=0):
    """Return a picture of noise."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_a_random_view_depends_on_image_and_index_alone(tiny_backbone):
    picture = noisy()
    one = views.view(tiny_backbone, "coop", 3, "key", picture)
    random.seed(7)
    torch.manual_seed(7)
    assert torch.equal(one, views.view(tiny_backbone, "coop", 3, "key", picture))
    others = [
        views.view(tiny_backbone, "coop", index, key, picture)
        for index, key in [(0, "key"), (1, "key"), (4, "key"), (3, "other")]
    ]
    made = [one, *others]
    assert all(view.shape == (3, 32, 32) for view in made)
    assert len({view.numpy().tobytes() for view in made}) == 5


def test_the_centre_view_is_the_transform_of_open_clip(tiny_backbone):
    model = tiny_backbone.model.visual
    transform = image_transform_v2(PreprocessCfg(**model.preprocess_cfg), is_train=False)
    for size in ((40, 30), (31, 64), (32, 32)):
        picture = noisy(*size)
        expected = transform(picture)
        assert torch.equal(views.view(tiny_backbone, "coop", -1, "key", picture), expected)
        assert torch.equal(views.view(tiny_backbone, "none", 5, "key", picture), expected)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (300, 300)])
def test_crops_cover_the_shares_and_ratios_of_the_recipe(width, height):
    stream = random.Random(0)
    boxes = np.array([views._random_box(width, height, stream, COOP) for _ in range(4000)])
    left, top, right, bottom = boxes.T
    w, h = right - left, bottom - top
    assert (left >= 0).all() and (top >= 0).all()
    assert (right <= width).all() and (bottom <= height).all()
    share, ratio = w * h / (width * height), w / h
    assert 0.078 <= share.min() < 0.10
    assert 0.93 < share.max() <= 1.0
    assert 0.73 <= ratio.min() < 0.77
    assert 1.30 < ratio.max() <= 1.35
    if width == height:  # a wide image refuses more of the tall crops than of the wide ones
        assert abs(np.log(ratio).mean()) < 0.02
    # Shares are uniform where no crop is refused for leaving the image.
    small = share[share < 0.4]
    assert np.histogram(small, bins=4, range=(0.08, 0.4))[0].std() / (len(small) / 4) < 0.1


def test_an_image_too_long_for_any_crop_gives_its_middle():
    assert views._random_box(1000, 10, random.Random(0), COOP) == (495, 0, 505, 10)
    assert views._random_box(10, 1000, random.Random(0), COOP) == (0, 495, 10, 505)


def test_half_of_the_random_views_are_mirrored():
    picture = noisy(64, 64)
    transform = {"mean": (0, 0, 0), "std": (1 / 255,) * 3}
    backbone = SimpleNamespace(image_size=32, transform=transform)
    mirrored = 0
    for index in range(200):
        stream = random.Random(f"key/{index}")
        box = views._random_box(64, 64, stream, COOP)
        plain = np.asarray(picture.crop(box).resize((32, 32), Image.Resampling.BICUBIC))
        made = views.view(backbone, "coop", index, "key", picture).permute(1, 2, 0)
        made = made.round().numpy().astype(np.uint8)
        flipped = np.array_equal(made, plain[:, ::-1])
        assert flipped or np.array_equal(made, plain)
        mirrored += flipped
    assert 70 < mirrored < 130
