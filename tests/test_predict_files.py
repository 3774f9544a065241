"""Predictions of many files: what is written and said, what is held meanwhile, whose numbers."""

from __future__ import annotations

import builtins
import csv
import io
import json
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import clip_adapt
from clip_adapt.adapted import bulk, delta, frames, predicting, view_stream
from clip_adapt.adapted.classifier import Classifier
from clip_adapt.adapted.prediction import Prediction
from clip_adapt.adapted.prediction_files import PredictionTable, open_output, parse_output
from clip_adapt.data.items import Item
from clip_adapt.data.task import Task
from clip_adapt.errors import InputError
from clip_adapt.evaluation.classification import compute_probabilities
from clip_adapt.inputs.features import FeatureCache
from clip_adapt.method.finding import find_method

ROOT = Path(__file__).parent.parent
CLASSES = ["cat", "dog", "=eel"]
THRESHOLDS = {"alpha": 0.2, "lac": 0.65, "aps": 0.6, "n": 20}
ASKED = f"classes=[{', '.join(CLASSES)}]"


@pytest.fixture(scope="module")
def pool(make_folder, tmp_path_factory):
    """A folder of 42 images, more than a batch, in class folders; to be read only."""
    return make_folder(tmp_path_factory.mktemp("pool"), splits=(), per_class=14)


@pytest.fixture(scope="module")
def model(tiny_backbone):
    return clip_adapt.zero_shot(CLASSES, model=tiny_backbone)


def list_paths(folder):
    return sorted(str(path) for path in Path(folder).rglob("*.png"))


def read_rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def predict(run_cli, tiny_model):
    """A function that predicts by class names alone on the tiny towers."""
    return lambda *words: run_cli("predict", *words, ASKED, f"model={tiny_model}")


def test_a_folder_becomes_a_table_and_a_summary(predict, pool, model, everything_in, tmp_path):
    before = set(everything_in(tmp_path))
    code, out, err = predict(pool, "output=made/preds.csv")
    assert (code, err) == (0, "")
    rows = read_rows("made/preds.csv")
    columns = ["path", "label", "probability", "p:cat", "p:dog", "p:=eel"]
    assert list(rows[0]) == columns
    assert [row["path"] for row in rows] == list_paths(pool)
    expected = list(model.predict_files(list_paths(pool)))
    for row, prediction in zip(rows, expected, strict=True):
        best = prediction.ranking[0]
        # What a spreadsheet would compute has an apostrophe in front.
        assert row["label"] == best[0].replace("=", "'=")
        assert float(row["probability"]) == best[1] == max(prediction.probabilities)
        assert [float(row[column]) for column in columns[3:]] == list(prediction.probabilities)
    counts = {name: sum(p.ranking[0][0] == name for p in expected) for name in CLASSES}
    for name, count in counts.items():
        assert (f" {name} " in out) == (count > 0)
        assert not count or f"{count / 42:.1%}" in out
    assert "42 images, " in out and "images/s\nwritten: made/preds.csv\n" in out
    assert set(everything_in(tmp_path)) - before == {"made/preds.csv"}


def test_the_three_forms_say_the_same(predict, pool, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "bad.png").write_text("no image")
    for suffix in ("csv", "jsonl", "parquet"):
        words = (pool / "cat", "bad.png", "on_bad_image=skip", f"output=p.{suffix}")
        code, _, err = predict(*words)
        assert code == 0, err
        assert err.splitlines() == [
            "1 cannot be read and were left out:",
            "  bad.png: this is no image that can be read",
        ]
    lines = [json.loads(line) for line in Path("p.jsonl").read_text().splitlines()]
    table = parquet.read_table("p.parquet")
    assert table.column_names == list(lines[0]) == list(read_rows("p.csv")[0])
    assert table.to_pylist() == lines
    assert lines[-1] == dict.fromkeys(lines[0]) | {
        "path": "bad.png",
        "error": "this is no image that can be read",
    }
    for row, line in zip(read_rows("p.csv"), lines, strict=True):
        assert row["error"] == (line["error"] or "")
        assert row["probability"] == ("" if line["error"] else repr(line["probability"]))


def test_sets_of_a_delta_are_written(run_cli, tiny_backbone, tiny_model, pool):
    found = find_method("zero_shot")
    made = found.cls(tiny_backbone, Task(tuple(CLASSES)))
    header = delta.describe(found, made, conformal=THRESHOLDS)
    delta.save(Path("run/adapter"), made, header, "")
    for name in ("run", "run/adapter", f"run/adapter/{delta.FILE}"):  # a run's folder will do
        code, _, err = run_cli(
            "predict", name, pool / "dog", f"model={tiny_model}", "output=p.csv", "score=aps"
        )
        assert code == 0, err
    rows = read_rows("p.csv")
    assert list(rows[0])[:4] == ["path", "label", "probability", "set"]
    sets = Classifier(made, header).predict_sets(list_paths(pool / "dog"), score="aps")
    assert [json.loads(row["set"]) for row in rows] == [[name for name, _ in one] for one in sets]
    assert {len(one) for one in sets} == {2}


def test_lists_patterns_standard_input_and_duplicates(predict, pool, monkeypatch):
    first, second, third = list_paths(pool / "cat")[:3]
    Path("list.txt").write_text(f"{third}\n{first}\n", encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{first}\n".encode())))
    code, out, err = predict(second, "-", second, "list=list.txt", "json=true", "top_k=1")
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["path"] for line in lines] == [second, first, second, third, first]
    assert lines[0] == lines[2] and lines[1] == lines[4] and lines[0] != lines[3]
    code, out, _ = predict(f"{pool}/*/1?.png", "output=p.csv")
    assert [row["path"] for row in read_rows("p.csv")] == sorted(map(str, pool.glob("*/1?.png")))


def test_each_file_is_decoded_once_even_when_it_is_named_twice(predict, pool, monkeypatch):
    opened = []
    load = view_stream.decoding.try_load
    monkeypatch.setattr(
        view_stream.decoding, "try_load", lambda path: opened.append(path) or load(path)
    )
    code, _, err = predict(pool, pool, "output=p.csv")
    assert code == 0, err
    rows = read_rows("p.csv")
    assert len(rows) == 84 and rows[:42] == rows[42:]
    assert sorted(opened) == list_paths(pool)


def test_without_a_file_many_images_have_a_summary_and_few_a_table_each(predict, pool):
    code, out, _ = predict(pool)
    assert code == 0 and out.splitlines()[-1].startswith("output=FILE.csv, .jsonl or .parquet kee")
    assert "0.png" not in out
    code, out, _ = predict(pool / "cat")
    assert code == 0 and [line for line in out.splitlines() if ".png" in line] == list_paths(
        pool / "cat"
    )


@pytest.mark.parametrize("output", ["output=p.csv", "json=true", "top_k=2"])
def test_nothing_is_written_or_said_unless_all_can_be_read(
    predict, pool, output, tmp_path, everything_in
):
    for name in ("a.png", "z.png"):
        (tmp_path / name).write_text("no image")
    before = everything_in(tmp_path)
    words = ("a.png", *list_paths(pool), "z.png", output)
    code, out, err = predict(*words)
    assert (code, out) == (2, "")
    assert err.startswith(
        "error: 2 images cannot be read:\n  a.png: this is no image that can be read\n  z.png: "
    )
    assert err.endswith("or go on without them: on_bad_image=skip\n")
    assert everything_in(tmp_path) == before


def test_no_remedy_is_said_that_was_taken(predict, tmp_path):
    (tmp_path / "a.png").write_text("")
    for words in (["a.png"], ["no.png"], ["a.png", "no.png"]):
        code, _, err = predict(*words, "on_bad_image=skip")
        assert code == 2 and err.endswith("None is left to predict: give images that can be read\n")


def test_skipped_files_stand_in_lines_of_json(predict, pool, tmp_path):
    (tmp_path / "a.png").write_text("")
    code, out, err = predict("a.png", "b.png", pool / "cat", "json=true", "on_bad_image=skip")
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[0] == {"path": "a.png", "error": "the file is empty (0 bytes)"}
    assert lines[1]["error"].startswith("no such file")
    assert all(set(line) == {"path", "predictions"} for line in lines[2:]) and len(lines) == 16
    assert err.startswith("2 cannot be read and were left out:\n  a.png: the file is empty")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.png", "output=p.txt"], "output=p.txt: the suffix says in what form predictions are "),
        (["a.png", "output=p"], "output=p: the suffix says in what form"),
        (["a.png", "output=d.csv"], "output=d.csv is a folder: give the name of a file in it"),
        (["a.png", "every=1m"], "every=1m: expected seconds (every=1s, every=0.5s) or a number "),
        (["a.png", "every=0s"], "every=0s: expected seconds"),
        (["a.png", "every=0"], "every=0: expected seconds"),
        (["a.png", "every=-1s"], "every=-1s: expected seconds"),
        (["a.png", "every=0.5"], "every=0.5: expected seconds"),
        (["no.png", "on_bad_image=skip"], "1 images cannot be read:\n  no.png: no such file"),
        (["a.png", "on_bad_image=skip"], "1 images cannot be read:\n  a.png: this is no image"),
        (
            ["list=./l.csv", "output=l.csv"],
            "output=l.csv is the list of files itself: give another",
        ),
        (["d.csv"], "d.csv: no images; ignored: 1 .txt. Images are "),
        (["v.mp4"], "v.mp4 is a video: say how often it is looked at with every=1s"),
        (["a.png", "every=1s"], "every= says how often a video is looked at, and there is no vid"),
        (["a.png", "on_bad_image=no"], "on_bad_image=no: expected one of error, skip"),
    ],
)
def test_what_is_refused(predict, words, message, tmp_path, everything_in):
    Path("d.csv").mkdir()
    for name in ("a.png", "d.csv/x.txt", "v.mp4"):
        (tmp_path / name).write_text("neither an image nor a video")
    before = everything_in(tmp_path)
    code, out, err = predict(*words)
    assert (code, out) == (2, "")
    assert f"error: {message}" in err
    assert everything_in(tmp_path) == before


def test_missing_libraries_are_named(monkeypatch):
    whole = builtins.__import__

    def refuse(name, *rest):
        if name.startswith(("pyarrow", "torchcodec")):
            raise ImportError(f"no {name}")
        return whole(name, *rest)

    for name in [name for name in sys.modules if name.startswith(("pyarrow", "torchcodec"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r"needs pyarrow: pip install 'clip-adapt\[parquet\]'"):
        parse_output("p.parquet")
    with pytest.raises(InputError, match="torchcodec, which cannot be loaded here \\(no torchcod"):
        frames.find_decoder.__wrapped__()


def test_probabilities_are_those_of_evaluate(pool, tiny_backbone):
    paths = list_paths(pool)
    items = [Item(path, 0) for path in paths]
    torch.manual_seed(0)
    for name, options in (("coop", {"n_ctx": 2}), ("tip_adapter", {}), ("lora", {})):
        method = find_method(name).cls(tiny_backbone, Task(tuple(CLASSES), shots=3), **options)
        z = torch.nn.functional.normalize(torch.randn(9, 16), dim=1)
        method.fit(z, torch.arange(9) % 3)
        model = Classifier(method, temperature=1.7, guard=0.3)
        expected = compute_probabilities(model, items, FeatureCache(None)).tolist()
        for part in (paths, paths[:33], paths[40:]):
            found = [list(p.probabilities) for p in model.predict_files(part)]
            wanted = [expected[paths.index(path)] for path in part]
            # To the last bit, but for a tower that evaluate does not fill up.
            if name == "coop":
                assert found == wanted
            # Evaluate does not fill up a batch of pixels, and compares all features at once.
            assert np.abs(np.array(found) - np.array(wanted)).max() < 3e-7


def test_one_image_alone_has_the_probabilities_that_it_has_among_others(model, pool):
    paths = list_paths(pool)
    together = [p.probabilities for p in model.predict_files(paths)]
    alone = [next(model.predict_files([path])).probabilities for path in paths[:5]]
    assert alone == together[:5]
    quick = [p.probabilities for p in model.predict_files(paths[:3], filled=False)]
    assert np.array(quick) == pytest.approx(np.array(together[:3]), abs=1e-5)
    z = torch.nn.functional.normalize(torch.randn(50, 16), dim=1)
    whole = model.logits_of_features(z)
    assert all(torch.equal(model.logits_of_features(z[i : i + 1])[0], whole[i]) for i in range(50))


def test_python_streams_files_and_says_what_is_wrong(model, pool, tmp_path):
    good = list_paths(pool)[0]
    (tmp_path / "bad.png").write_text("no image")
    first, second = model.predict_files([Path(good), "bad.png"], top_k=1, on_bad_image="skip")
    assert first.ranking == model.predict(good, top_k=1) or first.ranking[0][1] == pytest.approx(
        model.predict(good, top_k=1)[0][1], abs=1e-5
    )
    assert (second.path, second.ranking) == ("bad.png", [])
    assert second.error == "this is no image that can be read"
    with pytest.raises(InputError, match=r"bad\.png: this is no image"):
        list(model.predict_files(iter(["bad.png"])))
    names = [p.path for p in model.predict_files(pool / "cat")]  # a folder
    assert names == list_paths(pool / "cat")
    assert [p.path for p in model.predict_files(f"{pool}/*/13.png")] == sorted(
        map(str, pool.glob("*/13.png"))
    )
    with pytest.raises(InputError, match="top_k=0: expected a whole number"):
        next(model.predict_files([good], top_k=0))
    with pytest.raises(InputError, match="every=x: expected seconds"):
        next(model.predict_files([good], every="x"))
    with pytest.raises(InputError, match="on_bad_image=raise: expected one of error, skip"):
        next(model.predict_files([good], on_bad_image="raise"))


@pytest.mark.parametrize("count", [200, 600])
def test_no_more_views_are_held_when_there_are_more_files(model, pool, count, monkeypatch):
    alive, most, lock = weakref.WeakSet(), [0], threading.Lock()
    make = view_stream.make_centre_view

    def note(backbone, image):
        pixels = make(backbone, image)
        with lock:
            alive.add(pixels)
            most[0] = max(most[0], len(alive))
        return pixels

    monkeypatch.setattr(view_stream, "make_centre_view", note)
    monkeypatch.setattr(bulk.features, "choose_batch_size", lambda device: 4)
    path, read = list_paths(pool)[0], []

    def walk():
        for index in range(count):
            read.append(index)
            yield path

    for index, _ in enumerate(model.predict_files(walk())):
        assert len(read) <= index + 4 * 4 + 1  # nor is the list of paths read ahead
    assert index == count - 1 and most[0] <= 4 * 4


@pytest.mark.parametrize("method", ["zero_shot", "lora", "tip_adapter"])
def test_parts_of_processes_make_the_rows_of_one(method, tiny_backbone, pool, monkeypatch):
    made = find_method(method).cls(tiny_backbone, Task(tuple(CLASSES), shots=3))
    z = torch.randn(9, 16, generator=torch.Generator().manual_seed(1))
    made.fit(torch.nn.functional.normalize(z, dim=1), torch.arange(9) % 3)
    model = Classifier(made)
    paths = [*list_paths(pool), *list_paths(pool)[:3]]
    options = {"top_k": 3, "score": "lac", "every": None, "filled": True}
    alone = list(predicting._share(model, paths, options))

    def share(work, items):
        parts = [work(items[rank::3]) for rank in range(3)]
        return [parts[i % 3][i // 3] for i in range(len(items))]

    monkeypatch.setattr(predicting.processes, "count_processes", lambda: 3)
    monkeypatch.setattr(predicting.processes, "share_work", share)
    monkeypatch.setattr(bulk.features, "choose_batch_size", lambda device: 4)
    assert list(predicting._share(model, paths, options)) == alone
    assert len(alone) == 42


WORKER = """
import sys
from clip_adapt import cli
from clip_adapt.inputs import features
features.choose_batch_size = lambda device: 4
sys.exit(cli.run("predict", sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_launch_writes_the_file_of_one_process(pool, tiny_model, tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    (tmp_path / "bad.png").write_text("no image")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = [str(pool), ASKED, f"model={tiny_model}", "device=cpu"]
    said = {}
    for name, start in (("one", []), ("two", launcher)):
        for kind, more in (("csv", []), ("jsonl", ["bad.png", "on_bad_image=skip"])):
            command = [sys.executable, *start, "worker.py", *words, *more]
            done = subprocess.run(
                [*command, f"output={name}.{kind}"],
                env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            said[name, kind] = done.stdout + done.stderr
    for kind in ("csv", "jsonl"):
        one, two = (Path(f"{name}.{kind}").read_bytes() for name in ("one", "two"))
        assert one == two and one.count(b"\n") > 42
        assert said["two", kind].count("42 images") == 1
    assert said["two", "jsonl"].count("bad.png: this is no image") == 1
    refused = subprocess.run(
        [sys.executable, *launcher, "worker.py", *words, "bad.png", "output=no.csv"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert refused.returncode != 0 and not Path("no.csv").exists()
    assert refused.stderr.count("error: 1 images cannot be read") == 1


def test_names_of_any_kind_are_written(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    names = ["bad\udcff.png", "two\nlines.png", "=1.png", "\x1b[2J.png", 'a,"b.png', "a\rb.png"]
    for suffix in ("csv", "jsonl", "parquet"):
        path = tmp_path / f"p.{suffix}"
        with open_output(path, PredictionTable(["a", "b"], with_error=True)) as write:
            for name in names:
                write(Prediction(name, [("a", 0.75)], probabilities=(0.75, 0.25)))
    shown = [name.replace("\udcff", "\\udcff") for name in names]
    cells = [row["path"] for row in read_rows(tmp_path / "p.csv")]
    assert cells == [name.replace("=1", "'=1") for name in shown]
    lines = (tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["path"] for line in lines] == names
    assert parquet.read_table(tmp_path / "p.parquet")["path"].to_pylist() == shown
    assert "\x1b" not in "".join(lines)


def test_an_output_that_fails_leaves_what_was_there(tmp_path, everything_in):
    (tmp_path / "p.csv").write_text("older")
    with (
        pytest.raises(KeyboardInterrupt),
        open_output(tmp_path / "p.csv", PredictionTable(["a"])) as write,
    ):
        write(Prediction("x", [("a", 1.0)], probabilities=(1.0,)))
        raise KeyboardInterrupt
    assert everything_in(tmp_path) == ["p.csv"]
    assert (tmp_path / "p.csv").read_text() == "older"


class GreyVideo:
    """Stands for torchcodec's decoder where FFmpeg is missing: three seconds of eight frames."""

    def __init__(self, source):
        if not Path(source).read_bytes().startswith(b"grey"):
            raise ValueError("no video stream found")
        self.damaged = b"damaged" in Path(source).read_bytes()
        self.metadata = SimpleNamespace(
            num_frames=24, begin_stream_seconds=0.0, end_stream_seconds=3.0
        )

    def get_frame_at(self, index):
        if self.damaged and index >= 20:
            raise RuntimeError("cannot decode")
        data = torch.full((3, 64, 64), 10 * index, dtype=torch.uint8)
        return SimpleNamespace(data=data, pts_seconds=index / 8)

    def get_frame_played_at(self, seconds):
        return self.get_frame_at(int(seconds * 8 + 1e-9))


@pytest.fixture
def video(tmp_path_factory, monkeypatch):
    """A video of three seconds at eight frames a second, each frame of its own grey."""
    path = tmp_path_factory.mktemp("video") / "scan.mp4"
    levels = torch.arange(24, dtype=torch.uint8).mul(10).view(24, 1, 1, 1)
    try:
        from torchcodec.encoders import VideoEncoder

        VideoEncoder(levels.expand(24, 3, 64, 64).contiguous(), frame_rate=8).to_file(path)
    except (ImportError, OSError, RuntimeError):
        path.write_bytes(b"grey")
        for module in (frames, predicting):
            monkeypatch.setattr(module, "find_decoder", lambda: GreyVideo)
    return path


@pytest.mark.parametrize(
    ("every", "times"),
    [
        ("1s", [0, 1, 2]),
        ("0.5s", [0, 0.5, 1, 1.5, 2, 2.5]),
        ("0.05s", [i / 8 for i in range(24)]),
        ("100s", [0]),
        ("10", [0, 1.25, 2.5]),
        ("1", [i / 8 for i in range(24)]),
    ],
)
def test_a_video_is_looked_at_every_so_often(model, video, every, times, monkeypatch):
    seen = []
    make = view_stream.make_centre_view

    def note(backbone, image):
        seen.append(image.float().mean().item())
        return make(backbone, image)

    monkeypatch.setattr(view_stream, "make_centre_view", note)
    found = list(model.predict_files([video], every=every))
    assert [p.time for p in found] == pytest.approx(times)
    assert {p.path for p in found} == {str(video)}
    assert seen == pytest.approx([80 * time for time in times], abs=4)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("v.mp4", "this is no video that can be read ("), ("no.mp4", "no such file")],
)
def test_what_is_no_video_is_refused(predict, video, name, reason, tmp_path):
    (tmp_path / "v.mp4").write_text("no video")
    code, out, err = predict(name, video, "every=1s", "output=p.csv")
    assert (code, out) == (2, "") and not Path("p.csv").exists()
    assert f"error: 1 images cannot be read:\n  {name}: {reason}" in err


def test_videos_and_images_in_one_table(predict, video, pool, tmp_path):
    (tmp_path / "bad.mov").write_text("no video")
    picture = list_paths(pool)[0]
    code, out, err = predict(
        picture, "bad.mov", video.parent, "every=1s", "output=p.csv", "on_bad_image=skip"
    )
    assert code == 0, err
    rows = read_rows("p.csv")
    assert [(row["path"], row["time"]) for row in rows] == [
        (picture, ""),
        ("bad.mov", ""),
        *((str(video), str(float(second))) for second in range(3)),
    ]
    assert rows[1]["error"].startswith("this is no video that can be read (")
    assert "4 images, 1 left out" in out
    code, out, _ = predict(video, "every=2s")
    assert code == 0 and f"{video} at 0 s\n" in out and f"{video} at 2 s\n" in out
    code, out, _ = predict(video, "every=2s", "json=true")
    assert [json.loads(line)["time"] for line in out.splitlines()] == [0, 2]


def test_a_broken_frame_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr(frames, "find_decoder", lambda: GreyVideo)
    (tmp_path / "cut.mp4").write_bytes(b"grey, damaged")
    found = list(model.predict_files(["cut.mp4"], every="4", on_bad_image="skip"))
    assert [p.time for p in found] == [0, 0.5, 1, 1.5, 2, None]
    assert found[-1].error == "frame 20 is damaged (cannot decode)"
    with pytest.raises(InputError, match=r"cut.mp4: frame at 2.5 s is damaged"):
        list(model.predict_files(["cut.mp4"], every="0.5s"))


def test_libraries_that_are_looked_for_late_are_named(monkeypatch):
    decoders = pytest.importorskip("torchcodec.decoders")

    def refuse(source):
        raise RuntimeError("Could not load libtorchcodec. Likely causes: many")

    monkeypatch.setattr(decoders, "VideoDecoder", refuse)
    with pytest.raises(
        InputError, match=r"cannot be loaded here \(Could not load libtorchcodec\):"
    ):
        frames.find_decoder.__wrapped__()


def test_pictures_of_many_sizes_go_together(model, tmp_path):
    for index, size in enumerate([(40, 40), (90, 30), (31, 200), (5, 5)]):
        Image.new("L", size, 40 * index).save(tmp_path / f"{index}.jpg")
    found = list(model.predict_files(sorted(tmp_path.glob("*.jpg"))))
    assert [Path(p.path).name for p in found] == [f"{i}.jpg" for i in range(4)]
    assert all(sum(p.probabilities) == pytest.approx(1, abs=1e-6) for p in found)
