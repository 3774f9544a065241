"""A training that goes on from its checkpoint ends where one ends that was never interrupted."""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import signal

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file

from clip_adapt.data.captions import Captions
from clip_adapt.data.task import Task
from clip_adapt.errors import InputError
from clip_adapt.method.contract import Method
from clip_adapt.system.launch import stopping
from clip_adapt.system.structures import is_plain, join_tensors, split_tensors
from clip_adapt.testing.interruption import Killed
from clip_adapt.training import checkpoint as checkpoints
from clip_adapt.training.checkpoint import TrainingCheckpoint
from clip_adapt.training.examples import Examples
from clip_adapt.training.loop import Loop, train
from clip_adapt.training.pair_step import PairStep
from clip_adapt.training.recipe import Recipe


class Noisy(Method):
    """A residual on image and text features that draws from torch's own stream in every step."""

    trains_on_captions = True

    def __init__(self, backbone, task):
        super().__init__(backbone, task)
        self.shift = torch.nn.Parameter(torch.zeros(backbone.embed_dim))
        self.drop = torch.nn.Dropout(0.2)

    def image_features(self, z):
        return F.normalize(self.drop(z) + self.shift, dim=1)

    def text_features(self, t):
        return F.normalize(self.drop(t) - self.shift, dim=1)


class StopsAfter(TrainingCheckpoint):
    """Is written after each of some steps; after the last of them the process is killed."""

    def __init__(self, folder, steps, key=None):
        super().__init__(folder, key or {}, math.inf)
        self.steps = steps

    def save_if_due(self, loop, *, asked):
        if loop.done in self.steps:
            self.write(loop)
        if loop.done == max(self.steps, default=0):
            raise Killed


@pytest.fixture
def run(tiny_backbone):
    """A function that trains anew: (what is learned, the curve)."""
    generator = torch.Generator().manual_seed(0)
    z = F.normalize(torch.randn(12, 2, tiny_backbone.embed_dim, generator=generator), dim=-1)
    y = torch.arange(12) % 3

    def train_anew(checkpoint=None, labels=y, **options):
        torch.manual_seed(len(options))  # wherever the stream stands
        method = Noisy(tiny_backbone, Task(("cat", "dog", "eel")))
        own = {k: options.pop(k) for k in ("log_dir", "make_step") if k in options}
        recipe = Recipe(**{"epochs": 4, "batch_size": 5, "lr": 0.1, **options})
        curve = train(method, Examples(z, labels), recipe, val=Examples(z[:7], labels[:7]),
                      checkpoint=checkpoint, **own)  # fmt: skip
        return method.shift.detach().clone(), curve

    return train_anew


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "adam", "schedule_unit": "step", "warmup": 2},
        {"optimizer": "adamw", "select": "val", "clip_norm": 0.1},
        {"iterations": 8},
        {"accumulate": 2},
        {"drop_last": True, "momentum": 0.0},
    ],
    ids=str,
)
def test_killed_after_any_step_a_training_goes_on(run, tmp_path, options):
    shift, curve = run(**options)
    steps = 2 * 4 if {"drop_last", "iterations"} & options.keys() else 3 * 4
    for last in range(1, steps + 1):
        folder = tmp_path / str(last)
        if options.get("accumulate") and last % 3 == 1:
            continue  # its gradients are half of a step
        with pytest.raises(Killed):
            run(StopsAfter(folder, [last]), **options)
        again, rows = run(TrainingCheckpoint(folder, {}, math.inf), **options)
        assert torch.equal(again, shift), last
        assert rows == curve


def test_gradients_that_are_being_added_up_are_in_no_checkpoint(run, tmp_path):
    shift, _ = run(accumulate=2)
    again, _ = run(
        StopsAfter(tmp_path / "one", [1]), accumulate=2
    )  # it is not asked after the first
    assert torch.equal(again, shift) and not list(tmp_path.iterdir())


def test_a_training_that_is_killed_again_and_again_comes_to_its_end(run, tmp_path):
    shift, curve = run(optimizer="adam")
    for last in (2, 3, 5, 11):
        with pytest.raises(Killed):
            run(StopsAfter(tmp_path, [last]), optimizer="adam")
    again, rows = run(TrainingCheckpoint(tmp_path, {}, math.inf), optimizer="adam")
    assert torch.equal(again, shift) and rows == curve


def test_captions_are_drawn_where_they_were(run, tmp_path):
    captions = Captions([f"{word} {i}" for i in range(12) for word in ("a", "some")],
                        [[2 * i, 2 * i + 1] for i in range(12)])  # fmt: skip
    pairs = {
        "labels": torch.arange(12),
        "make_step": functools.partial(
            PairStep, captions=captions, val_captions=captions, dedup=False
        ),
    }
    shift, curve = run(**pairs)
    for last in (4, 6):
        with pytest.raises(Killed):
            run(StopsAfter(tmp_path / str(last), [last]), **pairs)
        again, rows = run(TrainingCheckpoint(tmp_path / str(last), {}, math.inf), **pairs)
        assert torch.equal(again, shift) and rows == curve


def test_event_files_of_a_training_that_went_on_are_whole(run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(Killed):
        run(StopsAfter(tmp_path, [8]), log_dir=tmp_path / "killed")
    _, curve = run(TrainingCheckpoint(tmp_path, {}, math.inf), log_dir=tmp_path / "events")
    events = EventAccumulator(str(tmp_path / "events")).Reload().Scalars("train/loss")
    assert [event.step for event in events] == [0, 1, 2, 3]
    assert [event.value for event in events] == pytest.approx([row["loss"] for row in curve])


def test_seconds_are_added_up(run, tmp_path):
    first = StopsAfter(tmp_path, [4])
    first.seconds = 100.0
    with pytest.raises(Killed):
        run(first)
    again = TrainingCheckpoint(tmp_path, {}, math.inf)
    run(again)
    assert 100 < again.seconds < 160


@pytest.mark.parametrize("damage", ["a bit", "the end", "another file"])
def test_a_damaged_checkpoint_is_said_and_the_run_starts_anew(run, tmp_path, damage, caplog):
    with pytest.raises(Killed):
        run(StopsAfter(tmp_path, [4]))
    file = tmp_path / checkpoints.FILE
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes({"a bit": data, "the end": data[:-8], "another file": b"{}"}[damage])
    again, _ = run(TrainingCheckpoint(tmp_path, {}, math.inf))
    assert torch.equal(again, run()[0])
    assert "is damaged (" in caplog.text and "the run starts anew" in caplog.text
    assert not file.exists()


def test_a_checkpoint_of_another_run_is_said_and_the_run_starts_anew(run, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    key = {"configuration": "1", "backbone": "2"}
    with pytest.raises(Killed):
        run(StopsAfter(tmp_path, [4], key))
    again, _ = run(TrainingCheckpoint(tmp_path, {**key, "configuration": "3"}, math.inf), lr=0.2)
    assert torch.equal(again, run(lr=0.2)[0])
    assert f"{tmp_path / checkpoints.FILE} is of another configuration: the run" in caplog.text
    assert "going on" not in caplog.text


def test_going_on_is_said(run, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with pytest.raises(Killed):
        run(StopsAfter(tmp_path, [7]))
    run(TrainingCheckpoint(tmp_path, {}, math.inf))
    assert caplog.messages == ["going on from step 7 of 12"]


def test_a_checkpoint_is_written_when_it_is_due_and_holds_no_code(run, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(TrainingCheckpoint, "write", lambda self, loop: written.append(loop.done))
    now = iter(range(1000))
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: next(now))
    run(TrainingCheckpoint(tmp_path, {}, 3.0))
    assert len(written) > 2 and len(written) < 12
    monkeypatch.undo()
    with pytest.raises(Killed):
        run(StopsAfter(tmp_path, [7]))
    assert load_file(tmp_path / checkpoints.FILE)
    with safe_open(tmp_path / checkpoints.FILE, "pt") as opened:
        kept = json.loads(opened.metadata()["clip_adapt_checkpoint"])
    assert kept["state"]


def test_a_loss_that_is_not_finite_leaves_no_checkpoint(run, tmp_path):
    class Spoilt(StopsAfter):
        def save_if_due(self, loop, *, asked):
            self.write(loop)
            loop.begun.sums *= torch.nan

    with pytest.raises(InputError, match="not finite"):
        run(Spoilt(tmp_path / "checkpoint", []))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(run, tmp_path, monkeypatch, caplog):
    def full(*args):
        raise OSError(28, "full")

    monkeypatch.setattr(checkpoints, "save_file", full)
    again, _ = run(TrainingCheckpoint(tmp_path, {}, 1e-9))
    assert torch.equal(again, run()[0])
    assert "no checkpoint is kept: cannot write into" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_a_step_waits_for_its_end(run, tmp_path, monkeypatch, number):
    shift, curve = run()
    update, steps = Loop._update, []

    def interrupted(self):
        steps.append(1)
        if len(steps) == 5:
            os.kill(os.getpid(), number)  # the handler runs at once, before the optimizer's step
        update(self)

    monkeypatch.setattr(Loop, "_update", interrupted)
    with pytest.raises(stopping.Stopped) as stop, stopping.catch_signals():
        run(TrainingCheckpoint(tmp_path, {}, math.inf))
    assert stop.value.number == number
    assert stop.value.note == "the same command goes on from step 5 of 12"
    again, rows = run(TrainingCheckpoint(tmp_path, {}, math.inf))
    assert torch.equal(again, shift) and rows == curve


def test_plain_values_come_back_as_they_were():
    generator = torch.Generator().manual_seed(3)
    state = generator.get_state()
    value = {
        0: [1, 2.5, math.inf, True, None, "x"],
        ("a", 1): (torch.arange(3), {"kind": "tensor", "items": []}),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "generator": generator,
    }
    assert is_plain(value) and not is_plain([object()]) and not is_plain({1: {2}})
    tensors = {}
    kept = json.loads(json.dumps(split_tensors(value, tensors)))
    back = join_tensors(kept, tensors)
    assert back[0] == value[0] and back[("a", 1)][1] == {"kind": "tensor", "items": []}
    assert torch.equal(back[("a", 1)][0], torch.arange(3)) and back["half"].dtype == torch.bfloat16
    assert torch.equal(back["generator"].get_state(), state)
    with pytest.raises(TypeError, match="object cannot be kept"):
        split_tensors({"x": object()}, tensors)
