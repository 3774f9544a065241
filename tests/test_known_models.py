"""A backbone that this user has trained on is found again by its fingerprint alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import clip_adapt
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config.cards import ModelCard
from clip_adapt.config.known_models import recall_model, remember_model
from clip_adapt.errors import InputError

PRINT = "0123456789abcdef" * 4


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIP_ADAPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def test_a_place_is_found_from_any_folder(cache, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    remember_model(PRINT, ModelCard("mine", name="mine"))
    monkeypatch.chdir(tmp_path / "mine")
    assert recall_model(PRINT) == ModelCard(str(tmp_path / "mine"), name="mine")
    assert recall_model(PRINT[::-1]) is None
    (tmp_path / "mine").rename(tmp_path / "other")
    assert recall_model(PRINT) is None


def test_what_ships_needs_no_note(cache):
    remember_model(PRINT, ModelCard("package:lite.json", name="lite"))
    assert not cache.exists()


@pytest.mark.parametrize("asked", ["../secret", "", "g" * 64, PRINT.upper(), PRINT + "\n"])
def test_only_a_fingerprint_is_looked_up(cache, asked):
    remember_model(PRINT, ModelCard("ViT-B-32", "random", name="mine"))
    note = next((cache / "models").iterdir())
    (cache / "secret.json").write_text(note.read_text())
    assert recall_model(asked) is None


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"architecture": 3, "x": 1}', '{"architecture": null}']
)
def test_a_damaged_note_is_no_note(cache, content):
    remember_model(PRINT, ModelCard("ViT-B-32", "random", name="mine"))
    next((cache / "models").iterdir()).write_text(content)
    assert recall_model(PRINT) is None


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners on this platform")
def test_a_note_of_another_user_does_not_count(cache, monkeypatch):
    remember_model(PRINT, ModelCard("ViT-B-32", "random", name="mine"))
    assert recall_model(PRINT) is not None
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert recall_model(PRINT) is None


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLIP_ADAPT_CACHE", str(tmp_path / "file"))
    remember_model(PRINT, ModelCard("ViT-B-32", "random", name="mine"))
    assert recall_model(PRINT) is None


def test_who_trained_loads_without_saying_where(cache, tiny_model, animals, tmp_path):
    made = clip_adapt.adapt(
        animals, method="zero_shot", shots=1, model=tiny_model, output="out", report=False,
        tensorboard=False,
    )  # fmt: skip
    file = Path("out/adapter/README.md")
    assert file.is_file() and clip_adapt.load("out").classes == made.classes
    (note,) = (cache / "models").iterdir()
    assert json.loads(note.read_text())["name"] == made.backbone.card.name
    note.unlink()
    with pytest.raises(InputError, match="whose card does not ship"):
        clip_adapt.load("out")
    assert clip_adapt.load("out", model=tiny_model).classes == made.classes


def test_loading_a_backbone_notes_nothing(cache, tiny_model):
    Backbone.load(str(tiny_model), device="cpu")
    assert not (cache / "models").exists()
