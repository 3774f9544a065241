"""Sweeps: every run once, kept, repeated, shared; what is written about them."""

import csv
import itertools
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.evaluation import reading, resampling
from clip_adapt.runs import run as run_module
from clip_adapt.sweeps import curve, results
from clip_adapt.sweeps.results import Point
from clip_adapt.system import locks

ROOT = Path(__file__).parents[1]
ACCURACY, NLL = (reading.find_quantity(name, {}) for name in ("accuracy", "nll"))
FAILING = """
from clip_adapt import Method

class Failing(Method):
    '''Fail at seed 2.'''

    def weights(self):
        if self.task.seed == 2:
            raise RuntimeError("this seed cannot be")
        return super().weights()
"""


@pytest.fixture
def sweep(run_cli, animals, tiny_model, monkeypatch):
    """A function that sweeps over the tiny CLIP: (exit code, stdout, stderr)."""
    monkeypatch.setattr(resampling, "RESAMPLES", 20)

    def swept(*words):
        usual = ["method=[zero_shot,coop]", "shots=[1,2]", "seed=[1,2]", "epochs=2"]
        usual += ["tensorboard=false", "report=false", "output=out"]
        return run_cli("sweep", *usual, f"dataset={animals}", f"model={tiny_model}", *words)

    return swept


def rows():
    with open("out/results.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def without_seconds(table):
    return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in table]


def test_a_sweep_and_its_second_start(sweep, monkeypatch):
    loaded = []
    load = Backbone.from_card
    monkeypatch.setattr(Backbone, "from_card", lambda *a, **k: loaded.append(1) or load(*a, **k))
    code, out, err = sweep()
    assert code == 0, err
    assert loaded == [1]
    assert "8 runs in out" in out and "8 runs in " in out and ", 0 were finished before" in out
    first = rows()
    names = [(r["method"], r["shots"], r["seed"]) for r in first]
    assert names == [(m, s, d) for m in ("zero_shot", "coop") for s in "12" for d in "12"]
    written = sorted(p.name for p in Path("out").iterdir() if p.is_file())
    assert written == ["curve.png", "curve.svg", "index.html", "results.csv", "results.md"]
    assert not list(Path("out").rglob(".*"))
    stamps = {p: p.stat().st_mtime_ns for p in Path("out").rglob("metrics.json")}
    code, out, _ = sweep()
    assert code == 0 and out.count(": finished before\n") == 8
    assert "0 runs in " in out and ", 8 were finished before" in out
    assert {p: p.stat().st_mtime_ns for p in Path("out").rglob("metrics.json")} == stamps
    assert rows() == first


def test_a_run_of_a_sweep_is_the_run_itself(sweep, train_tiny, animals):
    assert sweep("method=coop", "shots=2", "seed=[1,2]", "cache=false")[0] == 0
    code, _, err = train_tiny(animals, "seed=2", "output=alone")
    assert code == 0, err
    (swept,) = Path("out").glob("*seed2*")
    one, other = (
        list(csv.reader((folder / "predictions.csv").read_text().splitlines()))
        for folder in (swept, Path("alone"))
    )
    assert [row[:3] for row in one] == [row[:3] for row in other]
    for row, same in zip(one[1:], other[1:], strict=True):
        assert list(map(float, row[3:])) == pytest.approx(list(map(float, same[3:])), abs=1e-5)


def test_an_interrupted_sweep_goes_on_to_the_same_table(sweep, monkeypatch):
    assert sweep()[0] == 0
    whole = without_seconds(rows())
    kept = Path("out").rename("whole")
    done = []
    write = run_module.write_run

    def third_time_unlucky(*args):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(1)
        return write(*args)

    monkeypatch.setattr(run_module, "write_run", third_time_unlucky)
    code, _, err = sweep()
    assert code == 130 and "interrupted" in err
    assert len(list(Path("out").rglob("metrics.json"))) == 3 == len(rows())
    assert not list(Path("out").rglob("*.lock"))
    monkeypatch.setattr(run_module, "write_run", write)
    code, out, _ = sweep()
    assert code == 0 and ", 3 were finished before" in out
    assert without_seconds(rows()) == whole
    assert (kept / "results.md").read_text() == Path("out/results.md").read_text()


def test_a_run_without_its_metrics_is_not_finished(sweep):
    words = ("method=coop", "shots=1", "seed=1")
    assert sweep(*words)[0] == 0
    (folder,) = (p.parent for p in Path("out").rglob("metrics.json"))
    (folder / "metrics.json").unlink()
    assert ", 0 were finished before" in sweep(*words)[1]


def test_a_failing_run_does_not_stop_the_others(sweep):
    Path("failing.py").write_text(FAILING)
    code, out, _ = sweep("method=[zero_shot,failing.py]", "shots=1", "seed=[2,1]")
    assert code == 1
    (line,) = [x for x in out.partition("1 runs failed:\n")[2].splitlines() if x]
    assert line.startswith("  animals-failing-") and line.endswith(
        ": RuntimeError: this seed cannot be"
    )
    assert [(r["method"], r["seed"]) for r in rows()] == [
        ("zero_shot", "2"),
        ("zero_shot", "1"),
        ("failing", "1"),
    ]
    assert "RuntimeError: this seed cannot be" in Path("out/results.md").read_text()
    Path("failing.py").write_text(FAILING.replace("== 2", "== 3"))
    code, out, _ = sweep("method=[zero_shot,failing.py]", "shots=1", "seed=[2,1]")
    assert code == 0 and ", 2 were finished before" in out  # its code changed: both seeds anew
    assert "Failed" not in Path("out/results.md").read_text()


def test_a_changed_configuration_is_said_and_run_anew(sweep):
    words = ("method=coop", "shots=1", "seed=1")
    assert sweep(*words)[0] == 0
    (config,) = Path("out").rglob("config.yaml")
    config.write_text(config.read_text().replace("lr: 0.002", "lr: 0.004"))
    code, out, _ = sweep(*words)
    assert code == 0
    said = (
        "finished before with another configuration, so it runs anew:\n    lr: 0.004, now 0.002\n"
    )
    assert said in out
    assert ", 0 were finished before" in out
    assert "lr: 0.002" in config.read_text()


def test_what_a_sweep_refuses_leaves_nothing(sweep, everything_in, tmp_path):
    for word, expected in (
        ("shotz=[1]", "unknown option 'shotz' - did you mean 'shots'?"),
        ("metric=acuracy", "unknown metric 'acuracy' - did you mean 'accuracy'?"),
        ("--seed=3", "expected key=value, got '--seed=3' - options are written seed=VALUE"),
    ):
        code, out, err = sweep(word)
        assert code == 2 and expected in err and "runs in" not in out
    assert everything_in(tmp_path / "out") is None


def test_a_sweep_in_a_folder_in_use_is_refused(sweep):
    with locks.hold_lock(Path("out/.sweep.lock"), "it"):
        code, _, err = sweep()
    assert code == 2
    assert f"the folder out is in use by process {os.getpid()} on " in err


@pytest.mark.slow
def test_processes_of_a_launch_share_the_runs(animals, tiny_model, tmp_path):
    words = ["method=[zero_shot,coop]", "shots=[1,2]", "seed=[1,2]", "epochs=2", "output=out"]
    words += [f"dataset={animals}", f"model={tiny_model}", "report=false", "tensorboard=false"]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "clip_adapt.sweep", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": "1",
            },
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=280)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    made = [text.count("(zero-shot ") for text in said]
    assert sum(made) == 8, said
    assert len(rows()) == 8
    assert "written: out/results.csv" in said[0] and "written" not in said[1]


@pytest.fixture
def found():
    """Results of two methods at two shots over three seeds, of invented numbers."""

    class Cell:
        def __init__(self, name, shots, seed):
            named = type("Named", (), {"name": name})
            other = type("Named", (), {"name": "x"})
            options = type("Options", (), {"shots": shots, "seed": seed})
            config = {"method": named, "dataset": other, "model": other, "options": options}
            self.config = type("Config", (), config)
            self.values = {"method": name, "shots": shots, "seed": seed}
            self.folder = Path(f"{name}-{shots}-{seed}")

    def metrics_of(value):
        entry = {"value": value, "low": value - 0.1, "high": value + 0.1}
        return {
            "test": {"accuracy": entry},
            "zero_shot": {"accuracy": {"value": 0.25, "low": 0.2, "high": 0.3}},
            "trainable_parameters": 7,
            "seconds": {"fit": 1.0, "total": 2.0},
        }

    values = {("one", 1): (0.2, 0.3, 0.4), ("one", 4): (0.5, 0.5, 0.5), ("two", 4): (0.6, 0.7, 0.7)}
    return [
        results.Result(Cell(name, shots, seed), metrics_of(value))
        for (name, shots), of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    ]


def test_mean_and_standard_deviation_over_seeds(found):
    series = results.group_points(found, "accuracy")
    assert list(series) == ["one", "two"]
    assert [p.shots for p in series["one"]] == [1, 4]
    assert series["one"][0].mean == pytest.approx(0.3)
    assert series["one"][0].deviation == pytest.approx(np.std([0.2, 0.3, 0.4], ddof=1))
    assert series["one"][1].deviation == 0
    assert series["two"][0].deviation == pytest.approx(statistics.stdev([0.6, 0.7, 0.7]))
    assert results.list_zero_shot(found, "accuracy") == [0.25]


def test_the_summary_of_a_sweep(found):
    text = results.write_summary(found, ACCURACY, "the command", [("three", "no memory")])
    assert "| | 1 shot | 4 shots |\n|---|--:|--:|\n" in text
    assert "| one | 30.0 ± 10.0 % | 50.0 ± 0.0 % |\n" in text
    assert "| two |  | 66.7 ± 5.8 % |\n" in text
    assert "Zero-shot: 25.0 %. Mean ± standard deviation over 3 seeds." in text
    assert text.endswith("## Failed\n\n- three: no memory\n")


def test_places_of_labels_keep_their_distance_order_and_room():
    stream = np.random.default_rng(0)
    for count in (1, 2, 5, 9):
        wanted = sorted(stream.uniform(0, 100, count))
        places = curve.spread_places(wanted, 10, 0, 100)
        assert all(b - a >= 10 - 1e-9 for a, b in itertools.pairwise(places))
        assert places[0] >= -1e-9 and places[-1] <= 100 + 1e-9
    assert curve.spread_places([10, 50], 10, 0, 100) == [10, 50]
    assert curve.spread_places([49, 51], 10, 0, 100) == [45, 55]
    assert curve.spread_places([100, 100], 10, 0, 100) == [90, 100]
    assert curve.spread_places([], 10, 0, 100) == []


def test_the_labels_of_a_curve_do_not_overlap():
    series = {f"method {i}": [Point(s, 0.5 + 0.001 * i, 0.01, 3) for s in (1, 2)] for i in range(8)}
    figure = curve._make_figure(series, [0.5], ACCURACY, "title")
    figure.canvas.draw()
    (axes,) = figure.axes
    assert {t.get_text() for t in axes.texts} == {*series, "zero-shot"}
    # Of the words alone: an annotation's own extent has its line to the curve in it.
    boxes = [Text.get_window_extent(t).bounds for t in axes.texts]
    boxes.sort(key=lambda box: box[1])
    for (_, y, _, height), (_, above, _, _) in itertools.pairwise(boxes):
        assert y + height <= above + 1


def test_a_curve_is_two_pictures(tmp_path):
    series = {"a $x$": [Point(1, 0.2, 0.1, 2), Point(16, 0.4, 0.0, 1)]}
    curve.draw_curve(tmp_path, series, [0.1], NLL, "a title")
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.width > 800
    text = (tmp_path / "curve.svg").read_text()
    assert text.startswith("<?xml") and "</svg>" in text
    curve.draw_curve(tmp_path, series, [0.1], NLL, "a title")
    assert (tmp_path / "curve.svg").read_text() == text
