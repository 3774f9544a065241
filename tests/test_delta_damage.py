"""A delta that is not what was written: every bit counts, and every value of the header."""

from __future__ import annotations

import json
import logging
import random
from functools import reduce

import pytest
import torch
from deltas import rewrite_delta
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import clip_adapt
from clip_adapt.adapted import delta
from clip_adapt.data.task import Task
from clip_adapt.errors import InputError
from clip_adapt.method.finding import find_method

SETS = {"alpha": 0.1, "lac": 0.75, "aps": 0.5, "n": 40}
TABLES = {"test": {"accuracy": {"value": 0.5, "low": 0.25, "high": None}}}


@pytest.fixture(scope="module")
def whole(tiny_backbone, tmp_path_factory):
    """The bytes of a delta with everything that a header may hold."""
    found = find_method("coop")
    made = found.cls(tiny_backbone, Task(("Kätzchen", "dog"), ("a \x1b {}.",)), n_ctx=2)
    header = delta.describe(
        found, made, dataset="toy", temperature=1.25, guard=0.25, conformal=SETS, metrics=TABLES
    )
    return delta.save(tmp_path_factory.mktemp("whole"), made, header, "").read_bytes()


@pytest.fixture
def saved(whole, tmp_path):
    file = tmp_path / delta.FILE
    file.write_bytes(whole)
    return file


def refuse(file, backbone):
    """Return why a delta is refused."""
    with pytest.raises(InputError) as caught:
        clip_adapt.load(file, backbone=backbone)
    return str(caught.value)


def test_every_flipped_bit_is_refused(saved, whole):
    before_tensors = 8 + int.from_bytes(whole[:8], "little")
    tensors = random.Random(0).sample(range(8 * before_tensors, 8 * len(whole)), 200)
    # Every bit of the first bytes and the last ones before the tensors, and some of the text.
    text = whole.index(b"classes")
    near = [*range(8 * 120), *range(8 * (before_tensors - 150), 8 * before_tensors)]
    for bit in [*near, *range(8 * text, 8 * text + 400), *tensors]:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        saved.write_bytes(flipped)
        with pytest.raises(InputError):
            delta.read(saved)
    saved.write_bytes(whole)
    assert delta.read(saved)[0].temperature == 1.25


def put(path, value):
    """Return what puts a value at a path of keys into a header's text; ... takes the key out."""

    def change(text):
        values = json.loads(text)
        *parents, key = path.split(".")
        place = reduce(lambda inner, name: inner[name], parents, values)
        if value is ...:
            del place[key]
        else:
            place[key] = value
        return json.dumps(values)

    return change


WRONG = {
    "format": (..., None, "2", True, 2.0, 0, -1, [2]),
    "temperature": (0, 0.0, -1.0, 1e-300, 1e300, "1", None, True, [1.0]),
    "guard": (5, -0.25, "0", None, {}),
    "dataset": (None, 3, ["toy"]),
    "support_sha256": (None, 1),
    "seen_sha256": (None, 1),
    "stored": ([], {"c1": 1}, "cat"),
    "versions": ([], {"torch": 2}, "2.15"),
    "metrics": ([], {"test": 1}, {"test": {"accuracy": "high"}}, {"test": {"a": {"value": "1"}}}),
    "method": (..., None, "coop", [], {}),
    "method.name": (..., None, 1),
    "method.options": (..., None, [], {"n_ctx": "four"}, {"n_ctx": -1}, {"n_ctx": 2.5}, {"x": 1}),
    "method.file": (1,),
    "method.colour": (1,),
    "backbone": (..., None, "tiny"),
    "backbone.name": (..., None, 7),
    "backbone.architecture": (..., None, 7),
    "backbone.pretrained": (7,),
    "backbone.fingerprint": (..., None, 7),
    "backbone.image_size": (..., None, 0, -32, "32", 32.5, True),
    "backbone.colour": ("red",),
    "task": (..., None, [], {}),
    "task.classes": (..., None, "cat", ["cat", 1], ["cat", "cat"], {"cat": 1}),
    "task.templates": (..., None, [], "a {}", ["a photo"], [7]),
    "task.prompts": ("colours", None, ["templates"]),
    "task.shots": (-1, "1", None),
    "task.seed": ("1", None, 1.5),
    "task.names": ([], {"dog": "hound"}),
    "task.descriptions": ([], {"dog": [1]}),
    "task.colour": ("red",),
    "transform": (..., None, []),
    "transform.size": (..., 0, [0, 32], "32", None, [None]),
    "transform.mean": (..., "0.5", ["0.5"], None),
    "transform.std": (..., [0.0, 1.0, 1.0], [-1, 1, 1], None),
    "transform.mode": ("L",),
    "transform.interpolation": (..., 3, None),
    "transform.resize_mode": (..., 3, None),
    "conformal": ([], "0.1", {}),
    "conformal.alpha": (..., 0, 1.5, "0.1", None),
    "conformal.lac": (..., 2.0, -1, "0.5", None),
    "conformal.aps": (..., 7, None),
    "conformal.n": (..., 0, 1.5, None),
    "conformal.colour": (1,),
    "colour": ("red",),
}


@pytest.mark.parametrize("path", WRONG)
def test_a_value_that_cannot_be_is_refused_by_its_name(saved, whole, tiny_backbone, path):
    for value in WRONG[path]:
        saved.write_bytes(whole)
        rewrite_delta(saved, put(path, value))
        message = refuse(saved, tiny_backbone)
        assert str(saved) in message
        # Of an option, that is its own name; of what is nested in a map, the map's.
        assert path.split(".")[-1] in message or "method." in message, (value, message)


def test_all_that_is_wrong_with_a_header_is_said_at_once(saved, tiny_backbone):
    rewrite_delta(saved, put("temperature", 0))
    rewrite_delta(saved, put("guard", 5))
    assert refuse(saved, tiny_backbone) == (
        f"the header of {saved} is wrong: "
        "temperature=0: expected a number, at least 1e-06 and at most 1e+06; "
        "guard=5: expected a number, at least 0 and at most 1"
    )


def test_a_header_that_would_be_refused_is_not_written(tiny_backbone, tmp_path):
    found = find_method("coop")
    made = found.cls(tiny_backbone, Task(("cat", "dog")), n_ctx=2)
    for wrong in (float("nan"), 0.0):
        header = delta.describe(found, made, temperature=wrong)
        with pytest.raises(InputError, match="header"):
            delta.save(tmp_path / "a", made, header, "")
    assert not (tmp_path / "a").exists()


# Deltas from before there were digests


def make_old(file, **more):
    """Write a delta as it was written before there were digests."""
    with safe_open(file, "pt") as opened:
        text = opened.metadata()["clip_adapt"]
    metadata = {"format": "pt", "clip_adapt": put("format", 1)(text), **more}
    save_file(load_file(file), file, metadata)


def test_a_delta_without_digest_is_read_with_one_line(saved, tiny_backbone, caplog):
    pixels = torch.randn(2, 3, 32, 32)
    expected = clip_adapt.load(saved, backbone=tiny_backbone).probabilities(pixels)
    make_old(saved)
    with caplog.at_level(logging.WARNING, "clip_adapt"):
        for _ in range(2):
            again = clip_adapt.load(saved, backbone=tiny_backbone).probabilities(pixels)
            assert torch.equal(again, expected)
    assert len(caplog.records) == 1
    assert f"{saved} is of format 1, which has no digest" in caplog.text


def test_a_delta_that_lost_its_digest_is_not_taken_for_an_old_one(saved, tiny_backbone):
    with safe_open(saved, "pt") as opened:
        metadata = opened.metadata()
    digest = metadata.pop("sha256")
    save_file(load_file(saved), saved, metadata)
    assert "is damaged: its format is 3, and its metadata holds" in refuse(saved, tiny_backbone)
    make_old(saved, shb256=digest)
    assert "is damaged: its format is 1, and its metadata holds" in refuse(saved, tiny_backbone)
