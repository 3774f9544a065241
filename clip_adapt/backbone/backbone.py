"""One frozen CLIP, whatever its towers are."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor, nn

from clip_adapt.backbone import attention, image_tower, prompts, text_tower
from clip_adapt.backbone.compiling import compile_module
from clip_adapt.backbone.prompts import Position
from clip_adapt.backbone.weights import plan
from clip_adapt.config.cards import ModelCard, find_model
from clip_adapt.errors import InputError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
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
        attention.separate(model)
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.text_chunk: text_tower.Chunk = "auto"
        self.compiles = False
        self._plans: dict[Any, text_tower.Plan] = {}
        self.card = card
        self.transform: dict[str, Any] = dict(self.model.visual.preprocess_cfg)
        self.preprocess: Callable[[Any], Tensor] = image_transform_v2(
            PreprocessCfg(**self.transform), is_train=False
        )
        self.fingerprint = _fingerprint(self.model, architecture, self.image_size)

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
            compile: compile the towers, and the steps of methods that need none; takes a minute or
                two once, and pays off in long runs.

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
        backbone.to(device=chosen)._towers_to(dtype)
        if compile:
            backbone._compile()
        return backbone

    def twin(self) -> Backbone:
        """Return a backbone of modules of its own around the same frozen tensors.

        A tuner may be put into it; this one stays as it is, and no memory is spent on weights.
        """
        tensors = (*self.model.parameters(), *self.model.buffers())
        twin = copy.copy(self)
        twin._plans = {}
        model = copy.deepcopy(self.model, {id(t): t for t in tensors})
        twin.__dict__["_modules"] = {"model": model}
        if self.compiles:  # at its first call, with what a tuner has put into it by then
            twin._compile()
        return twin

    def train(self, mode: bool = True) -> Backbone:
        """Do nothing: the backbone is frozen for good."""
        return self

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return the unit image features (N, D) of transformed images (N, 3, S, S)."""
        # Faster for convolutions; but the way back through some of them (FastViT's) crashes in it
        # on a CPU (torch 2.15).
        learns = torch.is_grad_enabled() and self._learns
        last = self._is_convolutional and not learns
        layout = torch.channels_last if last else torch.contiguous_format
        pixels = pixels.to(device=self.device, dtype=self.dtype, memory_format=layout)
        tower = self.model.visual
        return _unit(image_tower.encode(tower, pixels) if learns else tower(pixels))

    def encode_text(self, texts: list[str]) -> Tensor:
        """Return the unit text features (C, D) of C texts.

        Raises:
            InputError: when a text has more tokens than the tower takes.
        """
        return self._encode(texts, None, "end")

    def encode_prompts(
        self, context: Tensor, texts: list[str], position: Position = "end"
    ) -> Tensor:
        """Return the unit features (C, D) of texts with learned context; gradients flow.

        Args:
            context: (n_ctx, W) shared by all texts, or (C, n_ctx, W) one of each text's own.
            texts: C texts, usually class names with a full stop.
            position: where the text stands: at the ``end`` of the context, in its ``middle``, or
                in ``front`` of it.

        Raises:
            InputError: when a prompt has more tokens than the tower takes.
        """
        return self._encode(texts, context, position)

    def class_weights(self, texts: list[list[str]]) -> Tensor:
        """Return one unit vector a class (C, D): the mean over its texts' features, normalised.

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
        ids = prompts.word_ids(self.tokenizer, text)
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
        return _at_least_float32(self.model.logit_scale.exp())

    @property
    def logit_bias(self) -> Tensor | None:
        """The bias that is added to scaled similarities (SigLIP), or None."""
        bias = getattr(self.model, "logit_bias", None)
        return None if bias is None else _at_least_float32(bias)

    @property
    def embed_dim(self) -> int:
        """D, the length of a feature."""
        return self._text_width_out()

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

    def _encode(self, texts: list[str], context: Tensor | None, position: Position) -> Tensor:
        tower = self.model.text
        need = text_tower.Need.of(tower, context, self.text_chunk, self.device)
        # Training asks for the same texts at every step.
        key = (tuple(texts), None if context is None else context.shape[-2], position, need)
        if key not in self._plans:
            if len(self._plans) == PLANS:
                self._plans.clear()
            self._plans[key] = text_tower.plan(tower, self._tokens(texts, context, position), need)
        return _unit(text_tower.encode(tower, self._plans[key], self.token_embedding, context))

    def _tokens(
        self, texts: list[str], context: Tensor | None, position: Position
    ) -> prompts.PromptTokens:
        length = self.context_length
        if context is not None:
            n_ctx = context.shape[-2]
            return prompts.with_slots(self.tokenizer, texts, n_ctx, position, length)
        ids = prompts.tokenize(self.tokenizer, texts, length)
        return prompts.PromptTokens(ids, torch.zeros_like(ids, dtype=torch.bool))

    def _text_width_out(self) -> int:
        projection = getattr(self.model.text, "text_projection", None)
        if isinstance(projection, nn.Linear):
            return projection.out_features
        if projection is not None:
            return int(projection.shape[1])
        return int(self.encode_text(["x"]).shape[1])

    @property
    def _learns(self) -> bool:
        return any(p.requires_grad for p in self.model.visual.parameters())

    @property
    def _is_convolutional(self) -> bool:
        # A transformer has one convolution, which cuts the patches.
        return sum(isinstance(m, nn.Conv2d) for m in self.model.visual.modules()) > 1

    def _towers_to(self, dtype: torch.dtype) -> None:
        # The scale and the bias of the logits are no part of a tower: in bf16 a scale of 100 would
        # be 98.9.
        both = (getattr(self.model, name) for name in ("logit_scale", "logit_bias"))
        scalars = [parameter for parameter in both if parameter is not None]
        kept = [parameter.detach().clone() for parameter in scalars]
        self.to(dtype=dtype)
        for parameter, value in zip(scalars, kept, strict=True):
            parameter.data = value

    def _compile(self) -> None:
        # The token embedding stays outside: learned context enters by a hook on it that changes
        # from call to call. Hooks inside what is compiled are looked for at every call.
        torch._dynamo.config.skip_nnmodule_hook_guards = False
        # One function serves every block of every tower and method, with and without gradients.
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        self.compiles = True
        text = self.model.text.transformer
        for module in (self.model.visual, getattr(text, "encoder", text)):
            compile_module(module)


def resolve_device(device: str) -> torch.device:
    """Return the device, ``auto`` being the best there is.

    Raises:
        InputError: when it does not exist here.
    """
    if device == "auto":
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device={device} cannot be used here: {reason} Use device=auto or device=cpu."
        ) from error
    return chosen


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of the frozen towers; ``auto`` is bf16 on a GPU that has it, else fp32.

    Raises:
        InputError: when the name is not known.
    """
    if precision == "auto":
        half = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if half else torch.float32
    if precision not in DTYPES:
        raise InputError(f"precision={precision}: expected one of auto, {', '.join(DTYPES)}")
    return DTYPES[precision]


def _unit(features: Tensor) -> Tensor:
    return F.normalize(_at_least_float32(features), dim=-1)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _fingerprint(model: nn.Module, architecture: dict[str, Any], image_size: int) -> str:
    digest = hashlib.sha256()
    digest.update(json.dumps([architecture, image_size], sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
