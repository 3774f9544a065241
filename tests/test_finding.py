"""Methods from everywhere: a user's file, an installed package, a YAML that names a file."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from deltas import rewrite_delta

import clip_adapt
from clip_adapt.adapted import delta
from clip_adapt.config import cards
from clip_adapt.data.task import Task
from clip_adapt.errors import InputError
from clip_adapt.evaluation import resampling
from clip_adapt.method.finding import find_method, list_methods
from clip_adapt.runs.configuration import compose

OWN = """
import torch
from clip_adapt import Method


class Own(Method):
    '''A scale of its own.'''
{recipe}
    def __init__(self, backbone, task, *, power: float = 1.0):
        super().__init__(backbone, task)
        self.power = power
        self.scale = torch.nn.Parameter(torch.ones(()))

    def logits(self, z, w):
        return self.scale**self.power * super().logits(z, w)
"""


@pytest.fixture
def own(tmp_path):
    """A function that writes a method of one's own: its path."""

    def write(recipe="", name="own.py"):
        path = tmp_path / name
        path.write_text(OWN.format(recipe=f"\n    recipe = {recipe}\n" if recipe else ""))
        return path

    return write


def test_a_file_is_run_once_and_again_when_it_has_changed(own, tmp_path, monkeypatch):
    path = own()
    first = find_method(str(path))
    assert (first.name, first.file, first.card) == ("own", path, None)
    monkeypatch.chdir(tmp_path)
    assert find_method("own.py").cls is first.cls
    path.write_text(path.read_text().replace("1.0", "2.0"))
    os.utime(path, ns=(1, 1))
    assert find_method("own.py").cls is not first.cls


def test_a_users_method_trains_side_by_side(own, animals, tiny_model, run_cli, monkeypatch):
    monkeypatch.setattr(resampling, "RESAMPLES", 20)
    words = [f"method={own()}", f"dataset={animals}", f"model={tiny_model}", "seed=[1,2]"]
    more = ["shots=2", "epochs=2", "lr=[0.01,0.05]", "tensorboard=false", "output=out"]
    code, out, err = run_cli("sweep", *words, *more)
    assert code == 0, err
    assert out.count("(its share of 4 trained side by side)") == 4


def test_a_recipe_stands_in_the_class_or_beside_the_file(own, tmp_path):
    path = own('{"epochs": 3, "lr": 0.5, "method": {"power": 2.0}}')
    config = compose({"method": str(path), "lr": 0.25})
    assert (config.options.epochs, config.options.lr) == (3, 0.25)
    assert config.method_options == {"power": 2.0}
    (tmp_path / "own.yaml").write_text("epochs: 4\nmethod:\n  power: 3.0\n")
    config = compose({"method": str(path)})
    assert (config.options.epochs, config.method_options["power"]) == (4, 3.0)


def test_a_word_of_a_recipe_that_is_no_option_is_refused(own, tmp_path):
    with pytest.raises(InputError, match=r"^unknown option 'epoch' in Own\.recipe.*epochs"):
        compose({"method": str(own('{"epoch": 3}'))})
    (tmp_path / "own.yaml").write_text("file: coop\n")
    with pytest.raises(InputError, match=r"unknown option 'file' in .*own\.yaml"):
        compose({"method": str(own())})


# Installed


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that puts a distribution with an entry point on the path."""

    def put(value):
        info = tmp_path / "others-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[clip_adapt.methods]\nafar = {value}\n")
        (tmp_path / "others_of_a_test.py").write_text(OWN.format(recipe=""))
        (tmp_path / "afar.yaml").write_text("epochs: 6\nmethod:\n  power: 2.0\n")
        monkeypatch.syspath_prepend(tmp_path)

    yield put
    sys.modules.pop("others_of_a_test", None)


@pytest.mark.parametrize("value", ["others_of_a_test:Own", "others_of_a_test"])
def test_an_installed_method_is_found(install, value, tiny_backbone, tmp_path):
    install(value)
    assert "afar" in list_methods()
    found = find_method("afar")
    assert (found.cls.__name__, found.file, found.card) == ("Own", None, tmp_path / "afar.yaml")
    config = compose({"method": "afar"})
    assert (config.options.epochs, config.method_options) == (6, {"power": 2.0})
    made = found.cls.build(tiny_backbone, Task(("cat", "dog")), {"power": 3.0})
    delta.save(tmp_path / "a", made, delta.describe(found, made), "")
    assert clip_adapt.load(tmp_path / "a", backbone=tiny_backbone).method.power == 3.0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("others_of_a_test:torch", "torch.*define exactly one|subclass of Method"),
        ("others_of_a_test:Missing", "'afar' .*fails on import"),
    ],
)
def test_an_installed_thing_that_is_no_method_is_refused(install, value, message):
    install(value)
    with pytest.raises(InputError, match=message):
        find_method("afar")


# A YAML that names a file


@pytest.fixture
def variant(tmp_path, monkeypatch):
    """A function that adds short_coop.yaml to the methods' configurations; one that takes it away.

    The folder is a copy, so nothing ships for a test.
    """
    folder, real = tmp_path / "method", cards._locate_folder
    shutil.copytree(real("method"), folder)

    def add(text):
        (folder / "short_coop.yaml").write_text(text)
        there = monkeypatch.context()
        there.__enter__().setattr(
            cards, "_locate_folder", lambda group: folder if group == "method" else real(group)
        )
        return lambda: there.__exit__(None, None, None)

    return add


SHORT = """# Short CoOp.
file: coop
epochs: 1
method:
  n_ctx: 2     # learned vectors
"""


def test_a_yaml_is_a_method_of_its_own(variant, animals, tiny_model, run_cli, monkeypatch):
    monkeypatch.setattr(resampling, "RESAMPLES", 20)
    take_away = variant(SHORT)
    assert "short_coop" in list_methods()
    _, out, _ = run_cli("train", "--help")
    assert "  short_coop             Short CoOp." in out and "method.n_ctx=2" in out
    config = compose({"method": "short_coop"})
    assert (config.options.epochs, config.method_options["n_ctx"]) == (1, 2)
    assert config.method.cls is find_method("coop").cls
    words = ["method=short_coop", f"dataset={animals}", f"model={tiny_model}", "shots=2"]
    code, out, err = run_cli("train", *words, "tensorboard=false", "output=out")
    assert code == 0, err
    header, tensors = delta.read(Path("out/adapter") / delta.FILE)
    assert (header.method["name"], header.method["base"]) == ("short_coop", "coop")
    assert tensors["ctx"].shape[0] == 2
    for there in (True, False):  # the delta loads where the YAML is not, too
        if not there:
            take_away()
            assert "short_coop" not in list_methods()
        code, _, err = run_cli("evaluate", "model=tiny.yaml", "out/adapter", f"dataset={animals}")
        assert code == 0, err
        code, out, err = run_cli(
            "predict", "model=tiny.yaml", "out/adapter", animals / "test/cat/0.png"
        )
        assert code == 0 and "cat" in out, err


@pytest.mark.parametrize("text", ["epochs: 3\n", "file: coopp\n", "file: short_coop\n"])
def test_a_yaml_that_configures_nothing_is_refused(variant, text):
    take_away = variant(text)
    with pytest.raises(InputError, match=r"short_coop\.yaml says file: .*one of adapter, cocoop"):
        find_method("short_coop")
    with pytest.raises(InputError, match=r"unknown method 'shrt_coop'.*short_coop"):
        find_method("shrt_coop")
    take_away()


# Former names


def test_a_former_name_is_refused_with_the_present_one():
    with pytest.raises(InputError) as caught:
        compose({"method": "adapter", "method.on": "both", "calibration": 5})
    assert str(caught.value).splitlines() == [
        "method.on is now method.side",
        "calibration is now conformal_images",
    ]


def test_a_delta_with_a_former_name_loads(tmp_path, tiny_backbone):
    found = find_method("adapter")
    made = found.cls.build(tiny_backbone, Task(("cat", "dog")), {"side": "both", "depth": 1})
    file = delta.save(tmp_path / "a", made, delta.describe(found, made), "")
    rewrite_delta(file, lambda text: text.replace('"side": "both"', '"on": "both"'))
    model = clip_adapt.load(tmp_path / "a", backbone=tiny_backbone)
    assert model.method.options["side"] == "both" and "on" not in model.method.options
    z = torch.randn(2, tiny_backbone.embed_dim)
    assert torch.equal(model.method(z), made.eval()(z))
    assert model.for_classes(["owl", "yak"]).method.options["side"] == "both"
