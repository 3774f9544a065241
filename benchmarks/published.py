"""The published algorithms, written straightforwardly on open_clip's own model."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_adapt import prompts
from clip_adapt.backbone import Backbone
from clip_adapt.cards import ModelCard

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


def towers(architecture: str, device: str) -> tuple[nn.Module, Backbone]:
    """Return the same random towers twice: as open_clip builds them, and as our backbone.

    Args:
        architecture: open_clip's name, or the path of a configuration.json of its kind.
        device: where to put them.
    """
    card = ModelCard(architecture, "random", name=architecture)
    logging.disable(logging.WARNING)  # random weights are what is wanted
    if architecture.endswith(".json"):
        open_clip.add_model_config(architecture)
        architecture = Path(architecture).stem
    torch.manual_seed(0)
    model = open_clip.create_model(architecture, force_custom_text=True).to(device).eval()
    torch.manual_seed(0)
    backbone = Backbone.from_card(card, device=device, precision="fp32")
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
