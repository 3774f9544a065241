"""method=auto: what is compared, how, and what a run tells of it."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from clip_adapt import Method
from clip_adapt.config import cards, yamls
from clip_adapt.data.items import Item, Support
from clip_adapt.data.task import Task
from clip_adapt.errors import InputError
from clip_adapt.evaluation import classification
from clip_adapt.inputs.features import FeatureCache
from clip_adapt.method import finding
from clip_adapt.method.folds import hold_out
from clip_adapt.runs import selection
from clip_adapt.runs.configuration import compose
from clip_adapt.training.recipe import Recipe


def parts_of(*labels):
    return [part.nonzero()[:, 0].tolist() for part in hold_out(torch.tensor(labels))]


def test_every_image_is_held_out_once_and_every_part_is_stratified():
    labels = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    parts = parts_of(*labels)
    assert sorted(i for part in parts for i in part) == list(range(12))
    assert len(parts) == 5
    assert all(sum(labels[i] for i in part) == len(part) / 2 for part in parts)


def test_few_images_give_few_parts():
    assert parts_of(0, 0, 1, 1) == [[0, 2], [1, 3]]
    assert parts_of(0, 1, 2) == []
    assert parts_of(0, 0, 1) == [[0], [1]]  # the only image of its class stays


class Marked(Method):
    """Right on the share of the images that its option says, by a mark in their features."""

    quick = True

    def __init__(self, backbone, task, *, share=1.0):
        super().__init__(backbone, task)
        self.share, self.fitted = share, []

    def fit(self, z, y):
        self.fitted.append(len(y))

    def logits(self, z, w):
        label, rank = z[:, 0].round().long(), z[:, 1]
        right = torch.nn.functional.one_hot(label, len(w)).float()
        return torch.where(rank[:, None] < self.share, right, right.roll(1, dims=1))


@pytest.fixture
def choose(tiny_backbone, monkeypatch):
    """A function that compares methods of given shares: (choice, methods that were made)."""
    labels = [0] * 5 + [1] * 5

    def marked(backbone, paths, cache, **kwargs):
        rows = [[float(p.split("-")[0]), float(p.split("-")[1])] for p in paths]
        z = torch.zeros(len(rows), 1, backbone.embed_dim)
        if rows:
            z[:, 0, :2] = torch.tensor(rows)
        return z

    monkeypatch.setattr(selection.features, "extract", marked)

    def chosen(shares, shots=5, val=0):
        train = [Item(f"{y}-{i % 5 / 5}", y) for i, y in enumerate(labels) if i % 5 < shots]
        support = Support(train, [Item(f"{y}-0.1", y) for y in (0, 1)][:val], shots)
        base = compose({"method": "zero_shot", "dataset": "eyes"})
        named = {
            f"m{i}": (finding.Found(f"m{i}", Marked), {"share": share})
            for i, share in enumerate(shares)
        }
        configs = [
            dataclasses.replace(base, method=found, method_options=options, given={})
            for found, options in named.values()
        ]
        made = []

        def make(config):
            made.append(Marked(tiny_backbone, Task(("a", "b")), **config.method_options))
            return made[-1]

        cache = FeatureCache(None)
        recipe = lambda o: Recipe(epochs=0)  # noqa: E731
        return selection.choose(configs, support, tiny_backbone, cache, make, recipe), made

    return chosen


def test_the_most_accurate_on_held_out_images_is_taken(choose):
    choice, made = choose([0.5, 0.9, 0.3])
    assert choice.config.method.name == "m1" == choice.facts["chosen"]
    accuracies = [score["accuracy"] for score in choice.facts["scores"]]
    assert accuracies == pytest.approx([0.6, 1.0, 0.4])
    assert [score["images"] for score in choice.facts["scores"]] == [10, 10, 10]
    assert [m.fitted for m in made] == [[8]] * 15
    assert [row[0] for row in choice.facts["table"]["rows"]] == ["m1", "m0", "m2"]
    assert choice.facts["table"]["note"].startswith(
        "m1 was chosen by 5-fold cross-validation on the support set: 100.0% of 10 images that it "
        "had not seen are right, 60.0% with m0, the next best."
    )


def test_with_one_image_a_class_val_decides(choose):
    choice, made = choose([0.05, 0.2], shots=1, val=2)
    assert choice.facts["chosen"] == "m1"
    assert [m.fitted for m in made] == [[2], [2]]
    assert all(m.validation is None for m in made), "val cannot both tune and judge"
    assert "on the val subset" in choice.facts["table"]["note"]


def test_with_nothing_to_choose_by_it_says_so(choose):
    with pytest.raises(InputError) as caught:
        choose([0.5], shots=1)
    assert str(caught.value) == (
        "method=auto has nothing to choose by: no class has a second labelled image, and there is "
        "no val split. Use shots=2 or more, or name a method."
    )


def test_candidates_are_the_methods_that_say_they_are_quick():
    config = compose({"method": "auto", "dataset": "eyes", "shots": 4})
    found = {candidate.method.name for candidate in config.candidates}
    assert found == {
        name for name in cards.list_cards("method") if finding.find_method(name).cls.quick
    }
    assert {"zero_shot", "linear_probe"} <= found and "coop" not in found
    assert not any(c.method.cls.tunes_image_tower for c in config.candidates)
    assert {c.options.shots for c in config.candidates} == {4}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"shotz": 4}, "unknown option 'shotz' - did you mean 'shots'?"),
        ({"method.C": 1}, "method.C: method=auto takes no options of a method"),
    ],
)
def test_what_auto_refuses(given, expected):
    with pytest.raises(InputError) as caught:
        compose({"method": "auto", "dataset": "eyes", **given})
    (line,) = str(caught.value).splitlines()
    assert line.startswith(expected)


def test_a_run_of_auto(train_tiny, animals, tmp_path, monkeypatch):
    order = []
    choose, measure = selection.choose, classification.measure_beside_zero_shot
    monkeypatch.setattr(selection, "choose", lambda *a: order.append("choose") or choose(*a))
    monkeypatch.setattr(
        classification,
        "measure_beside_zero_shot",
        lambda *a, **k: order.append("test") or measure(*a, **k),
    )
    code, out, err = train_tiny(animals, "method=auto", "shots=4")
    assert code == 0, err
    assert order == ["choose", "test"]
    quick = [name for name in finding.list_methods() if finding.find_method(name).cls.quick]
    assert {"gda", "linear_probe", "zero_shot"} <= set(quick)
    assert f"method: the best of {', '.join(quick)} on the support set" in out
    assert "Candidates on images that they had not seen" in out
    metrics = json.loads(Path("out/metrics.json").read_text())
    name = metrics["choice"]["chosen"]
    assert {s["method"] for s in metrics["choice"]["scores"]} == set(quick)
    best = max(metrics["choice"]["scores"], key=lambda s: (s["accuracy"], -s["nll"]))
    assert best["method"] == name
    assert yamls.read_yaml(Path("out/config.yaml"))["method"]["name"] == name
    assert " method=auto " in Path("out/config.yaml").read_text().splitlines()[0]
    header = json.loads(safe_open("out/adapter/adapter.safetensors", "pt").metadata()["clip_adapt"])
    assert header["method"]["name"] == name
    assert "How the method was chosen" in Path("out/report.html").read_text()


def test_a_sweep_keeps_runs_of_auto(run_cli, animals, tiny_model, monkeypatch):
    monkeypatch.setattr("clip_adapt.evaluation.resampling.RESAMPLES", 20)
    words = ("method=[auto]", "shots=[2]", f"dataset={animals}", f"model={tiny_model}")
    code, out, err = run_cli("sweep", *words, "output=out", "report=false", "tensorboard=false")
    assert code == 0 and "| auto |" in Path("out/results.md").read_text(), err
    code, out, _ = run_cli("sweep", *words, "output=out", "report=false", "tensorboard=false")
    assert code == 0 and ", 1 were finished before" in out
