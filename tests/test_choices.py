"""What is chosen when candidates are equally good, and by which images it is chosen."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import clip_adapt
from clip_adapt.adapted import guard
from clip_adapt.data.dataset import Dataset
from clip_adapt.data.items import Item, Support
from clip_adapt.data.task import Task
from clip_adapt.errors import InputError
from clip_adapt.evaluation import measuring, protocols, resampling
from clip_adapt.evaluation.classification import Evaluation
from clip_adapt.evaluation.measuring import Measured
from clip_adapt.inputs.features import FeatureCache
from clip_adapt.method.contract import Method
from clip_adapt.method.finding import Found
from clip_adapt.runs import selection
from clip_adapt.runs.configuration import compose
from clip_adapt.training.recipe import Recipe


def test_of_equal_mixtures_the_one_with_least_zero_shot_is_taken():
    logits = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    assert guard.choose(logits, logits, torch.arange(9) % 3) == 0


def test_weights_are_compared_in_double_precision():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        ours, base = torch.randn(2, 12, 3, generator=generator).bfloat16()
        y = torch.randint(3, (12,), generator=generator)
        assert guard.choose(ours, base, y) == guard.choose(ours.double(), base.double(), y)


class Marked(Method):
    """Right on the images whose mark is below ``share``; as sure of itself as ``sure`` says."""

    quick = True

    def __init__(self, backbone, task, *, share=1.0, sure=1.0):
        super().__init__(backbone, task)
        self.share, self.sure = share, sure

    def fit(self, z, y):
        self.fitted_to_views = bool((z[..., 2] > 0).all())
        self.tuned_on = 0 if self.validation is None else len(self.validation[1])
        logging.getLogger("clip_adapt").info("a method says something")

    def logits(self, z, w):
        right = torch.nn.functional.one_hot(z[:, 0].round().long(), len(w)).float()
        return self.sure * torch.where(z[:, 1:2] < self.share, right, right.roll(1, dims=1))


@pytest.fixture
def choose(tiny_backbone, monkeypatch):
    """A function that compares methods: (choice, methods that were made, what was asked for)."""
    asked = []

    def extract(backbone, paths, cache, *, views=1, augment="none", label=""):
        # A feature is the label, the mark, and whether it is of a view that is trained on.
        z = torch.zeros(len(paths), views, backbone.embed_dim)
        for row, path in enumerate(paths):
            label_, mark = map(float, path.split("-"))
            z[row, :, :3] = torch.tensor([label_, mark, float(augment != "none")])
        asked.append((views, augment))
        return z

    monkeypatch.setattr(selection.features, "extract", extract)

    def chosen(*candidates, images=4):
        train = [Item(f"{y}-{i / images}", y) for y in (0, 1) for i in range(images)]
        support = Support(train, [Item(f"{y}-0.1", y) for y in (0, 1)], images)
        base = compose({"method": "zero_shot", "dataset": "eyes", "augment": "coop", "views": 2})
        configs = [
            replace(
                base,
                options=replace(base.options, seed=i),
                method=Found(f"m{i}", Marked),
                method_options=options,
            )
            for i, options in enumerate(candidates)
        ]
        made = []

        def make(config):
            made.append(Marked(tiny_backbone, Task(("a", "b")), **config.method_options))
            return made[-1]

        def recipe(options):
            return Recipe(epochs=0, seed=options.seed)

        cache = FeatureCache(None)
        choice = selection.choose(configs, support, tiny_backbone, cache, make, recipe)
        return choice, made, asked

    return chosen


def test_of_equally_accurate_methods_the_surer_one_is_taken_when_it_is_right(choose):
    choice, *_ = choose({"sure": 1.0}, {"sure": 3.0}, {"sure": 2.0})
    assert choice.facts["chosen"] == "m1"
    assert [row[0] for row in choice.facts["table"]["rows"]] == ["m1", "m2", "m0"]
    losses = [score["nll"] for score in choice.facts["scores"]]
    assert losses == pytest.approx([np.log1p(np.exp(-s)) for s in (1.0, 3.0, 2.0)], rel=1e-5)


def test_of_equally_accurate_methods_the_less_sure_one_is_taken_when_it_is_wrong(choose):
    choice, *_ = choose({"sure": 3.0, "share": 0.0}, {"sure": 1.0, "share": 0.0})
    assert choice.facts["chosen"] == "m1"


def test_accuracy_comes_before_the_loss(choose):
    choice, *_ = choose({"sure": 0.1, "share": 0.4}, {"sure": 9.0, "share": 0.6})
    accuracies, losses = (
        [score[key] for score in choice.facts["scores"]] for key in ("accuracy", "nll")
    )
    assert accuracies == [0.5, 0.75]
    assert losses[0] < losses[1]
    assert choice.facts["chosen"] == "m1"
    assert choice.facts["table"]["rows"][0][0] == "m1"


def test_of_methods_that_are_equal_in_all_the_first_is_taken(choose):
    choice, *_ = choose({}, {})
    assert choice.facts["chosen"] == "m0"
    assert choice.config.method.name == "m0"


def test_the_loss_is_the_mean_over_all_images(choose):
    choice, *_ = choose({"sure": 2.0, "share": 0.6})  # 6 of 8 right, in parts of two each
    wrong, right = (np.log1p(np.exp(s)) for s in (2.0, -2.0))
    (score,) = choice.facts["scores"]
    assert score["nll"] == pytest.approx((2 * wrong + 6 * right) / 8, rel=1e-5)


def test_a_candidate_adapts_to_views_and_is_judged_in_the_centre_view(choose, monkeypatch):
    judged = []
    logits_of = selection.compute_logits
    monkeypatch.setattr(
        selection, "compute_logits", lambda m, e: judged.append(e.inputs[..., 2]) or logits_of(m, e)
    )
    _, made, asked = choose({})
    assert (2, "coop") in asked
    assert [m.fitted_to_views for m in made] == [True] * 4
    assert [marks.tolist() for marks in judged] == [[[0.0], [0.0]]] * 4


def test_a_candidate_adapts_by_its_own_recipe(choose, monkeypatch):
    seeds = []
    fit = selection.fit
    monkeypatch.setattr(
        selection, "fit", lambda *args: seeds.append((args[0].sure, args[3].seed)) or fit(*args)
    )
    choose({"sure": 0.0}, {"sure": 1.0}, images=2)
    assert seeds == [(0.0, 0), (0.0, 0), (1.0, 1), (1.0, 1)]


@pytest.mark.parametrize(("images", "tuned_on"), [(4, 2), (1, 0)])
def test_val_tunes_a_candidate_unless_it_judges_it(choose, images, tuned_on):
    _, made, _ = choose({}, images=images)
    assert {m.tuned_on for m in made} == {tuned_on}


def test_a_candidate_is_silent_and_what_follows_is_not(choose, caplog):
    caplog.set_level(logging.INFO, logger="clip_adapt")
    choose({}, {})
    assert "a method says something" not in caplog.text
    assert len([m for m in caplog.messages if m.startswith("m0 was chosen by 4-fold")]) == 1
    assert logging.getLogger("clip_adapt").level == logging.INFO


def measured(value, samples):
    return Measured(
        {"accuracy": {"value": value, "low": 0.0, "high": 1.0}},
        {},
        [],
        {"accuracy": np.array(samples)},
    )


def test_the_harmonic_mean_pairs_the_resamples_that_both_have():
    base, new = np.array([0.4, 0.5, 0.6] * 10), np.array([1.0, 0.8] * 20)
    expected = resampling.make_estimate(2 / 3, 2 * base * new[:30] / (base + new[:30]), 0.0, 1.0)
    assert expected["low"] < 2 / 3 < expected["high"]
    for one, other in (((0.5, base), (1.0, new)), ((1.0, new), (0.5, base))):
        found = protocols.measure_harmonic_mean(measured(*one), measured(*other))
        assert found == pytest.approx(expected)


def test_each_kind_has_its_own_harmonic_mean():
    def evaluation(ours, base):
        return Evaluation([], [], torch.zeros(0), measured(ours, [ours]), measured(base, [base]))

    main, new = evaluation(0.8, 0.5), evaluation(0.4, 1.0)
    new_facts = {"n_test": 0}
    object.__setattr__(new, "facts", lambda: new_facts)
    found = protocols.describe_protocol("base_to_new", main, {"new": new})
    assert found["other"] == {"new": new_facts}
    means = {kind: row["value"] for kind, row in found["harmonic_mean"].items()}
    assert means == pytest.approx({"test": 0.64 / 1.2, "zero_shot": 1 / 1.5})
    assert protocols.describe_protocol("few_shot", main, {}) == {"protocol": "few_shot"}


def test_other_tasks_are_resampled_by_a_seed_of_their_own(tiny_backbone, animals, monkeypatch):
    monkeypatch.setattr(resampling, "RESAMPLES", 50)
    dataset = Dataset.load(animals)
    classifier = clip_adapt.zero_shot(dataset.classes, model=tiny_backbone)
    found = protocols.measure_other(classifier, dataset, FeatureCache(None))
    labels = np.array([item.label for item in found.items])
    p = found.probabilities.numpy()
    for seed in (0, 1):
        own = measuring.measure(labels, p, dataset.classes, None, seed).samples["accuracy"]
        assert np.array_equal(found.ours.samples["accuracy"], own) == (seed == 1)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_the_base_half_is_half_of_the_classes_rounded_up(make_folder, tmp_path, count):
    names = ("ant", "bee", "cat", "dog", "eel", "fox")[:count]
    dataset = Dataset.load(make_folder(tmp_path / "some", classes=names, per_class=2))
    if count < 4:
        with pytest.raises(InputError, match=f"needs at least four classes, .* has {count}: ant"):
            protocols.split_classes(dataset)
        return
    base, new = protocols.split_classes(dataset)
    assert base.classes == list(names[: (count + 1) // 2])
    assert new.classes == list(names[(count + 1) // 2 :])
    for half in (base, new):
        for items in half.parts().values():
            found = {(Path(item.path).parent.name, item.label) for item in items}
            assert found == {(name, label) for label, name in enumerate(half.classes)}
