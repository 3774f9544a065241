"""Objectives: found by name, asked by one pipeline; one of a user's own is a file."""

from __future__ import annotations

import ast
import importlib.metadata
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from clip_adapt.methods.adapter import Adapter

from clip_adapt import InputError, load
from clip_adapt.data.decoding import decode
from clip_adapt.data.task import Task
from clip_adapt.objectives import Objective, find_objective, list_objectives
from clip_adapt.runs.configuration import compose
from clip_adapt.system import plugins
from clip_adapt.training.examples import Examples
from clip_adapt.training.recipe import Recipe

ROOT = Path(__file__).parent.parent
TOY = ROOT / "docs" / "examples" / "neighbours.py"


def test_the_objectives_are_the_files_of_their_room():
    files = {p.stem for p in (ROOT / "clip_adapt" / "objectives").glob("[!_]*.py")}
    assert set(list_objectives()) == files >= {"classify", "contrastive"}
    for name in files:
        found = find_objective(name)
        assert (found.name, found.file) == (name, None)
        assert find_objective(name).objective is found.objective  # so configurations are equal


def test_an_unknown_objective_is_refused_with_what_there_is():
    with pytest.raises(InputError, match="unknown objective 'clasify' - did you mean 'classify'"):
        compose({"objective": "clasify", "dataset": "eyes"})


def test_no_other_module_asks_which_objective_runs():
    names = set(list_objectives())
    asked = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / "clip_adapt").rglob("*.py")
        if path.parent.name != "objectives"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare | ast.match_case)
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and part.value in names
    ]
    assert asked == []


def test_a_recipe_of_an_objective_stands_in_place_of_the_methods():
    recipe = find_objective("contrastive").read_recipe()
    assert recipe["optimizer"] == "adamw" and recipe["batch_size"] == 128
    assert find_objective("classify").read_recipe() == {}
    assert find_objective(str(TOY)).read_recipe() == {}


def test_a_data_set_that_gives_something_else_is_refused():
    with pytest.raises(InputError, match=r"dataset eyes has classes .*learns from captions"):
        compose({"objective": "contrastive", "dataset": "eyes", "method": "lora"})


def test_an_installed_package_brings_an_objective(tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text(
        "from clip_adapt.objectives import Objective\nclass Theirs(Objective):\n    pass\n"
    )
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[clip_adapt.objectives]\ntheirs = theirs:Theirs\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.metadata.MetadataPathFinder().invalidate_caches()
    assert "theirs" in list_objectives()
    assert isinstance(find_objective("theirs").objective, Objective)
    assert plugins.list_entry_points("clip_adapt.objectives")


# The toy objective of the documentation.


def test_the_example_is_small():
    assert len(TOY.read_text(encoding="utf-8").splitlines()) <= 150


def plain_loss(z, labels, scale):
    """The supervised contrastive loss, image by image."""
    losses = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        exponentials = {j: torch.exp(scale * z[i] @ z[j]) for j in others}
        total = sum(exponentials.values())
        same = [j for j in others if labels[j] == labels[i]]
        terms = [torch.log(exponentials[j] / total) for j in same]
        losses.append(-sum(terms) / len(same) if same else torch.zeros((), dtype=z.dtype))
    return sum(losses) / len(losses)


def test_the_loss_of_the_example_is_the_formula(double_backbone):
    toy = plugins.find_plugin(str(TOY), plugins.Kind("objective", ("objectives",), "", "")).content
    method = Adapter(double_backbone, Task(("a", "b", "c"))).double()
    labels = torch.tensor([0, 1, 0, 2, 1, 0])  # the only image of its class has no term
    z = F.normalize(torch.randn(6, double_backbone.embed_dim, dtype=torch.float64), dim=1)
    step = toy.NeighbourStep(method, Examples(z[:, None], labels), Recipe(epochs=1))
    loss, hits = step(z, labels)
    adapted = method.image_features(z)
    expected = plain_loss(adapted, labels, double_backbone.logit_scale)
    assert torch.allclose(loss, expected, rtol=1e-10)
    ours = torch.autograd.grad(loss, method.trainable(), retain_graph=True)
    plain = torch.autograd.grad(expected, method.trainable())
    assert all(
        torch.allclose(a, b, rtol=1e-8, atol=1e-12) for a, b in zip(ours, plain, strict=True)
    )
    nearest = (adapted @ adapted.T).fill_diagonal_(-2).argmax(1)
    assert float(hits) == float((labels[nearest] == labels).sum())


@pytest.fixture
def blurred(make_folder, tmp_path):
    """Three classes that the frozen features do not keep apart."""
    return make_folder(tmp_path / "blurred", per_class=8)


def test_the_example_trains_measures_and_saves(train_tiny, blurred, tiny_model):
    words = (f"objective={TOY}", "method=adapter", "lr=0.1", "epochs=30", "shots=8", "select=val")
    code, out, err = train_tiny(blurred, *words)
    assert code == 0, out + err
    assert "neighbour recall@1" in out
    metrics = json.loads(Path("out/metrics.json").read_text())
    assert metrics["objective"] == str(TOY) and metrics["n_test"] == 24
    assert metrics["curve"]["loss"][-1] < metrics["curve"]["loss"][0]
    assert "val_neighbour_recall@1" in metrics["curve"]
    model = load("out/adapter", model=tiny_model)
    paths = sorted(blurred.glob("test/*/*.png"))
    labels = np.array([path.parent.name for path in paths])
    pixels = torch.stack([model.backbone.preprocess(decode(path)) for path in paths])
    z = model.encode_image(pixels)
    nearest = (z @ z.T).fill_diagonal_(-2).argmax(1).numpy()
    expected = (labels[nearest] == labels).mean()
    assert metrics["test"]["neighbour_recall@1"]["value"] == pytest.approx(expected)
    page = Path("out/report.html").read_text()
    assert "neighbour recall@1" in page and "24" in page


def test_the_example_is_swept_side_by_side(run_cli, blurred, tiny_model):
    words = (f"objective={TOY}", "method=adapter", "lr=[0.1,0.05]", "seed=[1,2]", "epochs=2")
    common = (f"dataset={blurred}", f"model={tiny_model}", "shots=4", "tensorboard=false")
    code, out, err = run_cli("sweep", *words, *common, "output=many")
    assert code == 0, out + err
    assert "trained side by side" in out
    assert "neighbour recall@1 on the test split" in Path("many/results.md").read_text()
    assert Path("many/curve.png").is_file() and Path("many/index.html").is_file()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["method=coop"], "method=coop does not change them"),
        (["method=adapter", "guard=true"], "guard=True cannot be used with objective="),
    ],
)
def test_what_the_example_refuses(train_tiny, blurred, everything_in, words, reason):
    code, _, err = train_tiny(blurred, f"objective={TOY}", *words)
    assert code == 2 and reason in err
    assert everything_in("out") is None


def test_a_page_is_not_made_by_code_that_a_folder_names(train_tiny, run_cli, blurred):
    code, out, err = train_tiny(blurred, f"objective={TOY}", "method=adapter", "report=false")
    assert code == 0, out + err
    code, _, err = run_cli("report", "out")
    assert code == 2 and "is not installed here" in err


def test_captions_are_swept(run_cli, tiny_model, make_folder, tmp_path):
    make_folder(tmp_path / "pictures", splits=("",), per_class=10)
    rows = [
        f"{path},a {path.parent.name} number {path.stem}"
        for path in tmp_path.rglob("pictures/**/*.png")
    ]
    Path("pairs.csv").write_text("\n".join(["image,caption", *rows]))
    words = ("dataset=pairs.csv", "objective=contrastive", "method=adapter", "lr=[0.001,0.01]")
    more = (f"model={tiny_model}", "batch_size=4", "epochs=2", "tensorboard=false", "output=many")
    code, out, err = run_cli("sweep", *words, *more)
    assert code == 0, out + err
    assert "image to text recall@5" in out
    assert len(Path("many/results.csv").read_text().splitlines()) == 3
    for name in ("curve.png", "index.html", "results.md"):
        assert (Path("many") / name).is_file()
    assert len(list(Path("many").rglob("report.html"))) == 2
