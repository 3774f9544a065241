"""Two towers from an open_clip configuration, with random weights, and their tokenizer.

Only what open_clip's own factory leaves to be wished is done here: nothing is fetched, Hugging Face
text towers are built from a configuration on disk, and of CoCa the contrastive part is kept.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import open_clip
import timm
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer
from torch import Tensor, nn

from clip_adapt.backbone.weights import foreign, hub
from clip_adapt.backbone.weights.preprocessing import read_preprocessing
from clip_adapt.errors import InputError
from clip_adapt.system.reading import read_json

Json = dict[str, Any]
TRIED = ("a photo", "an eye with cataract", "x-ray, no finding", "melanocytic naevus 2")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "spiece.model")


class TimmTower(nn.Module):
    """A timm network of sizes that have no name in timm: pixels (N, 3, S, S) -> features (N, D)."""

    def __init__(self, name: str, image_size: int, **sizes: Any) -> None:
        super().__init__()
        self.image_size = (image_size, image_size)
        self.trunk: Any = timm.create_model(name, pretrained=False, **{"num_classes": 0, **sizes})

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the pooled features."""
        return self.trunk(pixels)

    def set_input_size(self, image_size: int) -> None:
        """Take images of another size from now on."""
        self.image_size = (image_size, image_size)
        self.trunk.set_input_size(image_size)


def build_model(config: Json, image_size: int | None = None, folder: Path | None = None) -> Any:
    """Return a model of two towers with random weights; it has ``.visual`` and ``.text``.

    Args:
        config: open_clip's model configuration.
        image_size: pixels; None is the configuration's.
        folder: where a Hugging Face text tower's configuration may lie.

    Raises:
        InputError: when that configuration is not on this machine and cannot be fetched, or when
            one asks for code, or for what else is fetched or opened.
    """
    config = copy.deepcopy(config)
    config.pop("custom_text", None)
    vision, text = config["vision_cfg"], config["text_cfg"]
    if image_size is not None:
        vision["image_size"] = image_size
    foreign.check_sizes(config)
    if "timm_model_name" in vision:
        foreign.check_timm_tower(vision["timm_model_name"], vision.get("timm_kwargs") or {})
        vision["timm_model_pretrained"] = False
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
        text["hf_model_name"] = str(find_text_configuration(config, folder).parent)
    sizes = vision.pop("timm_kwargs", None)
    if sizes is not None:
        placeholder = {"layers": 0, "width": 8, "head_width": 8, "patch_size": 8, "image_size": 8}
        config["vision_cfg"] = placeholder
    coca = "multimodal_cfg" in config
    model = (open_clip.CoCa if coca else open_clip.CustomTextCLIP)(**config)
    if sizes is not None:
        model.visual = TimmTower(vision["timm_model_name"], vision["image_size"], **sizes)
    if "hf_model_name" in text:  # transformers' limit of positions is not a context length
        model.text.context_length = text.get("context_length", DEFAULT_CONTEXT_LENGTH)
        model.text.register_forward_pre_hook(_cut_padding)
    return model


def finish_model(model: Any, config: Json, preprocess: Json, image_size: int | None) -> None:
    """Bring a model whose weights are loaded to the form that a backbone has, in place.

    Raises:
        InputError: when a value of the preprocessing cannot be used.
    """
    if image_size is not None and hasattr(model.visual, "set_input_size"):
        model.visual.set_input_size(image_size)
    if hasattr(model, "text_decoder"):  # CoCa writes captions, too; only its towers are used
        del model.text_decoder
    for tower in (model.visual, model.text):
        tower.output_tokens = False
    model.visual.preprocess_cfg = read_preprocessing(preprocess, model.visual.image_size)


def build_tokenizer(name: str, config: Json, folder: Path | None = None) -> Any:
    """Return the tokenizer of a configuration: texts -> (N, context_length) token ids.

    Raises:
        InputError: when its files are not on this machine and cannot be fetched.
    """
    text = config["text_cfg"]
    length = text.get("context_length", DEFAULT_CONTEXT_LENGTH)
    options = foreign.check_tokenizer_options(text.get("tokenizer_kwargs") or {})
    if "hf_tokenizer_name" not in text:
        return SimpleTokenizer(context_length=length, **options)
    source = _find_place(text["hf_tokenizer_name"], folder, TOKENIZER_FILES)
    mode = text.get("tokenizer_mode")
    try:
        made = HFTokenizer(
            str(source),
            context_length=length,
            tokenizer_mode=mode,
            trust_remote_code=False,  # said, because transformers would ask at the terminal
            **options,
        )
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"model {name!r} needs the tokenizer of {source}, which is not on this machine and "
            f"cannot be fetched ({reason}). On a machine with a network run `hf download {source} "
            f"--local-dir DIR`, copy DIR here, and set hf_tokenizer_name to it in the model's "
            "open_clip configuration"
        ) from error
    _try_tokenizer(made, source, text.get("vocab_size"))
    return made


def _try_tokenizer(tokenizer: Any, source: Path | str, words: int | None) -> None:
    # What its files lack shows at the first text; a panic of its Rust code is no Exception.
    try:
        largest = int(tokenizer(list(TRIED)).max())
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the tokenizer of {source} cannot be used: {reason}") from error
    if words is not None and largest >= words:
        raise InputError(
            f"the tokenizer of {source} gives numbers up to {largest}, and its configuration says "
            f"vocab_size={words}: they do not belong together"
        )


def find_text_configuration(config: Json, folder: Path | None) -> Path:
    """Return the ``config.json`` of a Hugging Face text tower, fetched where it is not here."""
    name = config["text_cfg"]["hf_model_name"]
    place = _find_place(name, folder, ("config.json",))
    remedy = "hf_model_name=DIR in the model's open_clip configuration"
    file = (
        place / "config.json"
        if isinstance(place, Path)
        else hub.fetch(str(place), ("config.json",), remedy)
    )
    foreign.check_text_configuration(file)
    return file


def describe_architecture(config: Json, folder: Path | None, tokenizer: Any) -> Json:
    """Return what a fingerprint says of an architecture: its content, whatever its files' names.

    Args:
        config: open_clip's model configuration.
        folder: where a Hugging Face text tower's configuration may lie.
        tokenizer: known by the numbers that it gives to a few texts, where it is not CLIP's own.
    """
    config = copy.deepcopy(config)
    named = config["text_cfg"].pop("hf_tokenizer_name", None)
    if "hf_model_name" not in config["text_cfg"]:
        return {**config, "tokenizer": tokenizer(list(TRIED)).tolist()} if named else config
    held = read_json(find_text_configuration(config, folder))
    for passing in (
        "transformers_version",
        "_name_or_path",
        "torch_dtype",
        "dtype",
        "architectures",
    ):
        held.pop(passing, None)
    config["text_cfg"].pop("hf_model_name", None)
    return {**config, "hf_config": held}


def _cut_padding(tower: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
    # Hugging Face towers mask their padding, so what is padding in every row changes no output.
    (ids,) = inputs
    used = (ids != tower.config.pad_token_id).any(0).nonzero()
    return (ids[:, : int(used.max()) + 1],) if len(used) else inputs


def _find_place(name: str, folder: Path | None, files: tuple[str, ...]) -> Path | str:
    # A name in a configuration is a folder beside it, the configuration's own folder where the
    # files lie in it, any folder, or a hub id.
    candidates = [folder / name, folder] if folder is not None else []
    for candidate in (*candidates, Path(name)):
        if any(os.path.isfile(candidate / file) for file in files):
            return candidate
    return name
