"""The delta: what is in it, and how a wrong one is refused."""

from __future__ import annotations

import errno
import json

import pytest
import torch
from deltas import rewrite_delta
from safetensors.torch import save_file

import clip_adapt
from clip_adapt.adapted import delta
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config.cards import ModelCard
from clip_adapt.data.task import Task
from clip_adapt.errors import InputError
from clip_adapt.method.finding import find_method

CLASSES = ("cat", "dog", "eel")


def save(folder, backbone, name="coop", classes=CLASSES, **options):
    found = find_method(name)
    made = found.cls(backbone, Task(classes), **options)
    header = delta.describe(found, made, dataset="toy")
    delta.save(folder, made, header, "# a card\n")
    return made


def rewrite(folder, change_tensors=lambda t: t, change_header=lambda h: h):
    rewrite_delta(
        folder / delta.FILE,
        lambda text: json.dumps(change_header(json.loads(text))),
        change_tensors,
    )


def test_the_file_describes_itself(tmp_path, tiny_backbone):
    save(tmp_path / "a", tiny_backbone, n_ctx=4, position="front")
    header, tensors = delta.read(tmp_path / "a" / delta.FILE)
    assert list(tensors) == ["ctx"] and tensors["ctx"].shape == (4, 32)
    assert header.format == 3
    options = {"n_ctx": 4, "ctx_init": None, "csc": False, "position": "front"}
    assert header.method == {"name": "coop", "options": options}
    assert header.backbone["fingerprint"] == tiny_backbone.fingerprint
    assert header.to_task().classes == CLASSES
    assert header.transform["size"] == [32, 32]
    assert {"torch", "open_clip_torch", "clip-adapt"} <= header.versions.keys()
    assert (tmp_path / "a" / "README.md").read_text() == "# a card\n"
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["README.md", delta.FILE]


def test_round_trip_is_bit_equal_and_options_come_back(tmp_path, tiny_card, tiny_backbone):
    made = save(tmp_path / "a", tiny_backbone, n_ctx=4, csc=True, position="middle").eval()
    again, _ = delta.load(tmp_path / "a", backbone=Backbone.from_card(tiny_card, device="cpu"))
    z = tiny_backbone.encode_image(torch.randn(2, 3, 32, 32))
    with torch.no_grad():
        assert torch.equal(made(z), again(z))


def test_a_method_without_tensors_saves_and_loads(tmp_path, tiny_backbone):
    save(tmp_path / "a", tiny_backbone, "zero_shot")
    model = clip_adapt.load(tmp_path / "a", backbone=tiny_backbone)
    assert model.classes == list(CLASSES)


def test_the_backbone_is_the_one_that_the_caller_names(tmp_path, tiny_backbone, tiny_model):
    save(tmp_path / "a", tiny_backbone, n_ctx=2)
    model = clip_adapt.load(tmp_path / "a", model=tiny_model, device="cpu")
    assert model.backbone is not tiny_backbone
    assert model.backbone.fingerprint == tiny_backbone.fingerprint


def test_equal_deltas_are_equal_files(tmp_path, tiny_backbone):
    made = save(tmp_path / "a", tiny_backbone, n_ctx=4)
    header, _ = delta.read(tmp_path / "a" / delta.FILE)
    expected = (tmp_path / "a" / delta.FILE).read_bytes()
    for _ in range(4):  # of metadata in six orders one in 1,296 would pass
        assert delta.save(tmp_path / "b", made, header, "").read_bytes() == expected


def test_several_deltas_share_one_backbone(tmp_path, tiny_backbone):
    save(tmp_path / "a", tiny_backbone, n_ctx=4)
    save(tmp_path / "b", tiny_backbone, n_ctx=2, classes=("ant", "bee"))
    pixels = torch.randn(3, 3, 32, 32)
    alone = clip_adapt.load(tmp_path / "a", backbone=tiny_backbone).probabilities(pixels)
    first = clip_adapt.load(tmp_path / "a", backbone=tiny_backbone)
    second = clip_adapt.load(tmp_path / "b", backbone=tiny_backbone)
    assert second.probabilities(pixels).shape == (3, 2)
    assert torch.equal(first.probabilities(pixels), alone)
    assert first.backbone is second.backbone


def test_another_backbone_is_refused(tmp_path, tiny_card, tiny_backbone):
    save(tmp_path / "a", tiny_backbone, n_ctx=2)
    other = Backbone.from_card(ModelCard(**{**vars(tiny_card), "image_size": 64}), device="cpu")
    with pytest.raises(InputError, match="made for another backbone: it wants tiny at 32 pixels"):
        clip_adapt.load(tmp_path / "a", backbone=other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {}, "tensor 'ctx' is missing"),
        (lambda t: t | {"extra": torch.zeros(1)}, "tensor 'extra' does not belong here"),
        (lambda t: {"ctx": t["ctx"][:1]}, r"'ctx' is float32 \(1, 32\) where float32 \(4, 32\)"),
        (lambda t: {"ctx": t["ctx"].half()}, r"'ctx' is float16 \(4, 32\) where float32"),
        (lambda t: {"ctx": t["ctx"] * torch.nan}, "'ctx' holds values that are not finite"),
    ],
)
def test_wrong_tensors_are_named(tmp_path, tiny_backbone, change, message):
    save(tmp_path / "a", tiny_backbone, n_ctx=4)
    rewrite(tmp_path / "a", change_tensors=change)
    with pytest.raises(InputError, match=message):
        clip_adapt.load(tmp_path / "a", backbone=tiny_backbone)


@pytest.mark.parametrize("keep", [0, 4, 60, -1])
def test_a_truncated_file_is_refused(tmp_path, tiny_backbone, keep):
    save(tmp_path / "a", tiny_backbone, n_ctx=4)
    file = tmp_path / "a" / delta.FILE
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match="is damaged or truncated"):
        clip_adapt.load(tmp_path / "a", backbone=tiny_backbone)


def test_a_newer_format_is_refused(tmp_path, tiny_backbone):
    save(tmp_path / "a", tiny_backbone, n_ctx=4)
    rewrite(tmp_path / "a", change_header=lambda h: h | {"format": 4, "new": {}})
    with pytest.raises(InputError, match=r"has format 4.*reads up to 3.*pip install -U clip-adapt"):
        clip_adapt.load(tmp_path / "a", backbone=tiny_backbone)


def test_a_foreign_file_and_a_missing_one_are_refused(tmp_path, tiny_backbone):
    save_file({"x": torch.zeros(1)}, tmp_path / delta.FILE)
    with pytest.raises(InputError, match="no delta of clip_adapt"):
        clip_adapt.load(tmp_path, backbone=tiny_backbone)
    with pytest.raises(
        InputError, match=r"no delta at .*expected a folder with adapter.safetensors"
    ):
        clip_adapt.load(tmp_path / "no" / "such" / "place", backbone=tiny_backbone)
    with pytest.raises(
        InputError, match=r"no delta at someone/thing: .*cannot be had from the hub"
    ):
        clip_adapt.load("someone/thing", backbone=tiny_backbone)


def test_code_is_not_run_because_a_delta_names_it(tmp_path, tiny_backbone):
    mine = tmp_path / "mine.py"
    mine.write_text("from clip_adapt import Method\n\n\nclass Mine(Method):\n    pass\n")
    found = find_method(str(mine))
    made = found.cls(tiny_backbone, Task(CLASSES))
    delta.save(tmp_path / "a", made, delta.describe(found, made), "")
    with pytest.raises(InputError, match=r"method of someone's own, mine.py: give that file with"):
        clip_adapt.load(tmp_path / "a", backbone=tiny_backbone)
    model = clip_adapt.load(tmp_path / "a", backbone=tiny_backbone, method_file=str(mine))
    assert type(model.method).__name__ == "Mine"


def test_a_full_disk_leaves_nothing(tmp_path, tiny_backbone, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("clip_adapt.system.tensor_files.save", full)
    with pytest.raises(InputError, match=r"the disk is full.*output=DIR"):
        save(tmp_path / "a", tiny_backbone, n_ctx=4)
    assert not list(tmp_path.iterdir())


def test_a_failed_save_keeps_the_old_delta(tmp_path, tiny_backbone, monkeypatch):
    save(tmp_path / "a", tiny_backbone, n_ctx=4)
    before = (tmp_path / "a" / delta.FILE).read_bytes()

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("clip_adapt.system.files.os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "a", tiny_backbone, n_ctx=8)
    assert (tmp_path / "a" / delta.FILE).read_bytes() == before
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["README.md", delta.FILE]
