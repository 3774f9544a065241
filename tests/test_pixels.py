"""A method that tunes the image side gets pixels on every step, through the same loop."""

from __future__ import annotations

import pytest
import torch

import clip_adapt
from clip_adapt import testing
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.data.decoding import decode
from clip_adapt.data.items import Item
from clip_adapt.inputs.pixels import Pixels
from clip_adapt.method import finding
from clip_adapt.training.recipe import Recipe

CODE = '''
import torch
from clip_adapt import Method


class Tint(Method):
    """A colour that is added to every image, and a shift of the class weights."""

    tunes_image_tower = True

    def __init__(self, backbone, task):
        super().__init__(backbone, task)
        self.tint = torch.nn.Parameter(torch.zeros(3, 1, 1))
        self.shift = torch.nn.Parameter(torch.zeros(len(task.classes), backbone.embed_dim))

    def encode_image(self, pixels):
        return self.backbone.encode_image(pixels.to(self.tint) + self.tint)

    def weights(self):
        return torch.nn.functional.normalize(self.zero_shot_weights + self.shift, dim=1)
'''


@pytest.fixture
def tint(tmp_path):
    file = tmp_path / "tint.py"
    file.write_text(CODE)
    return file


def test_it_keeps_every_law(tint, tiny_card):
    testing.check_method(
        finding.find_method(str(tint)).cls,
        lambda: Backbone.from_card(tiny_card, device="cpu"),
        recipe=Recipe(epochs=40, batch_size=24, optimizer="adam", lr=0.05, weight_decay=0.0),
        file=tint,
    )


@pytest.mark.parametrize("select", ["last", "val"])
def test_it_runs_from_folder_to_delta(tint, tiny_model, make_folder, tmp_path, select):
    folder = make_folder(tmp_path / "animals")
    model = clip_adapt.adapt(
        folder, method=str(tint), shots=4, model=tiny_model, device="cpu", epochs=30, lr=0.05,
        optimizer="adam", augment="none", select=select, output=str(tmp_path / "run"),
    )  # fmt: skip
    assert model.metrics["test"]["accuracy"]["value"] > 0.6
    assert model.metrics["trainable_parameters"] == 3 + 3 * 16
    again = clip_adapt.load(tmp_path / "run" / "adapter", model="tiny.yaml", method_file=str(tint))
    picture = folder / "test" / "cat" / "0.png"
    assert again.predict(picture) == model.predict(picture)


def test_views_change_with_the_epoch_and_repeat(tiny_backbone, make_folder, tmp_path):
    folder = make_folder(tmp_path / "animals")
    items = [Item(str(p), 0) for p in sorted((folder / "train" / "cat").iterdir())]
    pixels, still = (Pixels(tiny_backbone, items, augment) for augment in ("coop", "none"))
    first = pixels[0][0]
    pixels.set_epoch(1)
    second = pixels[0][0]
    pixels.set_epoch(0)
    assert torch.equal(pixels[0][0], first) and not torch.equal(first, second)
    assert torch.equal(still[0][0], tiny_backbone.preprocess(decode(items[0].path)))
    assert len(pixels) == 6 and pixels[3][1] == 0
