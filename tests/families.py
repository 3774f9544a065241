"""One tiny model of every family of towers, with random weights, written as users have them."""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch
from safetensors.torch import save_file

from clip_adapt.backbone.weights import towers
from clip_adapt.config.cards import ModelCard

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
SIGLIP = {
    "timm_model_name": "vit_base_patch16_siglip_224",
    "image_size": 32,
    "timm_kwargs": {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2},
}
WORDS = "a photo of an eye with cataract pterygium corneal scarring the cat dog . - , ?"


def bert(kind: str) -> dict:
    """Return an architecture with a timm image tower and a Hugging Face text tower."""
    vision = {"timm_model_name": "test_vit", "timm_proj": "linear", "image_size": 32}
    # BiomedCLIP takes BERT's first token, open_clip's RoBERTa models the mean over the tokens.
    pooler = {"bert": "cls_last_hidden_state_pooler", "roberta": "mean_pooler"}[kind]
    text = {
        "hf_model_name": kind,
        "hf_tokenizer_name": kind,
        "hf_proj_type": "mlp",
        "hf_pooler_type": pooler,
        "context_length": 40,
    }
    return {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}


FAMILIES = {
    "vit": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": TEXT},
    "own-attention": {
        "embed_dim": 24,
        "vision_cfg": {**VIT, "qk_norm": True, "scale_heads": True},
        "text_cfg": {**TEXT, "qk_norm": True, "scale_attn_inner": True},
    },
    "resnet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
        "text_cfg": TEXT,
    },
    "siglip": {
        "embed_dim": 32,
        "init_logit_bias": -10,
        "vision_cfg": SIGLIP,
        "text_cfg": {
            **TEXT,
            "width": 32,
            "context_length": 24,
            "vocab_size": 80,
            "hf_tokenizer_name": "siglip",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
        },
    },
    "coca": {
        "embed_dim": 24,
        "vision_cfg": {
            **VIT,
            "attentional_pool": True,
            "attn_pooler_heads": 2,
            "attn_pooler_queries": 4,
            "output_tokens": True,
        },
        "text_cfg": {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**TEXT, "context_length": 76, "attn_pooler_heads": 2},
    },
    "timm-vit": {
        "embed_dim": 24,
        "vision_cfg": {"timm_model_name": "test_vit", "image_size": 32},
        "text_cfg": TEXT,
    },
    "pe-core": {
        "embed_dim": 24,
        "vision_cfg": {
            "timm_model_name": "vit_pe_core_tiny_patch16_384",
            "image_size": 32,
            "timm_kwargs": {
                "img_size": 32,
                "embed_dim": 32,
                "depth": 2,
                "num_heads": 2,
                "num_classes": 24,
            },
        },
        "text_cfg": {**TEXT, "context_length": 32},
    },
    "convnext": {
        "embed_dim": 24,
        "vision_cfg": {"timm_model_name": "test_convnext", "timm_pool": "", "image_size": 64},
        "text_cfg": TEXT,
    },
    "efficientnet": {
        "embed_dim": 24,
        "vision_cfg": {"timm_model_name": "test_efficientnet", "timm_pool": "", "image_size": 64},
        "text_cfg": TEXT,
    },
    "mobileclip": {
        "embed_dim": 64,
        "vision_cfg": {
            "timm_model_name": "fastvit_mci0",
            "image_size": 64,
            "timm_kwargs": {"layers": [1, 1, 1, 1], "embed_dims": [8, 16, 32, 32]},
        },
        "text_cfg": {**TEXT, "no_causal_mask": True},
    },
    "bert": bert("bert"),
    "roberta": bert("roberta"),
}


def write(name: str, folder: Path) -> ModelCard:
    """Write the architecture, its tokenizer and random weights; return the card of them."""
    config = FAMILIES[name]
    for kind in ("bert", "roberta", "siglip"):
        if kind == name:
            write_text_files(kind, folder / kind)
    architecture = folder / f"{name}.json"
    architecture.write_text(json.dumps(config))
    torch.manual_seed(0)
    model = towers.build_model(config, folder=folder)
    weights = folder / f"{name}.safetensors"
    save_file({k: wider(k, v) for k, v in model.state_dict().items()}, weights)
    return ModelCard(str(architecture), str(weights), name=name)


def wider(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return weights away from zero and one, which many layers start at and hide mistakes by."""
    if not tensor.is_floating_point() or name in ("logit_scale", "logit_bias"):
        return tensor.contiguous()
    moved = tensor + 0.05 * torch.randn_like(tensor)
    return moved.abs().contiguous() if name.endswith("running_var") else moved.contiguous()


def write_text_files(kind: str, folder: Path) -> None:
    """Write a tokenizer of a few words and, where there is one, the text tower's configuration."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = {"bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]"], "roberta": ["<s>", "<pad>", "</s>"]}
    first = special.get(kind, ["<pad>", "</s>"])
    vocabulary = [*first, "<unk>", *string.ascii_lowercase, *WORDS.split()]
    ids = {word: index for index, word in enumerate(dict.fromkeys(vocabulary))}
    made = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    begin, end = {"bert": ("[CLS]", "[SEP]"), "roberta": ("<s>", "</s>")}.get(kind, ("", "</s>"))
    made.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}".strip(),
        special_tokens=[(token, ids[token]) for token in (begin, end) if token],
    )
    pad = {"bert": "[PAD]", "roberta": "<pad>", "siglip": "</s>"}[kind]  # SigLIP's is its end
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=pad, eos_token=end, unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    sizes = {
        "vocab_size": 80,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "pad_token_id": ids[pad],
    }
    if kind == "bert":
        transformers.BertConfig(**sizes).save_pretrained(folder)
    elif kind == "roberta":
        transformers.RobertaConfig(**sizes, bos_token_id=0, eos_token_id=2).save_pretrained(folder)
