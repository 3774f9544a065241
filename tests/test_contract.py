"""Every method found in methods/ keeps every law; a new file is tested by existing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.method import finding
from clip_adapt.method.contract import Method
from clip_adapt.testing import methods as testing
from clip_adapt.training.recipe import Recipe

# Options in which a method takes another path through its code than by default.
VARIANTS = {
    "lora": [
        {},
        {"towers": "text", "dora": True},
        {"towers": "image", "checkpointing": True},
        {"peft": "VeRA", "peft_options": {"r": 8, "d_initial": 1.0}},
    ],
    "adapter": [
        {},
        {"side": "text"},
        {"side": "both", "learn_ratio": True, "reduction": 1, "activation": "gelu"},
        {"depth": 1},
        {"depth": 3, "reduction": 2, "activation": "silu"},
        {"activation": "tanh"},
    ],
    "cocoop": [{"reduction": 4}, {"ctx_init": None, "n_ctx": 2, "reduction": 4}],
    "coop": [{}, {"ctx_init": "a photo of a"}, {"csc": True}, {"position": "middle"}],
    "gda": [{}, {"alpha": 0.5}],
    "tip_adapter": [{}, {"alpha": 1.0, "beta": 5.5}],
}
CASES = [(name, options) for name in finding.list_methods() for options in VARIANTS.get(name, [{}])]


@pytest.mark.parametrize("law", testing.LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_law(name, options, law, tiny_card):
    found = finding.find_method(name)
    recipe = Recipe(epochs=60, batch_size=24, optimizer="adam", lr=0.05, weight_decay=0.0)
    law(
        testing.Case(
            found.cls, lambda: Backbone.from_card(tiny_card, device="cpu"), options, recipe
        )
    )


class Registers(Method):
    """Breaks a law: a tower's table becomes part of the method."""

    def __init__(self, backbone, task):
        super().__init__(backbone, task)
        self.embed = backbone.token_embedding


class Ignores(Method):
    """Breaks a law: a parameter that nothing uses."""

    def __init__(self, backbone, task):
        super().__init__(backbone, task)
        self.shift = torch.nn.Parameter(torch.zeros(3))
        self.unused = torch.nn.Parameter(torch.zeros(3))

    def logits(self, z, w):
        return super().logits(z, w) + self.shift


class MixesRows(Method):
    """Breaks a law: centres over the batch."""

    def logits(self, z, w):
        return super().logits(z - z.mean(0), w)


class Touches(Method):
    """Breaks a law: writes into the backbone."""

    def fit(self, z, y):
        with torch.no_grad():
            self.backbone.token_embedding.weight[0] += 1


class Random(Method):
    """Breaks a law: evaluation draws random numbers."""

    def logits(self, z, w):
        return super().logits(z, w) + torch.randn(len(w))


class Forgets(Method):
    """Breaks a law: what it learned is no part of its state, and it claims to carry it over."""

    works_on_other_classes = True
    shift = 0.0

    def fit(self, z, y):
        self.shift = z.mean(0)

    def logits(self, z, w):
        return super().logits(z + self.shift, w)


class Doubles(Method):
    """Breaks a law: what forward gives is not what its parts give."""

    def forward(self, z):
        return 2 * super().forward(z)


class DeniesFit(Method):
    """Breaks a law: it solves, and says that it does not."""

    solves = False
    shift = 0.0

    def fit(self, z, y):
        self.shift = 1.0 + torch.arange(3.0)

    def logits(self, z, w):
        return super().logits(z, w) + self.shift


class DeniesPenalty(Method):
    """Breaks a law: it has a penalty, and says that it has none."""

    penalizes = False

    def penalty(self, z, frozen, w):
        return w.square().sum()


class DeniesLoss(Method):
    """Breaks a law: it has a loss of its own, and says that a run may balance it."""

    has_own_loss = False

    def loss(self, logits, labels):
        return F.multi_margin_loss(logits, labels)


class DeniesStep(Method):
    """Breaks a law: it changes gradients, and says that it does not."""

    changes_gradients = False

    def __init__(self, backbone, task):
        super().__init__(backbone, task)
        self.shift = torch.nn.Parameter(torch.zeros(3))

    def before_step(self):
        self.shift.grad.mul_(2)


class Averages(Method):
    """Keeps a mean over epochs beside its parameters, as a plain attribute."""

    def __init__(self, backbone, task):
        super().__init__(backbone, task)
        self.shift = torch.nn.Parameter(torch.zeros(len(task.classes), backbone.embed_dim))
        self.mean, self.seen = None, {"epochs": 0}

    def weights(self):
        noise = torch.rand(self.shift.shape, generator=self.generator) if self.training else 0
        return F.normalize(self.zero_shot_weights + self.shift + 0.1 * noise, dim=1)

    def on_epoch_end(self, epoch, epochs):
        self.seen["epochs"] += 1
        before = torch.zeros_like(self.shift) if self.mean is None else self.mean
        self.mean = before + (self.shift.detach() - before) / self.seen["epochs"]

    def finish(self):
        if self.mean is not None:
            self.shift.copy_(self.mean)


class AveragesUnseen(Averages):
    """Breaks a law: what it keeps is not in the state that it gives."""

    def training_state(self):
        return {}


class AveragesInWords(Averages):
    """Keeps something of its own kind, and says how."""

    def training_state(self):
        return {"mean": self.mean, "epochs": self.seen["epochs"], "": self.generator.get_state()}

    def load_training_state(self, state):
        self.mean, self.seen = state["mean"], {"epochs": state["epochs"]}
        self.generator.set_state(state[""])


class ClaimsFit(Method):
    """Breaks a law: it says that it solves, and has nothing to solve with."""

    solves = True


CLAIMS_LAW = testing.what_is_not_claimed_does_nothing


@pytest.mark.parametrize(
    ("cls", "law", "message"),
    [
        (Registers, testing.the_delta_holds_only_what_was_trained, "belongs to the backbone"),
        (Ignores, testing.every_parameter_gets_a_gradient, "unused gets no gradient"),
        (MixesRows, testing.logits_have_one_row_an_image, "depends on its batch"),
        (Touches, testing.the_backbone_stays_as_it_is, "training changed"),
        (Random, testing.evaluation_repeats, "not deterministic"),
        (Doubles, testing.the_whole_equals_its_parts, r"differs from logits\(z, weights"),
        (DeniesFit, CLAIMS_LAW, "fit changes a method that does not claim solves"),
        (DeniesPenalty, CLAIMS_LAW, "penalizes is not claimed"),
        (DeniesLoss, CLAIMS_LAW, "has_own_loss is not claimed"),
        (DeniesStep, CLAIMS_LAW, "changes_gradients is not claimed"),
        (ClaimsFit, CLAIMS_LAW, "solves is claimed and there is no fit"),
        (AveragesUnseen, testing.an_interrupted_training_goes_on, "after an interruption"),
        (Forgets, testing.a_claimed_transfer_fits_other_classes, "the state did not carry over"),
    ],
)
def test_a_broken_law_is_noticed(cls, law, message, tiny_card):
    case = testing.Case(cls, lambda: Backbone.from_card(tiny_card, device="cpu"))
    with pytest.raises(AssertionError, match=message):
        law(case)


@pytest.mark.parametrize("cls", [Averages, AveragesInWords])
def test_what_a_method_keeps_beside_its_parameters_goes_on(cls, tiny_card):
    case = testing.Case(cls, lambda: Backbone.from_card(tiny_card, device="cpu"))
    testing.an_interrupted_training_goes_on(case)
