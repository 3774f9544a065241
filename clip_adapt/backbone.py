"""One frozen CLIP, whatever its towers are."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor, nn

from clip_adapt import attention, prompts, text
from clip_adapt.cards import ModelCard, find_model, names
from clip_adapt.errors import InputError, nearest
from clip_adapt.files import resource
from clip_adapt.prompts import Position

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
    """

    model: Any  # open_clip's classes share no type that names .visual and .text

    def __init__(
        self, model: nn.Module, tokenizer: Any, card: ModelCard, architecture: dict[str, Any]
    ) -> None:
        super().__init__()
        attention.separate(model)
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.text_chunk: text.Chunk = "auto"
        self._plans: dict[Any, text.Plan] = {}
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
    ) -> Backbone:
        """Load a backbone.

        Args:
            name: a short name (configs/model), a card.yaml, or an open_clip architecture.
            pretrained: an open_clip tag, a local file, or ``random``; in place of the card's.
            image_size: pixels; None is the card's or the weights' own.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
            precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.

        Raises:
            InputError: with the reason and the remedy, when that cannot be had.
        """
        given = {"pretrained": pretrained, "image_size": image_size}
        card = find_model(name, {k: v for k, v in given.items() if v is not None})
        return cls.from_card(card, device=device, precision=precision)

    @classmethod
    def from_card(
        cls, card: ModelCard, *, device: str = "auto", precision: str = "auto"
    ) -> Backbone:
        """Load the backbone that a model card describes; see ``load``."""
        chosen = resolve_device(device)
        dtype = resolve_precision(precision, chosen)
        name, config = _architecture(card)
        weights = _weights(card, name, config)
        with _clear_errors(card):
            model = open_clip.create_model(
                name,
                pretrained=weights,
                device="cpu",
                force_custom_text=True,
                force_image_size=card.image_size,
                require_pretrained=weights is not None,
                pretrained_text=False,
            )
            tokenizer = open_clip.get_tokenizer(name)
        backbone = cls(model, tokenizer, card, config)
        return backbone.to(device=chosen, dtype=dtype)

    def twin(self) -> Backbone:
        """Return a backbone of modules of its own around the same frozen tensors.

        A tuner may be put into it; this one stays as it is, and no memory is spent on weights.
        """
        tensors = (*self.model.parameters(), *self.model.buffers())
        twin = copy.copy(self)
        twin.__dict__.pop("_last_prompts", None)
        model = copy.deepcopy(self.model, {id(t): t for t in tensors})
        twin.__dict__["_modules"] = {"model": model}
        return twin

    def train(self, mode: bool = True) -> Backbone:
        """Do nothing: the backbone is frozen for good."""
        return self

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return the unit image features (N, D) of transformed images (N, 3, S, S)."""
        layout = torch.channels_last if self._is_convolutional else torch.contiguous_format
        pixels = pixels.to(device=self.device, dtype=self.dtype, memory_format=layout)
        return _unit(self.model.visual(pixels))

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
        table = self.token_embedding.weight
        return table[torch.tensor(ids, device=table.device)].detach().float().cpu()

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
        need = text.Need.of(tower, context, self.text_chunk, self.device)
        # Training asks for the same texts at every step.
        key = (tuple(texts), None if context is None else context.shape[-2], position, need)
        if key not in self._plans:
            if len(self._plans) == PLANS:
                self._plans.clear()
            self._plans[key] = text.plan(tower, self._tokens(texts, context, position), need)
        return _unit(text.encode(tower, self._plans[key], self.token_embedding, context))

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
    def _is_convolutional(self) -> bool:
        blocks = (attention.SeparateAttention, nn.MultiheadAttention)
        return not any(isinstance(m, blocks) for m in self.model.visual.modules())


def require_known(card: ModelCard) -> None:
    """Check that a model card names an architecture and weights that exist; load nothing.

    Raises:
        InputError: with what exists, when it does not.
    """
    name, config = _architecture(card)
    _weights(card, name, config)


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


def _architecture(card: ModelCard) -> tuple[str, dict[str, Any]]:
    if card.architecture.endswith(".json"):
        path = _path(card.architecture)
        if not path.is_file():
            raise InputError(f"the architecture file {path} does not exist")
        open_clip.add_model_config(path)
        name = path.stem
    else:
        name = card.architecture
    config = open_clip.get_model_config(name)
    if config is None:
        known = [*names("model"), *open_clip.list_models()]
        raise InputError(
            f"unknown model {card.name or name!r}{nearest(name, known)} There is: "
            f"{', '.join(names('model'))}; or any of open_clip's {len(open_clip.list_models())} "
            "architectures with model.pretrained=TAG or FILE."
        )
    return name, config


def _weights(card: ModelCard, name: str, config: dict[str, Any]) -> str | None:
    tags = open_clip.list_pretrained_tags_by_model(name)
    if card.pretrained is None:
        raise InputError(
            f"model {card.name!r} needs weights: give model.pretrained=TAG "
            f"({', '.join(tags) or 'none is known'}), a file, or random (untrained)"
        )
    if card.pretrained == "random":
        return None
    if card.pretrained in tags:
        _require_same_gelu(card, name, config)
        return card.pretrained
    path = _path(card.pretrained)
    if not path.is_file():
        raise InputError(
            f"model.pretrained={card.pretrained} is neither a tag of {name} nor a file (looked at "
            f"{path.absolute()}){nearest(card.pretrained, tags)} Tags: {', '.join(tags) or 'none'}."
        )
    return str(path)


def _require_same_gelu(card: ModelCard, name: str, config: dict[str, Any]) -> None:
    assert card.pretrained is not None, "only weights with a tag are checked"
    quick = bool(open_clip.get_pretrained_cfg(name, card.pretrained).get("quick_gelu", False))
    if quick == bool(config.get("quick_gelu", False)):
        return
    right = f"{name}-quickgelu" if quick else name.removesuffix("-quickgelu")
    raise InputError(
        f"{card.pretrained} weights of {name} were trained with {'Quick' if quick else ''}GELU: "
        f"use model={right}, otherwise accuracy is lost without a word"
    )


@contextmanager
def _clear_errors(card: ModelCard) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # open_clip, safetensors and the hub each have errors of their own
        reason = " ".join(str(error).split())[:300]
        offline = (
            " The weights come from the hub: connect to the network once, or fetch the file "
            "elsewhere and give model.pretrained=FILE."
            if not os.path.isfile(_path(card.pretrained or ""))
            else " The file does not fit this architecture or is damaged."
        )
        raise InputError(f"model {card.name!r} cannot be loaded: {reason}.{offline}") from error


def _path(text: str) -> Path:
    inside = text.removeprefix("package:")
    return resource(*inside.split("/")) if inside != text else Path(text).expanduser()


def _fingerprint(model: nn.Module, architecture: dict[str, Any], image_size: int) -> str:
    digest = hashlib.sha256()
    digest.update(json.dumps([architecture, image_size], sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
