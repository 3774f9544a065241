"""Neighbours: image features are learned so that images of one class are nearest to each other.

    L = mean over i of  -1/|P(i)| sum over p in P(i) of log softmax_{j != i}(s z_i z_j')_p

Khosla et al. 2020, https://arxiv.org/abs/2004.11362, equation 2 (supervised contrastive), over the
batch; P(i) are the other images of i's class. Measured is how often the nearest other test image is
of the same class, beside the frozen features. No class needs a name for this.

    python -m clip_adapt.train objective=neighbours.py method=adapter lr=0.1 dataset=eyes
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from clip_adapt import Classifier, InputError, Method
from clip_adapt.config.run_options import RunOptions
from clip_adapt.evaluation.quantities import Quantity
from clip_adapt.evaluation.resampling import estimate_mean
from clip_adapt.inputs import features
from clip_adapt.objectives import Objective, Outcome, Run
from clip_adapt.training.examples import Examples
from clip_adapt.training.fitting import Part, Trained, Training
from clip_adapt.training.sharing import gather_rows
from clip_adapt.training.step import Step, raise_to_float32

RECALL = Quantity(
    name="neighbour_recall@1", spoken="neighbour recall@1", unit="per cent", headline=True
)


class NeighbourStep(Step):
    """The supervised contrastive loss of a batch of features."""

    def forward(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of features (n, D), and how many have a neighbour of their class.

        Of several processes each has its part of the features, and the labels (n,) of all.
        """
        with self.autocast():
            adapted = gather_rows(self.method.image_features(z), len(labels))
        similar = self.method.backbone.logit_scale * adapted @ adapted.T  # (n, n)
        itself = torch.eye(len(labels), dtype=torch.bool, device=z.device)
        similar = raise_to_float32(similar).masked_fill(itself, float("-inf"))
        same = (labels[:, None] == labels) & ~itself
        likely = similar.log_softmax(1).masked_fill(~same, 0.0).sum(1) / same.sum(1).clamp(min=1)
        return -likely.mean(), find_hits(adapted.detach(), labels).sum().float()

    def score(self, val: Examples) -> tuple[str, float]:
        """Return the recall on ``val``, for ``select=val``."""
        assert isinstance(val.inputs, Tensor), "the objective asks for features"
        with torch.no_grad():
            z = self.method.image_features(val.inputs[:, 0].to(self.method.backbone.device))
        return f"val_{RECALL.name}", float(find_hits(z.cpu(), val.labels).double().mean())


class Neighbours(Objective):
    """Learning which images belong together."""

    headline = RECALL.name
    fixed: ClassVar = {
        "guard": (False, "nothing is classified"),
        "calibrate": (False, "there are no probabilities"),
        "conformal": (None, "there are no sets of classes"),
        "protocol": ("few_shot", "nothing is classified"),
        "class_balanced": (False, "its loss knows pairs, not classes"),
        "label_smoothing": (0.0, "its loss has no targets to smooth"),
        "metrics": (None, "they measure probabilities of classes"),
    }

    def list_metrics(self, o: RunOptions) -> list[Quantity]:
        """Return the recall."""
        return [RECALL]

    def require_fit(self, run: Run, method: Method, name: str) -> None:
        """Refuse a method that does not change image features."""
        if type(method).image_features is Method.image_features or method.tunes_image_tower:
            raise InputError(
                f"objective=neighbours.py learns image features that are computed once, and "
                f"method={name} does not change them. Use method=adapter."
            )

    def solve(self, run: Run, method: Method) -> Training:
        """Extract the features of the support images."""
        o, support = run.options, run.draw.support
        with run.clock.count("features"):
            train = extract(run, [i.path for i in support.train], o.views)
            val = extract(run, [i.path for i in support.val], 1)
        parts = [
            Part(z, torch.tensor([item.label for item in items], dtype=torch.long))
            for z, items in ((train, support.train), (val, support.val))
        ]
        examples, chosen_by = (part.examples for part in parts)
        events = run.clear_events()
        return Training(method, examples, run.recipe, chosen_by, events, make_step=NeighbourStep)

    def finish(self, run: Run, training: Training, trained: Trained) -> Outcome:
        """Measure the recall on the test images, before and after."""
        items = run.data.dataset.test
        with run.clock.count("evaluate"), torch.no_grad():
            z = extract(run, [item.path for item in items], 1)[:, 0].to(run.backbone.device)
            labels = torch.tensor([item.label for item in items], device=z.device)
            adapted = training.method.image_features(z)
            ours, frozen = (
                {RECALL.name: estimate_mean(find_hits(x, labels).cpu().numpy())}
                for x in (adapted, z)
            )
        measured = {"test": ours, "zero_shot": frozen, "n_test": len(items)}
        return Outcome(Classifier(training.method), measured)


def extract(run: Run, paths: list[str], views: int) -> Tensor:
    """Return the frozen features (N, views, D) of images."""
    augment = run.options.augment
    return features.extract(run.backbone, paths, run.cache, views=views, augment=augment)


def find_hits(z: Tensor, labels: Tensor) -> Tensor:
    """Return which images (N,) have a nearest other image of their own class."""
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    return labels[(z @ z.T).masked_fill(itself, float("-inf")).argmax(1)] == labels
