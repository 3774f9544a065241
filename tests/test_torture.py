"""The short form of ``python -m tools.torture``, and that its judge sees what it is to see."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from pathlib import Path
from random import Random

import pytest

from clip_adapt.backbone.weights import towers
from clip_adapt.errors import InputError
from clip_adapt.evaluation import resampling
from tools.torture import __main__ as torture
from tools.torture import examples, mutation, workers
from tools.torture.kind import Kind
from tools.torture.kinds import KINDS

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the workers are forked"),
    pytest.mark.filterwarnings("ignore"),  # as outside of tests: a warning is no fault
]
SHORT = {"images": 40, "tables": 20, "cards": 20, "splits": 20, "deltas": 25, "models": 20,
         "words": 25, "runs": 20}  # fmt: skip


@pytest.fixture
def hurry(monkeypatch):
    """Fewer resamples and one vocabulary, until the test ends."""
    monkeypatch.setattr(resampling, "RESAMPLES", 20)
    monkeypatch.setattr(towers, "SimpleTokenizer", towers.SimpleTokenizer)
    examples.hurry()


@pytest.mark.parametrize("name", SHORT)
def test_mutations_end_with_a_result_or_one_message(hurry, tmp_path, name):
    made = KINDS[name].prepare(tmp_path / "made")
    outcomes = dict(workers.run(workers.Plan(KINDS[name], made, SHORT[name])))
    # What is imported by the first input of a worker changes filters, once; the long form warms up.
    faults = [o for o in outcomes.values() if o.fault and not o.fault.startswith("changed of the")]
    assert faults == []
    assert len(outcomes) == SHORT[name] and {o.code for o in outcomes.values()} == {0, 2}


def hang():
    time.sleep(60)


def crash():
    os.kill(os.getpid(), signal.SIGKILL)  # as the system ends what takes its memory


def trip():
    raise KeyError("x")


def eat():
    return bytearray(workers.MEMORY * 2)


def litter():
    Path(".half-written.tmp").write_text("half")


def leave():
    os.mkdir("out")
    raise InputError("refused, and yet it is there")


def filter_warnings():
    warnings.simplefilter("ignore", ResourceWarning)


def say_twice():
    print("error: one\nerror: two", file=sys.stderr)
    return 2


def refuse():
    raise InputError("this is refused")


ENDS = {
    hang: "hang of over 1 s",
    crash: "crash",
    trip: "KeyError at outside",
    eat: "MemoryError at outside",
    litter: "left behind: .half-written.tmp",
    leave: "left behind: out",
    filter_warnings: "changed of the process: warning filters",
    say_twice: "2 messages",
    lambda: 1: "code 1",
    lambda: os.environ.update(LEFT="1"): "changed of the process: environment",
    refuse: "",
    lambda: 0: "",
}


@pytest.mark.parametrize("jobs", [1, 3])
def test_the_judge_sees_every_fault(tmp_path, jobs):
    calls, faults = list(ENDS), list(ENDS.values())
    # The folder of an input is called by its number.
    kind = Kind("made-up", lambda folder: None, lambda random, valid, place: calls[int(place.name)])
    plan = workers.Plan(kind, None, len(calls), jobs=jobs, limit=1.0, keep=tmp_path)
    found = dict(workers.run(plan))
    assert [found[i].fault for i in range(len(calls))] == faults
    assert [found[i].code for i in range(len(calls)) if not faults[i]] == [2, 0]
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {f"made-up-1-{i}" for i, fault in enumerate(faults) if fault}


def test_a_mutation_follows_from_its_seed():
    tree = {"a": [1, 2, {"b": "c"}], "d": None}
    for write in (mutation.write_json, mutation.write_yaml):
        one, two = (
            [write(mutation.mutate_tree(Random(i), tree)) for i in range(200)] for _ in "12"
        )
        assert one == two and len(set(one)) > 100
    assert tree == {"a": [1, 2, {"b": "c"}], "d": None}
    data = bytes(range(256))
    one, two = ([mutation.mutate_bytes(Random(i), data, [b"x"]) for i in range(200)] for _ in "12")
    assert one == two and len(set(one)) > 150


def test_the_figure_counts_every_end(capsys):
    from tools.torture.judging import Outcome

    ends = [Outcome(0), Outcome(2), Outcome(2), Outcome(1, "hang of over 9 s"), Outcome(1, "crash")]
    ends += [Outcome(1, "KeyError at a.py:b"), Outcome(0, "left behind: x")]
    assert torture.write_figure("tables", dict(enumerate(ends))) == (
        "tables: 7 mutations, 3 ended with code 0 (1) or 2 and one message (2); 1 tracebacks, "
        "1 hangs, 1 crashes, 1 other faults"
    )
