"""Every trained method learns the drawn eyes on the embedded backbone, far above zero-shot."""

from __future__ import annotations

import pytest

import clip_adapt
from clip_adapt import method

SMALL = {"dataset.per_class": {"train": 8, "val": 2, "test": 10}, "shots": 8, "seed": 1}
OPTIONS = {
    "coop": {"epochs": 100, "lr": 0.01},
    "lora": {"iterations_per_shot": 8, "lr": 0.01, "batch_size": 16, "model.image_size": 96},
}


@pytest.mark.parametrize("name", [n for n in method.names() if n != "zero_shot"])
def test_a_method_learns(name, tmp_path):
    options = {**SMALL, **OPTIONS.get(name, {}), "output": str(tmp_path / "run")}
    model = clip_adapt.adapt(images="eyes", method=name, device="cpu", **options)
    trained = model.metrics["test"]["accuracy"]["value"]
    zero_shot = model.metrics["zero_shot"]["accuracy"]["value"]
    assert model.metrics["n_test"] == 130
    assert trained >= zero_shot + 0.2
