"""What the first pages say works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

from clip_adapt import testing
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config import cards
from clip_adapt.evaluation.finding import list_shipped
from clip_adapt.method import finding
from clip_adapt.training.recipe import Recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXTENDING = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def test_it_is_short():
    assert len(README.splitlines()) <= 170


def test_the_example_method_keeps_every_law(tmp_path, tiny_card):
    blocks = re.findall(r"```python\n(.*?)```", EXTENDING, re.DOTALL)
    code = next(block for block in blocks if "Shift" in block)
    file = tmp_path / "shift.py"
    file.write_text(code)
    assert len([line for line in code.splitlines() if line.strip()]) == 12
    testing.check_method(
        finding.find_method(str(file)).cls,
        lambda: Backbone.from_card(tiny_card, device="cpu"),
        options={"scale": 0.5},
        recipe=Recipe(epochs=60, batch_size=24, optimizer="adam", lr=0.05, weight_decay=0.0),
        file=file,
    )


def test_every_method_stands_in_the_table():
    rows = re.findall(r"^\| `(\w+)` \| [a-z]", README, re.MULTILINE)  # not those of accuracies
    assert sorted(rows) == cards.list_cards("method")


def test_the_two_commands_stand_in_it():
    command = "python -m clip_adapt.train method=coop dataset=eyes shots=16"
    assert f'pip install -e ".[test]" && {command}\n    pytest\n' in README


def test_the_measured_accuracies_are_those_of_the_benchmarks():
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .*±.*$", README, re.MULTILINE)
    assert len(rows) >= len(cards.list_cards("method"))
    assert [row for row in rows if row not in results] == []


def test_the_printed_table_is_that_of_the_metrics():
    rows = re.findall(r"^    │ (.*?) +│.*│.*│$", README, re.MULTILINE)
    assert rows == [metric.spoken for metric in list_shipped()]
