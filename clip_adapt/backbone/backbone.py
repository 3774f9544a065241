"""One frozen CLIP, whatever its towers are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor, nn

from clip_adapt.backbone import attention, dense, image_tower, prompts, text_tower
from clip_adapt.backbone.blocks import ATTRIBUTES, Block, Side, find_blocks
from clip_adapt.backbone.compiling import compile_towers
from clip_adapt.backbone.devices import cast_towers, resolve_device, resolve_precision
from clip_adapt.backbone.encoding_plan import ChunkSize, EncodingPlan, Need, plan_encoding
from clip_adapt.backbone.prompts import Position
from clip_adapt.backbone.weights import plan
from clip_adapt.backbone.weights.fingerprint import compute_fingerprint
from clip_adapt.config.cards import ModelCard, find_model
from clip_adapt.errors import InputError

PLANS = 8  # ways of known texts through the text tower that are remembered


class Backbone(nn.Module):
    """The two frozen towers of a CLIP model, its tokenizer and its image transform.

    Every parameter is frozen and in eval mode, for good: ``train()`` changes nothing.

    Attributes:
        card: the name, architecture and weights that it was loaded by.
        transform: what ``preprocess`` does: size, mean, std, interpolation, resize mode.
        fingerprint: SHA-256 over architecture and weights; what a delta is bound to.
        preprocess: the evaluation transform of these weights, PIL image -> (3, S, S).
        tokenizer: texts -> (N, context_length) token ids.
        text_chunk: prompts that pass the text tower at a time; ``auto`` looks at the memory.
        compiles: whether the towers are compiled, and with them the steps of a training.
    """

    model: Any  # open_clip's classes share no type that names .visual and .text

    def __init__(
        self, model: nn.Module, tokenizer: Any, card: ModelCard, architecture: dict[str, Any]
    ) -> None:
        super().__init__()
        attention.separate_attention(model)
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.text_chunk: ChunkSize = "auto"
        self.compiles = False
        self._plans: dict[Any, EncodingPlan] = {}
        self.card = card
        self.transform: dict[str, Any] = dict(self.model.visual.preprocess_cfg)
        self.preprocess: Callable[[Any], Tensor] = image_transform_v2(
            PreprocessCfg(**self.transform), is_train=False
        )
        self.fingerprint = compute_fingerprint(self.model, architecture, self.image_size)

    @classmethod
    def load(
        cls,
        name: str,
        *,
        pretrained: str | None = None,
        image_size: int | None = None,
        device: str = "auto",
        precision: str = "auto",
        compile: bool = False,
    ) -> Backbone:
        """Load a backbone.

        Args:
            name: a short name (configs/model), a card.yaml, an open_clip architecture, a folder
                with a configuration and weights (open_clip's or transformers'), or
                ``hf-hub:owner/name``.
            pretrained: an open_clip tag, a local file or folder, ``hf-hub:owner/name``, or
                ``random``; in place of the card's.
            image_size: pixels; None is the card's or the weights' own.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
            precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
            compile: compile towers and steps; takes a minute or two once, and pays in long runs.

        Raises:
            InputError: with the reason and the remedy, when that cannot be had.
        """
        given = {"pretrained": pretrained, "image_size": image_size}
        card = find_model(name, {k: v for k, v in given.items() if v is not None})
        return cls.from_card(card, device=device, precision=precision, compile=compile)

    @classmethod
    def from_card(
        cls,
        card: ModelCard,
        *,
        device: str = "auto",
        precision: str = "auto",
        compile: bool = False,
    ) -> Backbone:
        """Load the backbone that a model card describes; see ``load``."""
        chosen = resolve_device(device)
        dtype = resolve_precision(precision, chosen)
        loaded = plan.load(card)
        backbone = cls(loaded.model, loaded.tokenizer, card, loaded.architecture)
        cast_towers(backbone.model.to(chosen), dtype)
        if compile:
            backbone.compiles = True
            compile_towers(backbone.model)
        return backbone

    def twin(self) -> Backbone:
        """Return a backbone of modules of its own around the same frozen tensors.

        A tuner may be put into it; this one stays as it is, and no memory is spent on weights.
        """
        shared = {id(t): t for t in (*self.model.parameters(), *self.model.buffers())}
        twin = copy.copy(self)
        twin._plans = {}
        twin.__dict__["_modules"] = {"model": copy.deepcopy(self.model, shared)}
        if self.compiles:  # at its first call, with what a tuner has put into it by then
            compile_towers(twin.model)
        return twin

    def train(self, mode: bool = True) -> Backbone:
        """Do nothing: the backbone is frozen for good."""
        return self

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return the unit image features (N, D) of transformed images (N, 3, S, S)."""
        pixels = pixels.to(device=self.device, dtype=self.dtype)
        return _normalise(image_tower.encode(self.model.visual, pixels))

    def dense(self, pixels: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Return what blocks of the image tower give: a map (N, H, W, C) per layer; gradients flow.

        A Vision Transformer's class token and registers are left out. A convolutional tower's maps
        are those behind its stages, each of its own size.

        Args:
            pixels: transformed images (N, 3, S, S).
            layers: numbers of blocks as in ``blocks("image")``; -1 is the last.

        Raises:
            InputError: when there is no such block.
        """
        pixels = pixels.to(device=self.device, dtype=self.dtype)
        maps = dense.record_maps(self.model.visual, pixels, layers)
        return [_raise_to_float32(found) for found in maps]

    def blocks(self, side: Side) -> tuple[Block, ...]:
        """Return the residual blocks of the ``image`` or the ``text`` tower, from input to output.

        Of a ``twin`` they may be replaced, see blocks.py.

        Raises:
            InputError: when the tower is of a class that is not known.
        """
        prefix = ATTRIBUTES[side]
        found = find_blocks(getattr(self.model, prefix))
        return tuple(replace(block, name=f"{prefix}.{block.name}") for block in found)

    def encode_text(self, texts: list[str]) -> Tensor:
        """Return the unit text features (C, D) of C texts.

        Raises:
            InputError: when a text has more tokens than the tower takes.
        """
        return self._encode(texts, None, "end", None)

    def encode_prompts(
        self,
        context: Tensor,
        texts: list[str],
        position: Position = "end",
        *,
        deep: Tensor | None = None,
    ) -> Tensor:
        """Return the unit features (C, D) of texts with learned context; gradients flow.

        Args:
            context: (n_ctx, W) shared by all texts, or (C, n_ctx, W) one of each text's own.
            texts: C texts, usually class names with a full stop.
            position: where the text stands: at the ``end`` of the context, in its ``middle``, or
                in ``front`` of it.
            deep: (blocks, n_ctx, W), or (C, blocks, n_ctx, W) one of each text's own: what replaces
                the states of the context's tokens at the input of the second block, the third ...

        Raises:
            InputError: when a prompt has more tokens than the tower takes, or ``deep`` is of
                another shape or for more blocks than there are.
        """
        if deep is not None:
            context, deep = prompts.match_deep(context, deep, self.blocks("text"), len(texts))
        return self._encode(texts, context, position, deep)

    def class_weights(self, texts: list[list[str]]) -> Tensor:
        """Return one unit vector per class (C, D): the mean over its texts' features, normalised.

        Args:
            texts: for every class the texts that stand for it.
        """
        flat = [text for of_class in texts for text in of_class]
        features = self.encode_text(flat).split([len(of_class) for of_class in texts])
        return torch.stack([F.normalize(f.mean(0), dim=0) for f in features])

    def embed_words(self, text: str) -> Tensor:
        """Return the token embeddings (n, W) of the words of a text, in float32, on the CPU.

        Raises:
            InputError: when the text holds no words.
        """
        ids = prompts.tokenize_words(self.tokenizer, text)
        if not ids:
            raise InputError(f"no words to start the context from: {text!r}")
        table = self.token_embedding  # some towers scale what they look up
        return table(torch.tensor(ids, device=self.device)).detach().float().cpu()

    @property
    def device(self) -> torch.device:
        """Where the towers are."""
        return self.model.logit_scale.device

    @property
    def dtype(self) -> torch.dtype:
        """What the towers compute in."""
        return self.token_embedding.weight.dtype

    @property
    def logit_scale(self) -> Tensor:
        """The factor (a scalar, already exponentiated) on cosine similarities."""
        return _raise_to_float32(self.model.logit_scale.exp())

    @property
    def logit_bias(self) -> Tensor | None:
        """The bias that is added to scaled similarities (SigLIP), or None."""
        bias = getattr(self.model, "logit_bias", None)
        return None if bias is None else _raise_to_float32(bias)

    @property
    def embed_dim(self) -> int:
        """D, the length of a feature."""
        projection = getattr(self.model.text, "text_projection", None)
        if isinstance(projection, nn.Linear):
            return projection.out_features
        if projection is not None:
            return int(projection.shape[1])
        return int(self.encode_text(["x"]).shape[1])

    @property
    def image_size(self) -> int:
        """S, the edge of an input image in pixels."""
        size = self.model.visual.image_size
        return int(size if isinstance(size, int) else size[0])

    @property
    def context_length(self) -> int:
        """The longest sequence of the text tower, in tokens."""
        return int(self.model.text.context_length)

    @property
    def token_embedding(self) -> nn.Embedding:
        """The table (vocabulary, W) in which the text tower looks up its tokens."""
        text = self.model.text
        if hasattr(text, "token_embedding"):
            return text.token_embedding
        return text.transformer.get_input_embeddings()

    @property
    def token_width(self) -> int:
        """W, the length of a token embedding, and so of a context vector."""
        return int(self.token_embedding.weight.shape[1])

    def _encode(
        self, texts: list[str], context: Tensor | None, position: Position, deep: Tensor | None
    ) -> Tensor:
        tower = self.model.text
        # What deep prompts change of a plan (gradients, vectors of each text's own) is in the need.
        need = Need.of(tower, context, deep, self.text_chunk, self.device)
        n_ctx = 0 if context is None else context.shape[-2]
        key = (tuple(texts), n_ctx, position, need)
        if key not in self._plans:  # training asks for the same texts at every step
            if len(self._plans) == PLANS:
                self._plans.clear()
            length = self.context_length
            tokens = prompts.tokenize_prompts(self.tokenizer, texts, n_ctx, position, length)
            self._plans[key] = plan_encoding(tower, tokens, need)
        plan, embedding = self._plans[key], self.token_embedding
        return _normalise(text_tower.encode(tower, plan, embedding, context, deep))


def _normalise(features: Tensor) -> Tensor:
    return F.normalize(_raise_to_float32(features), dim=-1)


def _raise_to_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
