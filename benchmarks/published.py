"""The published algorithms, written straightforwardly on open_clip's own model."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_adapt.backbone import prompts
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config.cards import ModelCard

WORDS = """
abalone anchor apple badger bassoon beaver bridge candle canoe castle cliff cobra compass
cricket daisy dam desk dough drum eagle falcon ferret fig flute fox geyser goose guitar
hamper harp hen hornet iron jay jeep joystick kite ladle lemon lion llama lynx magpie
mantis mask monarch mosque newt oboe organ otter ox paddle panda pier pillow plate pug
quail radio ram robin sax scale shield shark sloth snail spindle stole stove swan tench
tiger torch toucan tractor tub vase viaduct violin volcano wallaby whale wolf wombat yak
yurt zebra
""".split()  # noqa: SIM905
N_CTX = 16
RANK = 2


def towers(architecture: str, device: str) -> tuple[nn.Module, Backbone]:
    """Return the same random towers twice: as open_clip builds them, and as our backbone.

    Args:
        architecture: open_clip's name, or the path of a configuration.json of its kind.
        device: where to put them.
    """
    card = ModelCard(architecture, "random", name=architecture)
    if architecture.endswith(".json"):
        open_clip.add_model_config(architecture)
        architecture = Path(architecture).stem
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # random weights are what is wanted
    try:
        torch.manual_seed(0)
        model = open_clip.create_model(architecture, force_custom_text=True).to(device).eval()
        torch.manual_seed(0)
        backbone = Backbone.from_card(card, device=device, precision="fp32")
    finally:
        logging.disable(before)
    return model.requires_grad_(False), backbone


def class_names(count: int) -> list[str]:
    """Return names of one to three words, as common as in natural data sets: 1.7 on average."""
    stream = random.Random(0)
    lengths = stream.choices((1, 2, 3), (0.45, 0.4, 0.15), k=count)
    return [" ".join(stream.sample(WORDS, length)) for length in lengths]


class PromptLearner(nn.Module):
    """CoOp's learned prompt and text encoder over all positions (Zhou et al. 2022).

    Every prompt holds the frozen embeddings of its start token and of its name, end token and
    padding, with the context between them; every step sends all of them through the tower.
    """

    def __init__(self, text: nn.Module, tokenizer: object, names: list[str]) -> None:
        super().__init__()
        self.__dict__["text"] = text
        device = text.positional_embedding.device
        ids = prompts.tokenize(tokenizer, [f"{'x ' * N_CTX}{name}." for name in names], 77)
        self.ids = ids.to(device)
        with torch.no_grad():
            embedded = text.token_embedding(self.ids)
        self.start, self.rest = embedded[:, :1], embedded[:, 1 + N_CTX :]
        start = torch.randn(N_CTX, embedded.shape[2], generator=torch.Generator().manual_seed(1))
        self.ctx = nn.Parameter(start.mul(0.02).to(device))

    def forward(self) -> Tensor:
        """Return the unit text features (C, D)."""
        text = self.text
        context = self.ctx.expand(len(self.ids), -1, -1)
        x = torch.cat([self.start, context, self.rest], 1) + text.positional_embedding
        x = text.ln_final(text.transformer(x, attn_mask=text.attn_mask))
        pooled = x[torch.arange(len(x)), self.ids.argmax(1)] @ text.text_projection
        return F.normalize(pooled, dim=-1)


class PublishedLoRA(nn.Module):
    """CLIP-LoRA's step (Zanella and Ben Ayed 2024): updates of q, k and v in every block.

    As in the paper's formula every update is the full matrix B A, multiplied with the dropped
    input beside the frozen projection; prompts are all 77 positions long.

    Args:
        model: open_clip's ViT CLIP, which is changed.
        tokenizer: of the model.
        names: class names.
        dropout: on the inputs of the updates.
    """

    def __init__(
        self, model: nn.Module, tokenizer: object, names: list[str], dropout: float
    ) -> None:
        super().__init__()
        self.__dict__["model"] = model
        self.ids = prompts.tokenize(tokenizer, [f"a photo of a {name}." for name in names], 77)
        self.ids = self.ids.to(model.logit_scale.device)
        self.updates = nn.ModuleDict()
        for side in ("visual", "text"):
            for index, block in enumerate(getattr(model, side).transformer.resblocks):
                block.attn = _UpdatedAttention(block.attn, dropout)
                self.updates[f"{side}-{index}"] = block.attn.updates

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits (N, C) of images (N, 3, S, S)."""
        z = F.normalize(self.model.visual(pixels), dim=-1)
        w = F.normalize(self.model.text(self.ids), dim=-1)
        return self.model.logit_scale.exp() * z @ w.T


class _UpdatedAttention(nn.Module):
    def __init__(self, frozen: nn.MultiheadAttention, dropout: float) -> None:
        super().__init__()
        self.__dict__["frozen"] = frozen
        self.dropout = nn.Dropout(dropout)
        width, device = frozen.embed_dim, frozen.in_proj_weight.device
        self.updates = nn.ParameterDict()
        for name in "qkv":
            for part, shape in (("A", (RANK, width)), ("B", (width, RANK))):
                self.updates[f"{name}{part}"] = nn.Parameter(torch.zeros(shape, device=device))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **rest: Any) -> tuple[Tensor, Any]:
        frozen, mask = self.frozen, rest.get("attn_mask")
        weights, biases = frozen.in_proj_weight.chunk(3), frozen.in_proj_bias.chunk(3)
        tokens = []
        for name, x, weight, bias in zip("qkv", (query, key, value), weights, biases, strict=True):
            update = self.updates[f"{name}B"] @ self.updates[f"{name}A"] / RANK**0.5  # (W, W)
            projected = F.linear(x, weight, bias) + self.dropout(x) @ update.T
            tokens.append(projected.unflatten(-1, (frozen.num_heads, -1)).transpose(1, 2))
        out = F.scaled_dot_product_attention(*tokens, attn_mask=mask)
        return frozen.out_proj(out.transpose(1, 2).flatten(2)), None
