"""Files of somebody else's run no code and choose nothing that is opened or fetched."""

from __future__ import annotations

import json

import huggingface_hub
import pytest
from deltas import rewrite_delta
from html_page import Page
from PIL import Image

import clip_adapt
from clip_adapt.adapted import delta
from clip_adapt.config import values, yamls
from clip_adapt.data import catalog
from clip_adapt.data.task import Task
from clip_adapt.errors import InputError
from clip_adapt.method.finding import find_method
from clip_adapt.objectives._finding import find_installed_objective
from clip_adapt.pages import pictures
from clip_adapt.runs.configuration import compose

EVIL = "from pathlib import Path\nPath('ran').touch()\n"


@pytest.fixture
def evil(tmp_path):
    """A Python file that leaves the file ``ran`` here when it is imported."""
    path = tmp_path / "downloaded" / "adapter" / "evil.py"
    path.parent.mkdir(parents=True)
    path.write_text(EVIL)
    return path


@pytest.fixture
def saved(tiny_backbone, tmp_path):
    """A function that saves a delta whose header is changed: its folder."""

    def save(method=(), backbone=()):
        folder = tmp_path / "downloaded" / "adapter"
        found = find_method("zero_shot")
        made = found.cls(tiny_backbone, Task(("cat", "dog")))
        header = delta.describe(found, made, dataset="toy")
        delta.save(folder, made, header, "# a card\n")
        file = folder / delta.FILE

        def change(text):
            held = json.loads(text)
            held["method"] |= dict(method)
            held["backbone"] |= dict(backbone)
            return json.dumps(held)

        rewrite_delta(file, change)
        return folder

    return save


@pytest.mark.parametrize("key", ["name", "base"])
def test_a_delta_that_names_a_python_file_runs_nothing(
    evil, saved, tmp_path, run_cli, animals, tiny_model, tiny_backbone, key
):
    folder = saved(method={key: "downloaded/adapter/evil.py"})
    picture = animals / "test" / "cat" / "0.png"
    for words in (
        ("predict", folder, picture, f"model={tiny_model}"),
        ("evaluate", folder, f"dataset={animals}", f"model={tiny_model}"),
    ):
        code, _, err = run_cli(*words)
        assert code == 2
        assert "was made by a method that is not installed: unknown method 'downloaded/" in err
    with pytest.raises(InputError, match="a method that is not installed"):
        clip_adapt.load(folder, backbone=tiny_backbone)
    assert not (tmp_path / "ran").exists()


def test_names_out_of_files_are_installed_names(evil, tmp_path, animals):
    card = tmp_path / "card.yaml"
    card.write_text(f"name: foreign\nsource: {evil}\nroot: {animals}\n")
    with pytest.raises(InputError, match=r"a Python file, which would be run. If you trust it"):
        catalog.find_dataset(str(card))
    with pytest.raises(InputError, match="unknown objective"):
        find_installed_objective(str(evil))
    own = tmp_path / "own.py"
    own.write_text("from clip_adapt import Method\nclass Own(Method):\n    pass\n")
    (tmp_path / "own.yaml").write_text(f"metrics: [{evil}]\n")
    with pytest.raises(InputError, match=r"own\.yaml: metrics names the Python file .*evil\.py"):
        compose({"method": str(own), "dataset": str(animals)})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "backbone",
    [
        {"name": "ViT-B-32", "architecture": "hf-hub:someone/thing", "pretrained": None},
        {"name": "x", "architecture": "ViT-B-32", "pretrained": "hf-hub:someone/thing"},
        {"name": "hf-hub:someone/thing", "architecture": "hf-hub:someone/thing"},
    ],
)
def test_a_delta_chooses_nothing_that_is_fetched(
    saved, backbone, run_cli, animals, tiny_model, monkeypatch, tmp_path
):
    monkeypatch.setenv("CLIP_ADAPT_CACHE", str(tmp_path / "own cache"))  # which knows no backbone
    asked = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: asked.append(a))
    folder = saved(backbone=backbone)
    picture = animals / "test" / "cat" / "0.png"
    with pytest.raises(InputError) as caught:
        clip_adapt.load(folder)
    for part in (backbone["name"], backbone["architecture"], "because a delta names it", "model="):
        assert part in str(caught.value)
    assert run_cli("predict", folder, picture)[0] == 2
    assert run_cli("evaluate", folder, f"dataset={animals}")[0] == 2
    assert asked == []
    code, _, err = run_cli("predict", folder, picture, f"model={tiny_model}")
    assert code == 0, err


def test_a_card_that_ships_is_loaded_by_its_name_alone(saved, monkeypatch):
    loaded = []

    def watch(cls, card, **options):
        loaded.append(card)
        raise InputError("far enough")

    monkeypatch.setattr("clip_adapt.backbone.backbone.Backbone.from_card", classmethod(watch))
    folder = saved(backbone={"name": "vit-b-32", "architecture": "hf-hub:a/b", "pretrained": "/c"})
    with pytest.raises(InputError, match="far enough"):
        clip_adapt.load(folder)
    (card,) = loaded
    assert (card.architecture, card.pretrained) == ("ViT-B-32-quickgelu", "openai")
    assert card.image_size == 32


def test_a_backbone_is_given_once(saved, tiny_backbone, tiny_model):
    with pytest.raises(InputError, match="are both given: keep one of them"):
        clip_adapt.load(saved(), backbone=tiny_backbone, model=tiny_model)


def test_cards_and_command_lines_read_no_environment(tmp_path, animals, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    word = "${oc.env:HF_TOKEN}"
    card = tmp_path / "card.yaml"
    held = {"name": "toy", "source": "folder", "root": str(animals), "licence": word}
    card.write_text(json.dumps({**held, "templates": [f"{word} {{}}", "a ${ {}", "a \\${x} {}"]}))
    model = tmp_path / "model.yaml"
    model.write_text(f"architecture: ViT-B-32\npretrained: random\nlicence: {word}\n")
    config = compose({"dataset": str(card), "model": str(model), "output": f"out/{word}"})
    assert (config.dataset.licence, config.model.licence) == (word, word)
    assert config.dataset.templates == [f"{word} {{}}", "a ${ {}", "a \\${x} {}"]
    text = config.to_yaml()
    assert "hf_secret" not in text
    read = yamls.parse_yaml(text)
    assert (read["dataset"]["licence"], read["output"]) == (word, f"out/{word}")
    assert values.parse(word) == word and values.parse("a: ${x}") == "a: ${x}"


@pytest.fixture
def run_folder(train_tiny, animals, tmp_path):
    """The folder of a finished run, and a private picture that it never saw."""
    code, _, err = train_tiny(animals, "method=zero_shot", "epochs=0")
    assert code == 0, err
    Image.new("RGB", (50, 50), "teal").save(tmp_path / "private.png")
    return tmp_path / "out", tmp_path / "private.png"


def list_pictures(folder):
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    return [image["src"] for image in page.all("img")]


def test_a_page_shows_only_pictures_that_the_run_saw(run_folder, run_cli, animals, tmp_path):
    folder, private = run_folder
    before = list_pictures(folder)
    assert len(before) > 12
    stolen = pictures._make_thumbnail(str(private))
    link = tmp_path / "link.png"
    link.symlink_to(private)
    config = yamls.read_yaml(folder / "config.yaml")
    config["dataset"]["root"] = "/"  # so that every file lies below the run's data
    (folder / "config.yaml").write_text(yamls.dump_yaml(config))
    table = (folder / "predictions.csv").read_text()
    code, _, err = run_cli("report", folder)
    assert (code, list_pictures(folder)) == (0, before)
    for number, path in enumerate(
        (private, link, tmp_path / "none.png", "/dev/zero", "/proc/self")
    ):
        lines = table.splitlines()
        lines = [lines[0], *(f"{path},{line.partition(',')[2]}" for line in lines[1:])]
        (folder / "predictions.csv").write_text("\n".join(lines) + "\n")
        rows = (folder / "support.jsonl").read_text().splitlines()
        held = [json.loads(row) | ({"path": str(path)} if number % 2 else {}) for row in rows]
        (folder / "support.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
        code, _, err = run_cli("report", folder)
        assert code == 0, err
        assert stolen not in list_pictures(folder)
    assert len(list_pictures(folder)) < len(before)


def test_files_of_a_run_that_lead_elsewhere_are_not_put_on_a_page(run_folder, run_cli, tmp_path):
    folder, _ = run_folder
    secret = tmp_path / "secret"
    secret.write_text("password: 1234\nmethod: {name: a}\ndataset: {name: b}\nmodel: {name: c}\n")
    (folder / "curve.svg").symlink_to(secret)
    (folder / "inner").mkdir()
    for name in ("config.yaml", "metrics.json"):
        (folder / "inner" / name).write_bytes((folder / name).read_bytes())
    (folder / "config.yaml").unlink()
    code, _, err = run_cli("report", folder)
    assert code == 2 and "curve.svg is a link that leads out of its folder" in err
    (folder / "config.yaml").symlink_to(secret)
    code, _, err = run_cli("report", folder)
    assert code == 2 and "config.yaml is a link that leads out of its folder" in err
