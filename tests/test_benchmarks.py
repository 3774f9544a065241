"""The benchmarks run, compare like with like, and write what they promise; no time is asserted."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from clip_adapt.method.finding import list_methods

ROOT = Path(__file__).parent.parent
BENCHMARKS = sorted(
    path.stem
    for path in (ROOT / "benchmarks").glob("*.py")
    if "def measure(" in path.read_text(encoding="utf-8")
)
NEEDS = {"adapter_epoch": "adapter", "scaling": "adapter", "tip_search": "tip_adapter"}


@pytest.fixture
def bench(tiny_card, tmp_path, monkeypatch, capsys):
    """A function that runs a benchmark on tiny towers: what its JSON holds."""
    monkeypatch.syspath_prepend(str(ROOT))
    common = importlib.import_module("benchmarks.common")
    threads = torch.get_num_threads()

    def main(name, *words):
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        module = importlib.import_module(f"benchmarks.{name}")
        if hasattr(module, "main"):
            return module.main()
        return common.run(name, common.parser(module.__doc__), module.measure)

    def in_process(module, *words):
        capsys.readouterr()
        main(module.rpartition(".")[2], *words)
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    def run(name):
        if NEEDS.get(name, "coop") not in list_methods():
            pytest.skip(f"there is no method {NEEDS[name]}")
        monkeypatch.setattr(common, "in_process", in_process)
        general = ["--tiny", "--threads", threads, "--architecture", tiny_card.architecture]
        main(name, *general, "--out", tmp_path / "results")
        return json.loads((tmp_path / "results" / f"{name}.json").read_text())

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_measures_and_writes(name, bench):
    facts = bench(name)
    assert (
        facts["benchmark"] == name and facts["rows"] and len(facts["load_average"]["before"]) == 3
    )
    assert torch.__version__.startswith(facts["versions"]["torch"])
    for row in facts["rows"]:
        assert row["ours"] >= 0 and (row["plain"] is None or row["plain"] >= 0)
        assert (row["ratio"] is None) == (not row["plain"] or not row["ours"])


def test_both_ways_of_a_coop_step_give_the_same_gradients(tiny_card, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    coop_step = importlib.import_module("benchmarks.coop_step")
    args = coop_step.common.parser("x").parse_args(["--architecture", tiny_card.architecture])
    assert coop_step.Step(args, 5).disagreement() < 1e-3


def test_a_ratio_says_how_many_times_better(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    row = importlib.import_module("benchmarks.common").Row
    assert row("time", "s", 8.0, 2.0).ratio == 4 and row("rate", "images/s", 2.0, 8.0).ratio == 4
    assert row("alone", "s", None, 2.0).ratio is None


def test_both_ways_of_a_lora_step_give_the_same_gradients(tiny_card, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    lora_step = importlib.import_module("benchmarks.lora_step")
    args = lora_step.common.parser("x").parse_args(["--architecture", tiny_card.architecture])
    assert lora_step.Step(args, 5, 3, dropout=0.0).disagreement() < 1e-3
