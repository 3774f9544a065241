"""Every trained method learns the drawn eyes on the embedded backbone, far above zero-shot."""

from __future__ import annotations

import pytest

import clip_adapt
from clip_adapt.method import finding

SMALL = {"dataset.per_class": {"train": 8, "val": 2, "test": 10}, "shots": 8, "seed": 1}
# The published learning rates are made for CLIP's logit scale of 100; that of lite is 30.
OPTIONS = {
    "adapter": {"epochs": 100, "lr": 0.1},
    "cocoop": {"epochs": 40, "batch_size": 16, "optimizer": "adam", "lr": 0.02},
    "coop": {"epochs": 100, "lr": 0.01},
    "lora": {"iterations_per_shot": 8, "lr": 0.01, "batch_size": 16, "model.image_size": 96},
}
SLOW = {"cocoop"}  # each image has prompts of its own
NAMES = [
    pytest.param(n, marks=pytest.mark.slow if n in SLOW else [])
    for n in finding.list_methods()
    if n != "zero_shot"
]


@pytest.mark.parametrize("name", NAMES)
def test_a_method_learns(name, tmp_path):
    options = {**SMALL, **OPTIONS.get(name, {}), "output": str(tmp_path / "run")}
    model = clip_adapt.adapt(images="eyes", method=name, device="cpu", **options)
    trained = model.metrics["test"]["accuracy"]["value"]
    zero_shot = model.metrics["zero_shot"]["accuracy"]["value"]
    assert model.metrics["n_test"] == 130
    assert trained >= zero_shot + 0.2
