"""The short form of tools/torture: a few dozen spoilt inputs of every kind that takes moments.

The long form is ``python -m tools.torture``. Both fork, which a worker of pytest should not, so the
tests start a program.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FAST = ("images", "tables", "cards", "splits", "deltas", "models", "words", "runs", "bits")
FIGURE = re.compile(r"(\w+): (\d+) mutations, (\d+) ended with code 0 \((\d+)\) or 2 and .*")


def run_program(*words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def torture(*kinds, count, seed):
    """Return the figures by kind, (mutations, good ones, of those with code 0); fail on a fault."""
    words = ("-m", "tools.torture", *kinds, f"--count={count}", f"--seed={seed}")
    done = run_program(*words)
    if done.returncode:
        pytest.fail(f"python {' '.join(words)}\n{done.stdout}\n{done.stderr}", pytrace=False)
    figures = FIGURE.findall(done.stdout)
    return {name: tuple(map(int, numbers)) for name, *numbers in figures}


def test_a_few_dozen_spoilt_inputs_of_every_kind_end_well_or_with_one_message():
    found = torture(*FAST, "cards=12", "runs=12", "shards=2", count=24, seed=1)
    assert {name: figure[:2] for name, figure in found.items()} == {
        **dict.fromkeys(FAST, (24, 24)),
        **{"cards": (12, 12), "runs": (12, 12), "shards": (2, 2)},
    }
    refused = {name: good - ended for name, (_, good, ended) in found.items()}
    assert refused.pop("bits") == 24, "every flipped bit of a delta is refused"
    assert refused.pop("shards") == 0, "a flipped bit of the cache refuses no run"
    assert min(refused.values()) > 0, "the mutations spoil something"


@pytest.mark.slow
def test_many_spoilt_inputs_of_every_kind_end_well_or_with_one_message():
    few = ("shards=20", "disks=20", "kills=5", "processes=5")
    found = torture(*FAST, *few, count=200, seed=2)
    assert {name: figure[:2] for name, figure in found.items()} == {
        **dict.fromkeys(FAST, (200, 200)),
        **{"shards": (20, 20), "disks": (20, 20), "kills": (5, 5), "processes": (5, 5)},
    }


def test_the_harness_notices_what_no_run_may_do():
    done = run_program("tests/planted_faults.py")
    found = re.findall(r"^  1 x (.+), the first is (\w+) 0 of seed 7: (.*)$", done.stdout, re.M)
    assert {kind: fault for fault, kind, _ in found} == {
        "refuse_with_two_messages": "2 messages",
        "refuse_without_a_message": "0 messages",
        "refuse_without_end": "a message without end",
        "refuse_and_leave_an_output": "left behind: out",
        "leave_a_file": "left behind: .half-written",
        "raise_an_error": "KeyError at outside",
        "print_a_traceback": "a printed traceback",
        "end_with_a_fault": "code 1",
        "change_the_warnings_filter": "changed of the process: warning filters",
        "change_the_environment": "changed of the process: environment",
        "give_another_answer": "another delta",
        "crash": "crash",
        "hang": "hang of over 1 s",
    }, done.stdout + done.stderr
    assert {kind: last for _, kind, last in found}["raise_an_error"] == "KeyError: 'nothing'"
    figures = {name: numbers for name, *numbers in FIGURE.findall(done.stdout)}
    assert figures["end_well"] == ["1", "1", "1"]
    assert figures["refuse"] == ["1", "1", "0"]
    assert {name for name, numbers in figures.items() if numbers[1] == "1"} == {
        "end_well",
        "refuse",
    }
    assert done.returncode == 1
