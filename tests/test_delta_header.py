"""A delta whose header or place is not as it should be: what is refused, and what is looked at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from deltas import rewrite_delta
from safetensors import safe_open

from clip_adapt.adapted import delta, lookup
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.data.task import Task
from clip_adapt.errors import InputError
from clip_adapt.method.finding import find_method

CLASSES = ("cat", "dog", "eel")


@pytest.fixture
def saved(tiny_backbone, tmp_path):
    """The file of a delta of CoOp."""
    return save(tmp_path / "a", find_method("coop").cls(tiny_backbone, Task(CLASSES), n_ctx=4))


def save(folder, made):
    return delta.save(folder, made, delta.describe(find_method("coop"), made), "")


def with_fields(**fields):
    """Return what puts fields into a header's text; None takes one out."""

    def change(text):
        values = json.loads(text) | fields
        return json.dumps({key: value for key, value in values.items() if value is not None})

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[:-1], "JSONDecodeError"),
        (lambda text: "[" * 100_000, "RecursionError"),
        (lambda text: "[]", "it is list"),
        (lambda text: text.replace('"guard": 0.0', '"guard": NaN'), "NaN is not a number"),
        (lambda text: text.replace('"guard": 0.0', '"guard": 1e999'), "1e999 is not a number"),
        (lambda text: text.replace('"seed": 1', '"seed": 1' + 200 * "0"), "is not a number"),
        (lambda text: text.replace('"seed": 1', '"seed": 1, "seed": 2'), "a key stands twice"),
    ],
)
def test_a_header_that_cannot_be_read_is_refused(saved, tiny_backbone, change, reason):
    rewrite_delta(saved, change)
    with pytest.raises(InputError) as caught:
        delta.load(saved, backbone=tiny_backbone)
    assert str(caught.value).startswith(f"the header of {saved} cannot be read: ")
    assert reason in str(caught.value)


def test_a_newer_delta_that_names_no_versions_is_said_to_be_newer(saved, tiny_backbone):
    rewrite_delta(saved, with_fields(format=4, versions=None))
    with pytest.raises(InputError, match=r"format 4, made by clip_adapt of a newer version; this"):
        delta.load(saved, backbone=tiny_backbone)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_a_single_number_that_is_not_finite_is_refused(saved, tiny_backbone, value):
    made, _ = delta.load(saved, backbone=tiny_backbone)
    made.ctx.data[3, 5] = value
    save(saved.parent, made)
    with pytest.raises(InputError, match="tensor 'ctx' holds values that are not finite"):
        delta.load(saved, backbone=tiny_backbone)


def test_all_that_is_wrong_with_the_tensors_is_said_at_once(saved, tiny_backbone):
    rewrite_delta(saved, change_tensors=lambda t: {"a": torch.zeros(1), "b": torch.zeros(1)})
    with pytest.raises(InputError) as caught:
        delta.load(saved, backbone=tiny_backbone)
    assert str(caught.value).endswith(
        "does not fit its own header: tensor 'a' does not belong here; "
        "tensor 'b' does not belong here; tensor 'ctx' is missing"
    )


def test_a_loaded_method_is_in_eval_mode(saved, tiny_backbone):
    made, _ = delta.load(saved, backbone=tiny_backbone)
    assert not made.training


def test_a_tensor_that_lies_across_in_memory_is_saved(tiny_backbone, tmp_path):
    made = find_method("coop").cls(tiny_backbone, Task(CLASSES), n_ctx=4)
    made.ctx.data = torch.randn(32, 4).T
    again, _ = delta.load(save(tmp_path / "a", made), backbone=tiny_backbone)
    assert torch.equal(again.ctx, made.ctx)


def test_a_delta_is_found_by_its_run_its_folder_and_its_file(saved, tmp_path):
    folder = tmp_path / "run" / "adapter"
    folder.parent.mkdir()
    saved.parent.rename(folder)
    for path in (folder.parent, folder, folder / delta.FILE, str(folder / delta.FILE)):
        assert delta.locate(path) == folder / delta.FILE


@pytest.mark.parametrize(
    "path", ["nowhere", "./nowhere", "/nowhere", "~/nowhere", "a/b/c", "is/here"]
)
def test_what_is_a_path_is_not_asked_of_the_hub(path, tmp_path, monkeypatch):
    (tmp_path / "is" / "here").mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", None)  # calling it is a TypeError
    with pytest.raises(InputError) as caught:
        delta.load(path)
    assert str(caught.value).startswith(f"no delta at {path}: expected a folder with adapter.safe")


def test_a_card_that_ships_is_loaded_at_the_size_of_the_delta(saved, tiny_backbone, monkeypatch):
    backbone = json.loads(safe_open(saved, "pt").metadata()["clip_adapt"])["backbone"]
    rewrite_delta(saved, with_fields(backbone=backbone | {"name": "lite", "image_size": 48}))
    cards = []

    def watched(cls, card, **options):
        cards.append(card)
        return tiny_backbone

    monkeypatch.setattr(Backbone, "from_card", classmethod(watched))
    delta.load(saved)
    (card,) = cards
    assert (card.name, card.image_size) == ("lite", 48)


def test_a_backbone_without_weights_of_a_name_is_said_to_be_unknown():
    backbone = {"name": "mine", "architecture": "ViT-B-32", "fingerprint": "0", "image_size": 32}
    with pytest.raises(InputError, match="weights beside it"):
        lookup.choose_card(backbone, Path("a.safetensors"), None)
    assert lookup.choose_card(backbone, Path("a.safetensors"), "ViT-B-32").pretrained is None
