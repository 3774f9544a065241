"""Runs of a sweep that are trained side by side are the runs that they are alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clip_adapt.evaluation import resampling
from clip_adapt.sweeps import groups
from clip_adapt.system import locks
from clip_adapt.training import side_by_side
from clip_adapt.training.fitting import Training
from clip_adapt.training.side_by_side_loop import TogetherLoop

# Of what two runs may differ in.
COST = ("command", "date", "seconds", "peak_memory_bytes", "side_by_side", "adapter_bytes")

STEP = """
import torch
from clip_adapt import Method

class Own(Method):
    '''Fail at a step with one seed.'''

    def __init__(self, backbone, task):
        super().__init__(backbone, task)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def logits(self, z, w):
        if self.task.seed == SEED:
            raise RuntimeError("no step")
        return self.scale * super().logits(z, w)
"""


@pytest.fixture
def words(animals, tiny_model):
    """What all command lines of a test have in common."""
    return [
        "shots=2",
        "epochs=3",
        "batch_size=4",
        "report=false",
        f"dataset={animals}",
        f"model={tiny_model}",
    ]


@pytest.fixture
def sweep(run_cli, words, monkeypatch):
    """A function that sweeps two seeds by two rates: (exit code, stdout, stderr)."""
    monkeypatch.setattr(resampling, "RESAMPLES", 20)

    def swept(*more):
        usual = ["method=adapter", "seed=[1,2]", "lr=[0.01,0.05]", "output=out"]
        return run_cli("sweep", *usual, "tensorboard=false", *words, *more)

    return swept


def measured(folder):
    return json.loads((Path(folder) / "metrics.json").read_text(encoding="utf-8"))


def asked(folder):
    """The seed and the learning rate of a run."""
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    return config["seed"], config["lr"]


def runs():
    """The folders of the finished runs, by seed and learning rate."""
    return sorted((p.parent for p in Path("out").glob("*/metrics.json")), key=asked)


def flat(value, path=""):
    """The numbers and words of metrics.json by their place in it."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, one in items for k, v in flat(one, f"{path}/{key}").items()}
    return {path: value}


def assert_same(folder, other):
    """Two runs are the same up to rounding: what was measured, the delta, the TensorBoard curve."""
    one, two = ({k: v for k, v in measured(f).items() if k not in COST} for f in (folder, other))
    one, two = flat(one), flat(two)
    numbers = [key for key, value in two.items() if isinstance(value, int | float)]
    assert {**one, **dict.fromkeys(numbers)} == {**two, **dict.fromkeys(numbers)}
    assert [one[key] for key in numbers] == pytest.approx(
        [two[key] for key in numbers], rel=1e-3, abs=1e-4
    )
    delta, expected = (load_file(f / "adapter/adapter.safetensors") for f in (folder, other))
    assert delta.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensor.allclose(delta[name], rtol=0, atol=1e-5)
    assert scalars(folder) == pytest.approx(scalars(other), rel=1e-3, abs=1e-4)


def scalars(folder):
    if not list(Path(folder).glob("events.*")):
        return {}
    found = EventAccumulator(str(folder)).Reload()
    tags = found.Tags()["scalars"]
    return {(tag, event.step): event.value for tag in tags for event in found.Scalars(tag)}


CASES = [
    ("adapter", ["guard=true", "tensorboard=true"]),
    ("adapter", ["optimizer=adamw", "label_smoothing=0.1", "tensorboard=false"]),
    ("coop", ["calibrate=true", "conformal=0.2", "tensorboard=false"]),
    ("taskres", ["tensorboard=false"]),
    ("tip_adapter", ["guard=true", "tensorboard=true"]),  # is solved first and searches at its end
    # Sits inside the tower, where the run axis does not reach it: trained in turn.
    ("lora", ["method.towers=text", "method.dropout=0", "tensorboard=false"]),
]


@pytest.mark.parametrize(("method", "more"), CASES)
def test_a_run_beside_others_is_the_run_alone(run_cli, words, monkeypatch, method, more):
    monkeypatch.setattr(resampling, "RESAMPLES", 20)
    words = [*words, f"method={method}", *more]
    code, out, err = run_cli("sweep", *words, "seed=[1,2]", "lr=[0.01,0.05]", "output=out")
    assert code == 0, err
    assert len(runs()) == 4
    beside = 1 if method == "lora" else 4
    assert out.count("(its share of 4 trained side by side)") == (4 if beside > 1 else 0)
    for folder in runs():
        assert measured(folder).get("side_by_side", 1) == beside
        assert 0 < measured(folder)["seconds"]["fit"] < measured(folder)["seconds"]["total"]
        seed, rate = asked(folder)
        code, _, err = run_cli("train", *words, f"seed={seed}", f"lr={rate}", "output=alone")
        assert code == 0, err
        assert "side_by_side" not in measured("alone")
        assert bool(scalars(folder)) == ("tensorboard=true" in more)
        assert_same(folder, Path("alone"))
    learned = [load_file(folder / "adapter/adapter.safetensors") for folder in runs()]
    for other in learned[1:]:
        assert any(not t.equal(other[name]) for name, t in learned[0].items())


def test_a_run_that_diverges_fails_alone(sweep, run_cli, words, everything_in):
    code, out, _ = sweep("lr=[0.01,1e30,0.05]", "seed=1")
    assert code == 1
    assert out.count("(its share of 3 trained side by side)") == 2
    (failed,) = (line for line in out.splitlines() if "FAILED" in line)
    assert "FAILED: the loss is not finite any more" in failed and "it is 1e+30" in failed
    assert [asked(folder) for folder in runs()] == [(1, 0.01), (1, 0.05)]
    assert everything_in(Path("out") / failed.split()[1][:-1]) is None
    words += ["method=adapter", "lr=0.05", "output=alone", "tensorboard=false"]
    assert run_cli("train", *words)[0] == 0
    assert_same(runs()[1], Path("alone"))


def test_a_run_that_cannot_start_fails_alone(sweep, monkeypatch):
    start = groups.start_run

    def broken(config, shared):
        if config.options.seed == 2 and config.options.lr == 0.05:
            raise RuntimeError("it cannot start")
        return start(config, shared)

    monkeypatch.setattr(groups, "start_run", broken)
    code, out, _ = sweep()
    assert code == 1 and len(runs()) == 3
    assert "RuntimeError: it cannot start" in Path("out/results.md").read_text()
    assert out.count("(its share of 3 trained side by side)") == 3


@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_whose_step_fails_fails_alone(sweep, caplog, seed):
    Path("own.py").write_text(STEP.replace("SEED", str(seed)))
    code, *_ = sweep("method=own.py", "lr=0.01")
    assert code == 1 and [asked(folder) for folder in runs()] == [(3 - seed, 0.01)]
    assert "RuntimeError: no step" in Path("out/results.md").read_text()
    assert "cannot be trained side by side" not in caplog.text


def test_what_was_finished_before_is_kept(sweep):
    assert sweep()[0] == 0
    first, _, _, last = runs()
    kept = {folder: measured(folder)["seconds"] for folder in runs()[1:3]}
    for folder in (first, last):
        (folder / "metrics.json").unlink()
    code, out, _ = sweep()
    assert code == 0 and "2 runs in " in out and ", 2 were finished before" in out
    assert out.count("(its share of 2 trained side by side)") == 2
    assert all(measured(folder)["seconds"] == seconds for folder, seconds in kept.items())
    assert measured(first)["side_by_side"] == 2


def test_a_changed_configuration_is_run_anew_beside_others(sweep):
    assert sweep()[0] == 0
    stored = runs()[2] / "config.yaml"
    stored.write_text(stored.read_text().replace("batch_size: 4", "batch_size: 16"))
    (runs()[1] / "metrics.json").unlink()
    out = sweep()[1]
    assert out.count("batch_size: 16, now 4") == 1
    assert out.count("(its share of 2 trained side by side)") == 2


def test_a_run_of_another_process_is_left_to_it(sweep, monkeypatch):
    assert sweep()[0] == 0
    for folder in runs():
        (folder / "metrics.json").unlink()
        other = folder.name
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    with locks.hold_lock(Path(f"out/.claims/{other}.lock"), "it"):
        code, out, _ = sweep()
    assert code == 0
    assert len(runs()) == 3 and other not in [folder.name for folder in runs()]
    assert out.count("(its share of 3 trained side by side)") == 3


def test_processes_share_what_could_go_side_by_side(sweep, monkeypatch):
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    out = sweep()[1]
    assert len(runs()) == 4
    assert out.count("(its share of 2 trained side by side)") == 2  # then one, then the last


def test_a_killed_group_leaves_nothing(sweep, monkeypatch, everything_in):
    epoch = TogetherLoop._epoch

    def killed(self, number):
        if number == 1:
            raise KeyboardInterrupt
        return epoch(self, number)

    monkeypatch.setattr(TogetherLoop, "_epoch", killed)
    assert sweep()[0] == 130
    assert not [name for name in everything_in("out") or [] if not name.startswith("results")]


def test_runs_that_fail_together_are_made_alone(sweep, monkeypatch, caplog):
    def out_of_memory(self):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(TogetherLoop, "run", out_of_memory)
    code, out, _ = sweep()
    assert code == 0 and len(runs()) == 4
    assert "4 runs cannot be trained side by side: RuntimeError('out of memory')" in caplog.text
    assert "side by side)" not in out


@pytest.mark.parametrize(
    "more", ["epochs=0", "select=val", "class_balanced=true", "method=gda", "batch_size=[4,8]"]
)
def test_what_cannot_be_shared_goes_run_by_run(sweep, monkeypatch, more):
    asked = []
    train = groups.side_by_side.train_together

    def counted(trainings):
        asked.append(len(trainings))
        return train(trainings)

    monkeypatch.setattr(groups.side_by_side, "train_together", counted)
    code, _, err = sweep("seed=1", "lr=[0.01,0.05]" if "batch" not in more else "lr=0.05", more)
    assert code == 0, err
    assert asked == [1, 1] and len(runs()) == 2


def test_as_many_go_together_as_the_memory_holds(sweep, monkeypatch):
    seen = []
    most = side_by_side.count_room

    def with_memory(training: Training):
        monkeypatch.setattr(side_by_side, "measure_total_memory", lambda device: 10**12)
        assert most(training) == side_by_side.MOST
        low, high = 1, 10**12
        while high - low > 1:  # the least memory that holds three runs
            middle = (low + high) // 2
            monkeypatch.setattr(side_by_side, "measure_total_memory", lambda device, m=middle: m)
            low, high = (middle, high) if most(training) < 3 else (low, middle)
        monkeypatch.setattr(side_by_side, "measure_total_memory", lambda device: high)
        seen.append(most(training))
        return seen[-1]

    monkeypatch.setattr(side_by_side, "count_room", with_memory)
    out = sweep()[1]
    assert seen == [3, 3] or seen == [3, 3, 3]
    assert out.count("(its share of 3 trained side by side)") == 3
