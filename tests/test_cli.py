"""Command lines from end to end: what a run writes, prints and repeats."""

import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from clip_adapt import adapt, cli
from clip_adapt.cli import words
from clip_adapt.config import cards, yamls
from clip_adapt.data.dataset import Dataset
from clip_adapt.data.task import Task
from clip_adapt.errors import InputError
from clip_adapt.method.contract import Method
from clip_adapt.system.files import hash_file
from clip_adapt.training.examples import Examples
from clip_adapt.training.loop import train
from clip_adapt.training.recipe import Recipe

ROOT = Path(__file__).parents[1]
CLASSES = ["cat", "dog", "eel"]
METRICS = [
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "cohen_kappa",
    "auroc",
    "average_precision",
    "ece",
    "brier",
    "nll",
]


@pytest.fixture
def trained(train_tiny, animals, tmp_path):
    """The folder of a finished run of CoOp, with what it printed."""
    code, out, err = train_tiny(animals, "method.n_ctx=2", "tensorboard=true")
    assert code == 0, err
    return tmp_path / "out", out


def tensors(file):
    """Return the tensors of a delta."""
    with safe_open(file, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


def rows_of(path):
    """Return the rows of a CSV file."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def require_interval(metric):
    assert sorted(metric) == ["high", "low", "value"]
    assert metric["low"] <= metric["value"] <= metric["high"]


def test_a_run_writes_every_file_and_no_other(trained, everything_in):
    folder, _ = trained
    found = everything_in(folder)
    events = [name for name in found if name.startswith("events.out.tfevents.")]
    assert len(events) == 1
    assert sorted(set(found) - set(events)) == [
        "adapter/README.md",
        "adapter/adapter.safetensors",
        "adapter/images_seen.safetensors",
        "config.yaml",
        "images.jsonl",
        "metrics.json",
        "predictions.csv",
        "report.html",
        "support.jsonl",
    ]


def test_the_metrics_of_a_run(trained):
    folder, _ = trained
    metrics = json.loads((folder / "metrics.json").read_text())
    for kind in ("test", "zero_shot"):
        assert list(metrics[kind]) == METRICS
        for name, metric in metrics[kind].items():
            require_interval(metric)
            if name not in ("cohen_kappa", "nll"):
                assert metric["low"] >= 0 and metric["high"] <= 1
    assert list(metrics["per_class"]) == CLASSES
    assert all(row["support"] == 6 for row in metrics["per_class"].values())
    assert [sum(row) for row in metrics["confusion"]] == [6, 6, 6]
    assert metrics["bootstrap"] == {"resamples": 20, "seed": 0, "unit": "image", "units": 18}
    assert (metrics["protocol"], metrics["temperature"]) == ("few_shot", 1)
    assert {"features", "fit", "total"} <= set(metrics["seconds"])
    assert all(seconds >= 0 for seconds in metrics["seconds"].values())
    assert metrics["trainable_parameters"] == 2 * 32
    assert metrics["adapter_bytes"] == (folder / "adapter/adapter.safetensors").stat().st_size
    assert metrics["peak_memory_bytes"] > 1e6
    assert metrics["n_test"] == 18
    assert metrics["n_support"] == 6
    (note,) = metrics["notes"]  # two epochs of a tiny CLIP
    assert note.startswith("this ends below zero-shot: accuracy ") and "method=auto" in note
    assert metrics["versions"]["torch"] == torch.__version__.split("+")[0]
    assert {"clip-adapt", "open_clip_torch", "peft", "accelerate"} <= set(metrics["versions"])


def test_the_predictions_of_a_run_are_those_of_its_accuracy(trained, animals):
    folder, _ = trained
    rows = rows_of(folder / "predictions.csv")
    assert list(rows[0]) == ["path", "label", "prediction", *(f"p:{name}" for name in CLASSES)]
    test = Dataset.load(animals).test
    assert [row["path"] for row in rows] == [item.path for item in test]
    assert [row["label"] for row in rows] == [CLASSES[item.label] for item in test]
    for row in rows:
        shares = {name: float(row[f"p:{name}"]) for name in CLASSES}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert shares[row["prediction"]] == max(shares.values())
    hits = sum(row["label"] == row["prediction"] for row in rows)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["test"]["accuracy"]["value"] == pytest.approx(hits / len(rows))


def test_the_support_set_of_a_run(trained, animals):
    folder, _ = trained
    data = Dataset.load(animals)
    text = (folder / "support.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert rows == data.few_shot(2, 1).manifest(CLASSES)
    assert {row["path"] for row in rows}.isdisjoint({item.path for item in data.test})
    header = json.loads(
        safe_open(folder / "adapter/adapter.safetensors", "pt").metadata()["clip_adapt"]
    )
    assert header["support_sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_the_configuration_of_a_run_opens_with_its_command(trained, animals, tiny_model):
    folder, _ = trained
    first, *_ = (folder / "config.yaml").read_text().splitlines()
    assert first.startswith(f"# python -m clip_adapt.train method=coop dataset={animals} model=")
    assert first.endswith("tensorboard=true output=out method.n_ctx=2")
    values = yamls.read_yaml(folder / "config.yaml")
    assert values["method"]["n_ctx"] == 2
    assert (values["shots"], values["seed"], values["epochs"]) == (2, 1, 2)
    assert values["model"]["name"] == tiny_model


def test_the_model_card_of_a_run(trained, tiny_backbone):
    text = (trained[0] / "adapter" / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: clip-adapt\n")
    for part in (
        "# coop on animals, 2 shots",
        f"fingerprint `{tiny_backbone.fingerprint[:16]}`",
        "- Classes: cat, dog, eel",
        "- Licence of the training images: not stated",
        "| zero-shot |",
        "| this delta |",
        "This is no medical device.",
    ):
        assert part in text


def test_what_a_run_prints(trained):
    _, out = trained
    for part in (
        "coop on animals, 2 shots, seed 1, backbone ",
        "method: n_ctx=2 csc=False position=end",
        "training: 2 epochs, sgd, lr 0.002, cosine, batches of 32, 1 view an image",
        "writes to out",
        "18 test images (95 % intervals)",
        "64 trainable parameters",
        "saved: out/adapter",
        "page:  out/report.html",
        "try:   python -m clip_adapt.predict out/adapter /",
    ):
        assert part in out


def test_a_run_without_output_lands_under_its_name(run_cli, animals, tiny_card, monkeypatch):
    monkeypatch.setattr("clip_adapt.evaluation.resampling.RESAMPLES", 20)
    words = (f"dataset={animals}", f"model={tiny_card.architecture}", "method=zero_shot")
    path = Path("tiny.yaml")
    path.write_text(f"architecture: {tiny_card.architecture}\npretrained: {tiny_card.pretrained}\n")
    code, _, err = run_cli("train", *words[:1], "model=tiny.yaml", words[2], "shots=1", "seed=0")
    assert code == 0, err
    assert Path("runs/animals/zero_shot-tiny.yaml-1shot-seed0/metrics.json").is_file()


def test_zero_shot_runs_without_training(train_tiny, animals, tmp_path):
    code, _, err = train_tiny(animals, "method=zero_shot", "epochs=0")
    assert code == 0, err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["trainable_parameters"] == 0
    assert metrics["test"] == metrics["zero_shot"]
    assert tensors(tmp_path / "out/adapter/adapter.safetensors") == {}


def test_evaluation_repeats_the_metrics_of_the_run(trained, run_cli, animals, tmp_path):
    folder, _ = trained
    words = ("evaluate", "model=tiny.yaml", folder / "adapter", f"dataset={animals}")
    code, out, err = run_cli(*words, "json=true", "output=again")
    assert code == 0, err
    result = json.loads(out)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {"test", "zero_shot", "difference", "per_class", "n_test"} <= set(result)
    images = {"split": "test", "found": 18, "measured": 18, "left_out": {}}
    assert result.pop("notes") == []  # what a run ends with is advice to who trains
    assert result == {key: metrics[key] for key in result if key != "images"} | {"images": images}
    assert json.loads((tmp_path / "again/metrics.json").read_text()) == {**result, "notes": []}
    assert rows_of(tmp_path / "again/predictions.csv") == rows_of(folder / "predictions.csv")
    code, out, _ = run_cli(*words)
    assert code == 0
    assert "18 test images (95 % intervals)" in out
    assert "zero-shot" in out and "adapted" in out


def test_evaluation_on_classes_that_the_delta_does_not_know(
    trained, run_cli, make_folder, tmp_path
):
    other = make_folder(tmp_path / "other", classes=("cat", "dgo"), per_class=2, seed=5)
    code, _, err = run_cli(
        "evaluate", "model=tiny.yaml", trained[0] / "adapter", f"dataset={other}"
    )
    assert code == 2
    assert err == (
        "error: the delta does not know these classes of the data set: 'dgo' - did you mean 'dog'? "
        'It knows: cat, dog, eel. Say which is which with dataset.classes="{theirs: ours}", or '
        "train anew.\n"
    )


def test_evaluation_maps_classes_by_name(trained, run_cli, make_folder, tmp_path):
    other = make_folder(tmp_path / "other", classes=("eel", "cat"), per_class=3, seed=5)
    code, out, err = run_cli(
        "evaluate",
        "model=tiny.yaml",
        trained[0] / "adapter",
        f"dataset={other}",
        "json=true",
        "output=again",
    )
    assert code == 0, err
    assert json.loads(out)["n_test"] == 6
    labels = [row["label"] for row in rows_of(tmp_path / "again/predictions.csv")]
    assert labels == ["cat"] * 3 + ["eel"] * 3


def test_prediction_in_lines_of_json(trained, run_cli, animals):
    folder, _ = trained
    paths = [animals / "test" / name / "0.png" for name in CLASSES]
    code, out, err = run_cli(
        "predict", "model=tiny.yaml", folder / "adapter", *paths, "json=true", "top_k=99"
    )
    assert code == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["path"] for line in lines] == [str(path) for path in paths]
    stored = {row["path"]: row for row in rows_of(folder / "predictions.csv")}
    for line in lines:
        shares = [p["probability"] for p in line["predictions"]]
        assert sum(shares) == pytest.approx(1, abs=1e-6)
        assert shares == sorted(shares, reverse=True)
        assert sorted(p["class"] for p in line["predictions"]) == CLASSES
        for entry in line["predictions"]:
            expected = float(stored[line["path"]][f"p:{entry['class']}"])
            assert entry["probability"] == pytest.approx(expected, abs=1e-4)


def test_predictions_of_a_folder_are_those_that_were_measured(trained, run_cli, animals):
    folder, _ = trained
    code, _, err = run_cli(
        "predict", "model=tiny.yaml", folder, animals / "test", "output=own/p.csv"
    )
    assert code == 0, err
    found = rows_of(Path("own/p.csv"))
    stored = {row["path"]: row for row in rows_of(folder / "predictions.csv")}
    assert len(found) == len(stored) == 18
    for row in found:
        measured = stored[row["path"]]
        assert row["label"] == measured["prediction"]
        assert {k: v for k, v in row.items() if k[:2] == "p:"} == {
            k: v for k, v in measured.items() if k[:2] == "p:"
        }


def test_prediction_as_a_table(trained, run_cli, animals):
    path = animals / "test" / "cat" / "0.png"
    code, out, _ = run_cli("predict", "model=tiny.yaml", trained[0] / "adapter", path, "top_k=2")
    assert code == 0
    assert out.splitlines()[0] == str(path)
    assert sum(name in out.partition("\n")[2] for name in CLASSES) == 2
    assert out.count("%") == 2


def test_prediction_lists_all_unreadable_images(trained, run_cli, animals, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    good = animals / "test" / "cat" / "0.png"
    code, out, err = run_cli("predict", trained[0] / "adapter", "a.png", good, "b.png")
    assert (code, out) == (2, "")
    assert "error: 2 images cannot be read:\n  a.png: the file is empty (0 bytes)\n" in err
    assert f"  b.png: no such file (looked at {tmp_path / 'b.png'})\n" in err
    assert err.endswith("Repair or remove them, or go on without them: on_bad_image=skip\n")


def test_prediction_from_class_names_alone(run_cli, animals, tiny_model):
    path = animals / "test" / "cat" / "0.png"
    words = (f"model={tiny_model}", "classes=[cat, 'red dog']", "json=true")
    results = []
    for own in ((), ("template=a photo of a {}.",), ("templates=['a {}', 'the {}']",)):
        code, out, err = run_cli("predict", path, *words, *own)
        assert code == 0, err
        (line,) = [json.loads(text) for text in out.splitlines()]
        results.append({p["class"]: p["probability"] for p in line["predictions"]})
        assert sum(results[-1].values()) == pytest.approx(1, abs=1e-6)
    assert sorted(results[0]) == ["cat", "red dog"]
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_the_same_seed_gives_the_same_delta(train_tiny, animals, tmp_path):
    deltas = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        code, _, err = train_tiny(animals, "method.n_ctx=2", f"seed={seed}", f"output={name}")
        assert code == 0, err
        deltas[name] = tensors(tmp_path / name / "adapter" / "adapter.safetensors")
    assert list(deltas["a"]) == ["ctx"]
    assert torch.equal(deltas["a"]["ctx"], deltas["b"]["ctx"])
    assert not torch.equal(deltas["a"]["ctx"], deltas["c"]["ctx"])


def test_the_seed_decides_the_start_values(train_tiny, animals, tmp_path):
    starts = []
    for name, seed in (("a", 1), ("b", 2)):
        code, _, err = train_tiny(animals, "epochs=0", f"seed={seed}", f"output={name}")
        assert code == 0, err
        starts.append(tensors(tmp_path / name / "adapter" / "adapter.safetensors")["ctx"])
    assert starts[0].shape == (16, 32)
    assert not torch.equal(*starts)


class Recording(Method):
    """Keep the labels of every batch that the loss sees."""

    def __init__(self, backbone, task):
        super().__init__(backbone, task)
        self.shift = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def logits(self, z, w):
        return super().logits(z, w) + self.shift

    def loss(self, logits, labels):
        self.seen += labels.tolist()
        return super().loss(logits, labels)


def test_the_seed_decides_the_order_of_the_batches(tiny_backbone):
    task = Task(tuple("abcdefgh"))
    examples = Examples(torch.eye(8, 16).unsqueeze(1), torch.arange(8))
    orders = []
    for seed in (1, 1, 2):
        method = Recording(tiny_backbone, task)
        train(method, examples, Recipe(epochs=2, batch_size=3, seed=seed))
        orders.append(method.seen)
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0][:8]) == list(range(8))
    assert orders[0][:8] != orders[0][8:]


def test_a_cache_changes_no_number(train_tiny, animals, tmp_path):
    for name, cache in (("cold", "true"), ("warm", "true"), ("live", "false")):
        words = (f"cache={cache}", f"cache_dir={tmp_path / 'kept'}", f"output={name}")
        code, _, err = train_tiny(animals, "method.n_ctx=2", "views=2", *words)
        assert code == 0, err
    files = [tmp_path / name / "adapter/adapter.safetensors" for name in ("cold", "warm", "live")]
    first, *others = [tensors(file)["ctx"] for file in files]
    assert all(torch.equal(first, other) for other in others)
    tables = [hash_file(tmp_path / name / "predictions.csv") for name in ("cold", "warm", "live")]
    assert len(set(tables)) == 1


def test_a_second_run_into_one_folder_replaces_the_first(trained, train_tiny, animals, tmp_path):
    folder, _ = trained
    first = hash_file(folder / "adapter/adapter.safetensors")
    code, _, err = train_tiny(animals, "method.n_ctx=2", "seed=2", "tensorboard=true")
    assert code == 0, err
    assert hash_file(folder / "adapter/adapter.safetensors") != first
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1


def test_the_dispatcher_without_a_verb_and_with_help(capsys):
    assert cli.main([]) == 2
    bare = capsys.readouterr().out
    assert cli.main(["--help"]) == 0
    assert capsys.readouterr().out == bare
    for verb, meaning in cli.VERBS.items():
        assert f"  {verb:<12}{meaning}" in bare.splitlines()


def test_the_dispatcher_with_an_unknown_verb(capsys):
    assert cli.main(["trian", "shots=1"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"error: unknown verb 'trian' - did you mean 'train'? There is: {', '.join(cli.VERBS)}.\n"
    )


def test_the_dispatcher_runs_a_verb(capsys):
    assert cli.main(["train", "shots=0"]) == 2
    assert capsys.readouterr().err == "error: shots=0: expected a whole number, at least 1\n"


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_lists_every_option_with_its_default(run_cli, verb):
    code, out, _ = run_cli(verb, "--help")
    assert code == 0
    assert out.startswith(f"usage: python -m clip_adapt.{verb} ")
    for key, default in yamls.read_yaml(ROOT / "configs" / f"{verb}.yaml").items():
        assert f"  {key}=" in out, (key, default)
    if verb == "train":
        for group in ("method", "model", "dataset"):
            assert all(f"  {name:<22} " in out for name in cards.list_cards(group))
        assert "    method.n_ctx=16" in out or "    n_ctx=16" in out


def run_python(*words):
    """Run Python in the checkout; return what it printed."""
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.stdout


LOADED = "import sys; print('torch' in sys.modules, 'open_clip' in sys.modules)"


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_does_not_import_torch(verb):
    code = f"from clip_adapt import cli; assert cli.run('{verb}', ['--help']) == 0; {LOADED}"
    assert run_python("-c", code).splitlines()[-1] == "False False"


def test_importing_the_package_does_not_import_torch():
    assert run_python("-c", f"import clip_adapt; dir(clip_adapt); {LOADED}") == "False False\n"


def test_a_word_that_is_a_file_is_no_option(tmp_path):
    (tmp_path / "shots=4.png").write_bytes(b"x")
    positional, given = words.split_words(["shots=4.png", "shots=4", "a=b=c", "--x=1", "eye.png"])
    assert positional == ["shots=4.png", "--x=1", "eye.png"]
    assert given == {"shots": "4", "a": "b=c"}


@pytest.mark.parametrize("place", ["lr=0.1/adapter", "--help/adapter", "out/adapter", "/a=b/c"])
def test_a_path_that_is_printed_is_read_as_one(place):
    word = words.write_path(Path(place))
    assert words.split_words([word]) == ([word], {})
    assert Path(word) == Path(place) and not word.startswith("-")


@pytest.mark.parametrize("name", ["output", "cache_dir"])
def test_a_path_with_a_nul_is_refused(animals, tiny_model, name):
    with pytest.raises(InputError, match="it holds a NUL"):
        adapt(animals, model=tiny_model, method="zero_shot", **{name: "a\0b"})
