"""Threads of one process get the numbers that runs one after the other get."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import clip_adapt
from clip_adapt.evaluation import resampling
from clip_adapt.system.launch import threads

DRAWS = """
import torch
from clip_adapt.method import Method

class Draws(Method):
    quick = True
    def __init__(self, backbone, task):
        super().__init__(backbone, task)
        self.shift = torch.nn.Parameter(torch.rand(len(task.classes), backbone.embed_dim) / 9)
    def weights(self):
        shift = torch.nn.functional.dropout(self.shift, 0.5, self.training)
        return torch.nn.functional.normalize(self.zero_shot_weights + shift, dim=-1)
"""


@pytest.fixture
def adapt_tiny(tiny_model, animals, monkeypatch):
    """A function that trains shortly: the tensors of the delta, and the test nll."""
    monkeypatch.setattr(resampling, "RESAMPLES", 2)

    def adapt(number, method="lora", **options):
        made = clip_adapt.adapt(
            animals, method=method, shots=2, epochs=2, model=tiny_model, output=f"out{number}",
            tensorboard=False, report=False, **options,
        )  # fmt: skip
        return made.method.state_dict(), made.metrics["test"]["nll"]["value"]

    return adapt


@pytest.mark.parametrize("method", ["lora", "draws.py"])
def test_threads_get_the_numbers_of_a_lone_run(adapt_tiny, method, tmp_path):
    (tmp_path / "draws.py").write_text(DRAWS)
    alone, nll = adapt_tiny(0, method)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda n: adapt_tiny(n, method), range(1, 4)))
    assert [value for _, value in found] == [nll] * 3
    for state, _ in found:
        assert all(torch.equal(state[name], alone[name]) for name in alone)


def test_what_loads_meanwhile_takes_nothing_from_the_stream(adapt_tiny, tiny_card):
    alone, _ = adapt_tiny(0)
    inside, done = threading.Event(), threading.Event()

    def load():
        inside.wait()
        loaded = clip_adapt.load("out0", backbone=clip_adapt.Backbone.from_card(tiny_card))
        loaded.for_classes(["fox", "owl"])
        done.set()

    thread = threading.Thread(target=load)
    thread.start()
    with threads.hold_random_stream():  # as a run does, from its start to its end
        inside.set()
        state, _ = adapt_tiny(1)
        assert not done.is_set()
    thread.join()
    assert done.is_set() and all(torch.equal(state[name], alone[name]) for name in alone)


def test_a_run_that_fails_lets_the_next_one_begin(adapt_tiny):
    with pytest.raises(clip_adapt.InputError, match="conformal"):
        adapt_tiny(0, conformal=0.01)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(adapt_tiny, 1).result(timeout=60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_does_not_wait_for_threads_that_it_lacks():
    held, over = threading.Event(), threading.Event()

    def hold():
        with threads.hold_random_stream():
            held.set()
            over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        with threads.hold_random_stream():
            os._exit(7)
    over.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
