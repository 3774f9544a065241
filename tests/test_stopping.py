"""Ctrl-C and SIGTERM end a run with one line, never hang, and keep what is done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from clip_adapt.api import adapt
from clip_adapt.data import decoding
from clip_adapt.system.launch import stopping
from clip_adapt.training import event_files
from clip_adapt.training.loop import Loop

BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def leaves(monkeypatch):
    """What is done when the command line leaves signals to the system: nothing in this process."""
    monkeypatch.setattr(stopping, "leave_signals_to_system", lambda: None)


def signal_in_step(monkeypatch, number, at):
    """Send this process a signal in a step of every training."""
    make, steps = Loop._make_step, []

    def made(self, *args):
        steps.append(1)
        if len(steps) == at:
            os.kill(os.getpid(), number)
        return make(self, *args)

    monkeypatch.setattr(Loop, "_make_step", made)


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended by SIGTERM")],
)
def test_a_run_that_is_stopped_goes_on_by_the_same_command(
    train_tiny, animals, monkeypatch, leaves, everything_in, number, code, word, caplog
):
    assert train_tiny(animals, "output=whole", "epochs=6")[0] == 0
    with monkeypatch.context() as patch:
        signal_in_step(patch, number, 4)
        ended, _, err = train_tiny(animals, "epochs=6", "tensorboard=true")
    assert ended == code
    assert err.splitlines()[-1] == f"{word}; the same command goes on from step 4 of 6"
    assert everything_in("out") == ["checkpoint/checkpoint.safetensors"]
    caplog.clear()
    # Where its files go and what is written besides changes nothing in what is trained.
    assert train_tiny(animals, "epochs=6", "report=false")[0] == 0
    assert "going on from step 4 of 6" in caplog.messages
    assert not Path("out/checkpoint").exists()
    ours, other = (Path(f) / "adapter/adapter.safetensors" for f in ("out", "whole"))
    assert read(ours) == read(other)


def read(file):
    """The tensors of a delta as lists of numbers."""
    return {name: tensor.tolist() for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("change", ["lr=0.01", "seed=2"])
def test_another_configuration_starts_anew(
    train_tiny, animals, monkeypatch, leaves, change, caplog
):
    with monkeypatch.context() as patch:
        signal_in_step(patch, signal.SIGINT, 1)
        assert train_tiny(animals)[0] == 130
    assert train_tiny(animals, change)[0] == 0
    assert "going on" not in caplog.text
    assert "checkpoint.safetensors is of another configuration" in caplog.text
    assert train_tiny(animals, change, "output=whole")[0] == 0
    assert read("out/adapter/adapter.safetensors") == read("whole/adapter/adapter.safetensors")


def test_a_changed_image_starts_anew(
    train_tiny, make_folder, tmp_path, monkeypatch, leaves, caplog
):
    own = make_folder(tmp_path / "own", per_class=2)
    with monkeypatch.context() as patch:
        signal_in_step(patch, signal.SIGINT, 1)
        assert train_tiny(own)[0] == 130
    make_folder(tmp_path / "other", per_class=2, seed=5)
    os.replace(tmp_path / "other/train/cat/0.png", own / "train/cat/0.png")
    assert train_tiny(own)[0] == 0
    assert "checkpoint.safetensors is of another draw of images" in caplog.text


def test_without_checkpoints_nothing_is_left(
    train_tiny, animals, monkeypatch, leaves, everything_in
):
    signal_in_step(monkeypatch, signal.SIGTERM, 1)
    code, _, err = train_tiny(animals, "checkpoint=null")
    assert code == 143 and err.endswith("ended by SIGTERM; nothing half-written was left\n")
    assert everything_in("out") is None


@pytest.mark.parametrize("number", BOTH)
def test_handlers_are_those_of_before_when_a_run_ends(animals, tiny_model, monkeypatch, number):
    before = [signal.getsignal(one) for one in BOTH]
    options = {"model": tiny_model, "epochs": 3, "output": "out", "shots": 1, "report": False}
    signal_in_step(monkeypatch, number, 2)
    with pytest.raises(KeyboardInterrupt):
        adapt(animals, **options)
    assert [signal.getsignal(one) for one in BOTH] == before
    assert not stopping.is_stop_asked()
    assert adapt(animals, **options).folder == Path("out")
    assert [signal.getsignal(one) for one in BOTH] == before


def test_a_handler_of_ones_own_stays(monkeypatch):
    def mine(number, frame):
        pass

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with stopping.catch_signals():
            assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_thread_trains_without_handlers():
    found = []

    def work():
        with stopping.catch_signals(), stopping.defer_stop():
            found.extend(signal.getsignal(one) for one in BOTH)
            assert not stopping.is_stop_asked()

    before = [signal.getsignal(one) for one in BOTH]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == before


WAITS = """
import os, signal, sys, time
from clip_adapt.system.launch import stopping
def work(argv):
    with stopping.defer_stop():
        print("ready", flush=True)
        while True:
            time.sleep(0.01)
import types
sys.modules["clip_adapt.train"] = types.SimpleNamespace(main=work)
from clip_adapt import cli
sys.exit(cli.run("train", []))
"""


@pytest.mark.parametrize("number", BOTH)
def test_a_second_signal_ends_at_once(number):
    process = subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    time.sleep(3 * stopping.PASSED_ON)
    assert process.poll() is None  # it waits for the end of the step, which never comes
    process.send_signal(number)
    assert process.wait(timeout=30) == 128 + number
    process.stdout.close()


def test_a_signal_that_a_launcher_passes_on_is_one_with_the_first(monkeypatch):
    now, ended = [0.0], []
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(stopping.os, "_exit", ended.append)
    with stopping.catch_signals(), stopping.defer_stop():
        for seconds, number in [(0.0, signal.SIGINT), (0.05, signal.SIGINT), (9, signal.SIGTERM)]:
            now[0] = seconds
            signal.raise_signal(number)
        assert ended == [] and stopping.is_stop_asked()
        signal.raise_signal(signal.SIGINT)
    assert ended == [130]


def test_what_is_still_to_be_decoded_is_not_waited_for():
    done, go = [], threading.Event()

    def work(number):
        go.wait(30)
        done.append(number)

    with pytest.raises(KeyboardInterrupt), decoding.open_decoders() as pool:
        waiting = [pool.submit(work, number) for number in range(1000)]
        raise KeyboardInterrupt
    assert done == []
    go.set()
    pool.shutdown()
    assert len(done) <= 16 and waiting[-1].cancelled()


def test_event_files_have_no_thread(tmp_path):
    before = threading.active_count()
    with event_files.open_event_file(tmp_path) as add:
        add("loss", 1.0, 0)
        assert threading.active_count() == before
        (file,) = tmp_path.iterdir()
        assert file.stat().st_size > 50  # what is said is there at once
