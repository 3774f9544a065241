"""The views of an image: the centre view, the random presets, and the fast decoder's equality."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from clip_adapt.inputs import views

COOP = views.PRESETS["coop"]


def noisy(width=40, height=30, seed=0):
    """Return a picture of noise."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_a_random_view_depends_on_image_and_index_alone(tiny_backbone):
    picture = noisy()
    one = views.make_view(tiny_backbone, "coop", 3, "key", picture)
    random.seed(7)
    torch.manual_seed(7)
    assert torch.equal(one, views.make_view(tiny_backbone, "coop", 3, "key", picture))
    others = [
        views.make_view(tiny_backbone, "coop", index, key, picture)
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
        assert torch.equal(views.make_view(tiny_backbone, "coop", -1, "key", picture), expected)
        assert torch.equal(views.make_view(tiny_backbone, "none", 5, "key", picture), expected)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (300, 300)])
def test_crops_cover_the_shares_and_ratios_of_the_recipe(width, height):
    stream = random.Random(0)
    boxes = np.array([views._draw_box(width, height, stream, COOP) for _ in range(4000)])
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
    assert views._draw_box(1000, 10, random.Random(0), COOP) == (495, 0, 505, 10)
    assert views._draw_box(10, 1000, random.Random(0), COOP) == (0, 495, 10, 505)


def test_half_of_the_random_views_are_mirrored():
    picture = noisy(64, 64)
    transform = {"mean": (0, 0, 0), "std": (1 / 255,) * 3}
    backbone = SimpleNamespace(image_size=32, transform=transform)
    mirrored = 0
    for index in range(200):
        stream = random.Random(f"key/{index}")
        box = views._draw_box(64, 64, stream, COOP)
        plain = np.asarray(picture.crop(box).resize((32, 32), Image.Resampling.BICUBIC))
        made = views.make_view(backbone, "coop", index, "key", picture).permute(1, 2, 0)
        made = made.round().numpy().astype(np.uint8)
        flipped = np.array_equal(made, plain[:, ::-1])
        assert flipped or np.array_equal(made, plain)
        mirrored += flipped
    assert 70 < mirrored < 130


def photo(width, height, seed=0):
    """Return a picture with the sharp and the smooth of photographs."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8))
    picture = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))
    picture[height // 3 : height // 2, width // 4 : width // 3] = 255
    return Image.fromarray(picture)


def tensor(picture):
    """Return the uint8 pixels (3, H, W) of a picture."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def differs_by(one, two, backbone):
    """Return the largest difference of two views, in units of 1/255."""
    std = torch.tensor(backbone.transform["std"]).view(3, 1, 1)
    return float(((one - two) * std).abs().max()) * 255


SIZES = [(640, 480), (480, 640), (233, 517), (300, 560), (32, 32), (40, 33), (20, 25), (900, 90)]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("augment", ["none", *views.PRESETS])
def test_pixels_give_the_view_of_the_picture_within_2_of_255(tiny_backbone, width, height, augment):
    picture = photo(width, height)
    for index in (-1, 0, 1, 2, 3):
        plain = views.make_view(tiny_backbone, augment, index, "key", picture)
        fast = views.make_view(tiny_backbone, augment, index, "key", tensor(picture))
        assert differs_by(plain, fast, tiny_backbone) <= 2.01, index


def test_other_ways_to_resize_go_through_the_plain_transform(tiny_card):
    from clip_adapt.backbone.backbone import Backbone

    backbone = Backbone.from_card(tiny_card, device="cpu")
    for mode in ("squash", "longest"):
        cfg = PreprocessCfg(**{**backbone.transform, "resize_mode": mode})
        backbone.transform = {**backbone.transform, "resize_mode": mode}
        backbone.preprocess = image_transform_v2(cfg, is_train=False)
        picture = photo(80, 50)
        expected = backbone.preprocess(picture)
        assert torch.equal(views.make_centre_view(backbone, tensor(picture)), expected)


def halves(left, right):
    """Return a picture whose left and right halves differ."""
    picture = Image.new("RGB", (64, 64), left)
    picture.paste(right, (32, 0, 64, 64))
    return picture


def raw(backbone, view):
    mean, std = (torch.tensor(backbone.transform[k]).view(3, 1, 1) for k in ("mean", "std"))
    return (view * std + mean) * 255


def test_the_medical_preset_keeps_left_and_right_and_hue(tiny_backbone):
    picture = halves((200, 100, 100), (60, 30, 30))
    brightness = set()
    for index in range(60):
        view = raw(tiny_backbone, views.make_view(tiny_backbone, "medical", index, "key", picture))
        assert view[0, :, 0].mean() > view[0, :, -1].mean() + 50
        red, green, blue = view.mean((1, 2))
        assert abs(green - blue) < 1
        assert 1.6 < red / green < 2.4
        brightness.add(round(float(view[0, 16, 0])))
    assert len(brightness) > 8


@pytest.mark.parametrize(("augment", "mirrors"), [("coop", True), ("light", True)])
def test_presets_that_mirror(tiny_backbone, augment, mirrors):
    picture = halves((250, 250, 250), (0, 0, 0))
    made = [views.make_view(tiny_backbone, augment, i, "key", picture) for i in range(60)]
    sides = {bool(v[0, :, 0].mean() > v[0, :, -1].mean()) for v in made}
    assert sides == {True, False}


@pytest.mark.parametrize(("augment", "least"), [("coop", 0.08), ("light", 0.5), ("medical", 0.7)])
def test_presets_crop_their_share(augment, least):
    stream = random.Random(0)
    boxes = [views._draw_box(400, 400, stream, views.PRESETS[augment]) for _ in range(2000)]
    shares = [(r - l) * (b - t) / 160_000 for l, t, r, b in boxes]  # noqa: E741
    assert least - 0.01 < min(shares) < least + 0.03
    assert max(shares) > 0.95
