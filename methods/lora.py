"""LoRA in the towers: low-rank updates of the attention's projections, on the image and text side.

    h = W x + gamma * B A x,     gamma = alpha / sqrt(r)  (rslora)  or  alpha / r

Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 4.1; the recipe is CLIP-LoRA's: Zanella
and Ben Ayed 2024, https://arxiv.org/abs/2405.18541, section 4: rank 2 on q, k and v of every layer
of both towers. Learned: A (r, in) and B (out, r) of every projection; 184,320 numbers on ViT-B/16.

The paper writes alpha / r; its authors' code divides by sqrt(r), which is the default here. Their
gradient is wrong when dropout is 0; this one is PEFT's, B (A x), and equals the formula. A tower
of convolutions is tuned in its 1x1 convolutions and linear layers, which is our own addition.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from open_clip.transformer import CustomResidualAttentionBlock
from torch import Tensor

from clip_adapt.backbone import tunable_layers, tuning
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.backbone.blocks import Side
from clip_adapt.backbone.tunable_layers import Role
from clip_adapt.config.values import Between
from clip_adapt.data.task import Task
from clip_adapt.errors import InputError
from clip_adapt.method.contract import Method

TOWERS = {"image": ("visual",), "text": ("text",), "both": ("visual", "text")}
SIDES: dict[str, Side] = {"visual": "image", "text": "text"}
PROJECTIONS: tuple[Role, ...] = ("q", "k", "v")


class LoRA(Method):
    """Low-rank adaptation of the towers, or any other PEFT tuner in its place.

    Args:
        backbone: the frozen towers.
        task: the classes.
        rank: r, the rank of an update.
        alpha: factor of an update, divided by sqrt(r) or r.
        dropout: share of a projection's inputs that is dropped on the way to A while training.
        target: which projections of an attention are tuned: q, k, v, out.
        towers: which towers are tuned. With ``text`` image features are computed only once.
        layers: ``all`` blocks, the last N of each tower (``top:N``), or their indices from 0.
        rslora: scale by 1 / sqrt(r) as CLIP-LoRA's code does, in place of 1 / r.
        dora: learn the size of each output apart from its direction
            (https://arxiv.org/abs/2402.09353).
        peft: a configuration class of PEFT (IA3, VeRA, OFT, LNTuning ...) in place of LoRA; rank,
            alpha, dropout, rslora and dora then do not apply. LNTuning tunes the layer
            normalisations of the ``layers``, and takes no target.
        peft_options: that class's own options.
        checkpointing: compute activations again in the backward pass; less memory, slower.
    """

    tunes_image_tower = True
    starts_at_zero_shot = True
    works_on_other_classes = True
    trains_on_captions = True

    def __init__(
        self,
        backbone: Backbone,
        task: Task,
        *,
        rank: Annotated[int, Between(1)] = 2,
        alpha: Annotated[float, Between(0, strict=True)] = 1.0,
        dropout: Annotated[float, Between(0, 0.99)] = 0.25,
        target: list[Role] = [*PROJECTIONS],  # noqa: B006 - a constructor only stores
        towers: Literal["both", "image", "text"] = "both",
        layers: str | list[int] = "all",
        rslora: bool = True,
        dora: bool = False,
        peft: str | None = None,
        peft_options: dict[str, Any] | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(backbone, task)
        if not target:
            raise InputError("method.target=[]: expected at least one of q, k, v, out")
        if peft is None and peft_options:
            raise InputError("method.peft_options needs method.peft, a configuration class of PEFT")
        lora = {
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": dropout,
            "use_rslora": rslora,
            "use_dora": dora,
        }
        twin = backbone.twin()
        names = [
            f"{tower}.{layer}"
            for tower in TOWERS[towers]
            for layer in self._layers(twin, tower, target, layers, peft)
        ]
        settings = tuning.make_config(peft or "Lora", (peft_options or {}) if peft else lora, names)
        for name, tensor in tuning.inject_tuner(twin.model, settings).items():
            tuning.register_tensor(self, name, tensor)
        if checkpointing:
            self._checkpoint(twin, TOWERS[towers])
        # Set past nn.Module: the towers' frozen tensors are not a part of the method.
        self.__dict__["tuned"] = twin
        self.towers = towers
        self.tunes_image_tower = towers != "text"
        self.tunes_text_tower = towers != "image"

    tuned: Backbone

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return the unit features (N, D) of transformed images (N, 3, S, S)."""
        tower = self.backbone if self.towers == "text" else self.tuned
        return tower.encode_image(pixels)

    def encode_text(self, texts: list[str]) -> Tensor:
        """Return the unit features (N, D) of texts."""
        tower = self.tuned if self.tunes_text_tower else self.backbone
        return tower.encode_text(texts)

    def weights(self) -> Tensor:
        """Return the class weights (C, D); gradients flow only when the text tower is tuned."""
        if self.towers == "image":
            return self.zero_shot_weights
        return self.tuned.class_weights(self.task.texts())

    def train(self, mode: bool = True) -> LoRA:
        """Switch the updates' dropout; the frozen layers stay in eval mode."""
        if "tuned" in self.__dict__:
            tuning.set_training(self.tuned.model, mode)
        super().train(mode)
        return self

    def merged(self) -> dict[str, Tensor]:
        """Return the towers' tensors with the updates added in, under the backbone's names.

        Raises:
            InputError: when the tuner cannot be merged.
        """
        return tuning.merge_tensors(self.tuned.model)

    @staticmethod
    def _layers(
        twin: Backbone, tower: str, target: list[Role], layers: str | list[int], peft: str | None
    ) -> list[str]:
        module = getattr(twin.model, tower)
        if peft is None or not tuning.is_named(peft, "LNTuning"):
            return tunable_layers.choose_layers(module, SIDES[tower], target, layers)
        if target != [*PROJECTIONS]:
            raise InputError(
                f"method.target={target}: method.peft={peft} tunes layer normalisations, which "
                "have no projections; leave the target out"
            )
        return tunable_layers.choose_norms(module, SIDES[tower], layers)

    @staticmethod
    def _checkpoint(twin: Backbone, towers: tuple[str, ...]) -> None:
        for tower in towers:
            module = getattr(twin.model, tower)
            # open_clip hands such blocks more than they take when it checkpoints them.
            fails = any(isinstance(m, CustomResidualAttentionBlock) for m in module.modules())
            if fails or not hasattr(module, "set_grad_checkpointing"):
                raise InputError(
                    f"method.checkpointing=true: the {SIDES[tower]} tower of "
                    f"{twin.card.architecture} cannot do it; leave it out"
                )
            module.set_grad_checkpointing(True)
