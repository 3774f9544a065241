"""The causal text tower, distilled from the sentence embeddings through the text map."""

import logging
import math

import torch
from open_clip import CLIP, tokenize
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from lite.projection import ALIGNED
from lite.sources import Teacher

log = logging.getLogger(__name__)
LEARNING_RATE, WARMUP, BATCH = 2.5e-3, 200, 256
HELD_OUT = 1500


class Tokens(nn.Module):
    """Token rows = E0 A + a free row, so that tokens no text shows still get a meaningful row.

    E0 (49408, 384) is the teacher's embedding of the token's string, and is not trained.
    """

    def __init__(self, start: Tensor, width: int, ids: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start)
        self.register_buffer("seen", ids.unique())
        self.register_buffer("place", torch.zeros(len(start), dtype=torch.long))
        self.place[self.seen] = torch.arange(len(self.seen))
        self.map = nn.Parameter(torch.randn(start.shape[1], width) / math.sqrt(start.shape[1]))
        self.free = nn.Embedding(len(self.seen), width)
        nn.init.zeros_(self.free.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (B, T) of seen tokens -> rows (B, T, width)."""
        return self.start[ids] @ self.map + self.free(self.place[ids])

    @torch.no_grad()
    def table(self) -> Tensor:
        """All rows, (49408, width)."""
        return (self.start @ self.map).index_add(0, self.seen, self.free.weight)


def starting_rows(teacher: Teacher) -> Tensor:
    """Mean word-piece embedding of every token's string, standardised, (49408, 384)."""
    decoder = SimpleTokenizer().decoder
    strings = [decoder[i].replace("</w>", "") for i in range(len(decoder))]
    pieces = teacher.tokenizer.encode_batch(strings, add_special_tokens=False)
    table = teacher.table
    rows = [table[p.ids].mean(0) if p.ids else torch.zeros(table.shape[1]) for p in pieces]
    stacked = torch.stack(rows)
    return (stacked - stacked.mean(0)) / stacked.std()


def train(model: CLIP, start: Tensor, texts: list[str], targets: Tensor, epochs: int) -> Tokens:
    """Distil ``targets`` (N, 160) into the text half of ``model``, in place; return its token rows.

    Loss: 3 (1 - cos) + 0.3 in-batch cross entropy; batches hold texts of like length and are
    truncated to the longest.
    """
    ids = tokenize(texts)
    lengths = ids.argmax(-1) + 1  # the end token has the largest id
    tokens = Tokens(start, model.ln_final.weight.numel(), ids)
    parts = (tokens, model.transformer, model.ln_final)
    parameters = [p for part in parts for p in part.parameters()]
    parameters += [model.positional_embedding, model.text_projection]
    optimizer = torch.optim.AdamW(
        parameters, LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.98), fused=True
    )
    held, kept = torch.arange(HELD_OUT), torch.arange(HELD_OUT, len(texts))
    steps = epochs * math.ceil(len(kept) / BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: _factor(s, steps))
    generator = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        for rows in _batches(kept, lengths, generator):
            z = encode(model, tokens, ids[rows, : lengths[rows].max()])
            loss = _loss(z, targets[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            if schedule.last_epoch % 100 == 0:
                log.info("step %d of %d: loss %.3f", schedule.last_epoch, steps, loss.item())
        quality = _held_out(model, tokens, ids[held], targets[held])
        log.info("epoch %d of %d: %s", epoch + 1, epochs, quality)
    return tokens


def encode(model: CLIP, tokens: Tokens, ids: Tensor) -> Tensor:
    """The tower of ``model`` on truncated ids (B, T): unit vectors (B, 160)."""
    width = ids.shape[1]
    x = tokens(ids) + model.positional_embedding[:width]
    x = model.transformer(x, attn_mask=model.attn_mask[:width, :width])
    x = model.ln_final(x)[torch.arange(len(ids)), ids.argmax(-1)]
    return normalize(x @ model.text_projection[:, :ALIGNED], dim=-1)


def _loss(z: Tensor, target: Tensor) -> Tensor:
    cosine = (z * target).sum(-1).mean()
    return 3 * (1 - cosine) + 0.3 * cross_entropy(20 * z @ target.T, torch.arange(len(z)))


def _factor(step: int, steps: int) -> float:
    return min((step + 1) / WARMUP, 0.5 * (1 + math.cos(math.pi * step / steps)))


def _batches(rows: Tensor, lengths: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Batches of like length in random order; texts of one length are shuffled among themselves."""
    shuffled = rows[torch.randperm(len(rows), generator=generator)]
    ordered = shuffled[lengths[shuffled].argsort(stable=True)]
    batches = list(ordered.split(BATCH))
    return [batches[int(i)] for i in torch.randperm(len(batches), generator=generator)]


@torch.no_grad()
def _held_out(model: CLIP, tokens: Tokens, ids: Tensor, targets: Tensor) -> str:
    z = torch.cat([encode(model, tokens, part) for part in ids[:, :48].split(BATCH)])
    hits = ((z @ targets.T).argmax(1) == torch.arange(len(z))).float().mean().item()
    return f"held-out cosine {(z * targets).sum(-1).mean().item():.3f}, retrieval@1 {hits:.3f}"
