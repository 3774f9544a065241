"""Model folders: configuration, preprocess values, tokenizer, and weights in every format."""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import open_clip
import torch
from safetensors.torch import load_file

from tools.torture import examples
from tools.torture.judging import Call, make_call
from tools.torture.kind import Kind
from tools.torture.mutation import mutate_bytes, mutate_tree, write_json

FILES = dict[str, bytes]


@dataclass(frozen=True)
class Folders:
    """Valid model folders, each a map of its files; and a picture to predict on."""

    folders: list[FILES]
    picture: Path


def prepare(folder: Path) -> Folders:
    """Write a tiny CLIP as open_clip does, as transformers does, with a tokenizer of its own."""
    examples.write_pictures(folder / "pictures", per_class=1)
    own = _read_files(examples.write_model(folder / "own"))
    plain = {"open_clip_config.json": own["open_clip_config.json"]}
    sizes = {"model_cfg": {**examples.SIZES, "quick_gelu": True}}
    quick = {"open_clip_config.json": json.dumps(sizes).encode()}
    state = load_file(folder / "own" / "open_clip_model.safetensors")
    held = io.BytesIO()
    torch.save(state, held)
    folders = [
        own,
        {**plain, "open_clip_pytorch_model.bin": held.getvalue()},
        {**quick, "open_clip_pytorch_model.bin": _write_archive(folder / "archive.pt")},
        _read_files(_write_transformers(folder / "transformers")),
        _read_files(_write_with_tokenizer(folder / "tokenizer")),
    ]
    return Folders(folders, folder / "pictures" / "cat" / "0.png")


def attack(random: Random, valid: Folders, place: Path) -> Call:
    """Mutate one file of a folder: a configuration three times as often as weights."""
    files = dict(random.choice(valid.folders))
    small = [name for name in files if name.endswith((".json", ".txt"))]
    large = [name for name in files if name not in small]
    name = random.choice(small if random.random() < 0.75 else large)
    if name.endswith(".json") and random.random() < 0.75:
        files[name] = write_json(mutate_tree(random, json.loads(files[name])))
    elif name in large and random.random() < 0.5:
        files[name] = _spoil_ends(random, files[name])
    else:
        files[name] = mutate_bytes(random, files[name])
    if random.random() < 0.02:
        del files[name]
    (place / "model").mkdir()
    for name, data in files.items():
        (place / "model" / name).write_bytes(data)
    words = ("predict", str(valid.picture), "classes=[cat, dog]", f"model={place / 'model'}")
    return make_call(*words)


def _spoil_ends(random: Random, data: bytes) -> bytes:
    # A file's directory stands at one end of it, and most of its bytes are weights.
    head, tail = min(3000, len(data) // 3), min(6000, len(data) // 3)
    if random.random() < 0.5:
        return mutate_bytes(random, data[:head]) + data[head:]
    return data[:-tail] + mutate_bytes(random, data[-tail:])


def _read_files(folder: Path) -> FILES:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def _write_archive(file: Path) -> bytes:
    # As OpenAI published CLIP: a traced module with three sizes beside the weights.
    torch.manual_seed(0)
    sizes: dict[str, Any] = {**examples.SIZES, "quick_gelu": True}
    model: Any = open_clip.CLIP(**sizes).eval()
    for name, value in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 49408)):
        if hasattr(model, name):
            delattr(model, name)
        model.register_buffer(name, torch.tensor(value))
    inputs = {"encode_image": torch.zeros(1, 3, 32, 32), "encode_text": torch.zeros(1, 77).long()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace_module(model, inputs, check_trace=False), file)
    return file.read_bytes()


def _write_transformers(folder: Path) -> Path:
    import transformers

    transformers.logging.set_verbosity_error()
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
    sizes["num_attention_heads"] = 1
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config={**sizes, "vocab_size": 49408},
        vision_config={**sizes, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    size = {"image_mean": [0.5, 0.4, 0.4], "image_std": [0.2, 0.2, 0.2], "resample": 3,
            "size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32},
            "do_center_crop": True, "do_normalize": True, "rescale_factor": 0.00392}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(size))
    return folder


def _write_with_tokenizer(folder: Path) -> Path:
    # A text tower of open_clip's with the tokenizer of another model, as SigLIP has it.
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    sizes = json.loads(json.dumps(examples.SIZES))
    sizes["text_cfg"] |= {"vocab_size": 40, "context_length": 16, "hf_tokenizer_name": "mine"}
    sizes["text_cfg"] |= {"tokenizer_kwargs": {"clean": "canonicalize"}}
    torch.manual_seed(0)
    from safetensors.torch import save_file

    folder.mkdir()
    bare = {k: v for k, v in sizes["text_cfg"].items() if "token" not in k}
    model = open_clip.CustomTextCLIP(**{**sizes, "text_cfg": bare})
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    held = {"model_cfg": sizes, "preprocess_cfg": examples.PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(held))
    words = ["<pad>", "</s>", "<unk>", *["a", "photo", "of", "the", "cat", "dog", "eel", "."]]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


MODELS = Kind("models", prepare, attack)
