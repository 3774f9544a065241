"""CLIP and SigLIP as transformers writes them, brought to open_clip's configuration and names.

The towers are the same functions under other names, so a converted model gives the same numbers:
https://github.com/huggingface/transformers, models/clip and models/siglip, read off version 5.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clip_adapt.errors import InputError

KINDS = ("clip", "siglip")
CLIP_VOCABULARY = 49408

Json = dict[str, Any]

# transformers' name inside a layer: open_clip's in a block, timm's in a block
_LAYER = {
    "layer_norm1": ("ln_1", "norm1"),
    "layer_norm2": ("ln_2", "norm2"),
    "self_attn.out_proj": ("attn.out_proj", "attn.proj"),
    "mlp.fc1": ("mlp.c_fc", "mlp.fc1"),
    "mlp.fc2": ("mlp.c_proj", "mlp.fc2"),
}
_TEXT = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
    "head.weight": "text_projection.weight",
    "head.bias": "text_projection.bias",
}
_CLIP_IMAGE = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm.weight": "ln_pre.weight",
    "pre_layrnorm.bias": "ln_pre.bias",
    "post_layernorm.weight": "ln_post.weight",
    "post_layernorm.bias": "ln_post.bias",
}
_SIGLIP_IMAGE = {
    "embeddings.patch_embedding.weight": "patch_embed.proj.weight",
    "embeddings.patch_embedding.bias": "patch_embed.proj.bias",
    "embeddings.position_embedding.weight": "pos_embed",
    "post_layernorm.weight": "norm.weight",
    "post_layernorm.bias": "norm.bias",
    "head.probe": "attn_pool.latent",
    "head.attention.out_proj.weight": "attn_pool.proj.weight",
    "head.attention.out_proj.bias": "attn_pool.proj.bias",
    "head.layernorm.weight": "attn_pool.norm.weight",
    "head.layernorm.bias": "attn_pool.norm.bias",
    "head.mlp.fc1.weight": "attn_pool.mlp.fc1.weight",
    "head.mlp.fc1.bias": "attn_pool.mlp.fc1.bias",
    "head.mlp.fc2.weight": "attn_pool.mlp.fc2.weight",
    "head.mlp.fc2.bias": "attn_pool.mlp.fc2.bias",
}


def convert_configuration(written: Json, tokenizer: str) -> Json:
    """Return open_clip's configuration of a ``config.json`` of transformers.

    Args:
        written: the content of ``config.json``; what it leaves out has transformers' default.
        tokenizer: the folder or hub id of the tokenizer, where CLIP's own does not serve.

    Raises:
        InputError: for another kind of model, or a detail that open_clip's towers do not have.
    """
    kind = written.get("model_type")
    if kind not in KINDS:
        raise InputError(
            f"a transformers model of type {kind!r} is not a known CLIP: expected one of "
            f"{', '.join(KINDS)} (for an open_clip model a folder with open_clip_config.json)"
        )
    from transformers import CLIPConfig, SiglipConfig

    full: Any = (CLIPConfig if kind == "clip" else SiglipConfig).from_dict(written)
    made = _convert_clip(full) if kind == "clip" else _convert_siglip(full)
    if full.text_config.vocab_size != CLIP_VOCABULARY:
        made["text_cfg"]["hf_tokenizer_name"] = tokenizer
    if kind == "siglip":
        made["text_cfg"]["tokenizer_kwargs"] = {"clean": "canonicalize"}
    return made


def convert_tensors(written: Json, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of transformers under open_clip's names."""
    siglip = written["model_type"] == "siglip"
    made: dict[str, Tensor] = {}
    for name, tensor in _join_projections(state).items():
        tower, _, rest = name.partition(".")
        if name in ("logit_scale", "logit_bias"):
            made[name] = tensor
        elif name == "visual_projection.weight":
            made["visual.proj"] = tensor.T
        elif name == "text_projection.weight":
            made["text.text_projection"] = tensor.T
        elif rest.endswith("position_ids"):
            continue
        elif tower == "text_model":
            made["text." + _rename_inside(rest, _TEXT, "transformer.resblocks", timm=False)] = (
                tensor
            )
        elif siglip:
            table = {**_SIGLIP_IMAGE, **_POOL}
            made["visual.trunk." + _rename_inside(rest, table, "blocks", timm=True)] = tensor
        else:
            renamed = _rename_inside(rest, _CLIP_IMAGE, "transformer.resblocks", timm=False)
            made[f"visual.{renamed}"] = tensor
    if siglip:
        made["visual.trunk.pos_embed"] = made["visual.trunk.pos_embed"].unsqueeze(0)
    return made


def _convert_clip(full: Any) -> Json:
    image, text = full.vision_config, full.text_config
    if {image.hidden_act, text.hidden_act} not in ({"quick_gelu"}, {"gelu"}):
        raise InputError(
            f"the towers have the activations {image.hidden_act} and {text.hidden_act}: open_clip "
            "knows quick_gelu in both, or gelu in both"
        )
    end = text.eos_token_id
    # 2 is a mistake of old files, which transformers reads as "the largest token id".
    pooling = {} if end in (2, CLIP_VOCABULARY - 1) else {"pool_type": "eos", "eos_id": end}
    return {
        "embed_dim": full.projection_dim,
        "quick_gelu": image.hidden_act == "quick_gelu",
        "vision_cfg": {
            **_read_sizes(image),
            "head_width": image.hidden_size // image.num_attention_heads,
            "patch_size": image.patch_size,
            "image_size": image.image_size,
        },
        "text_cfg": {**_read_text_sizes(text), **pooling},
    }


def _convert_siglip(full: Any) -> Json:
    image, text = full.vision_config, full.text_config
    if not getattr(image, "vision_use_head", True) or image.layer_norm_eps != 1e-6:
        raise InputError("a SigLIP without its pooling head, or with another epsilon, is not known")
    if image.hidden_act != text.hidden_act or image.hidden_act not in _GELU:
        raise InputError(f"the activation {image.hidden_act} is not known: {', '.join(_GELU)}")
    timm, approximate = _GELU[image.hidden_act]
    return {
        "embed_dim": image.hidden_size,
        "init_logit_bias": -10.0,
        "vision_cfg": {
            "timm_model_name": "vit_base_patch16_siglip_224",
            "timm_pool": "map",
            "timm_proj": "none",
            "image_size": image.image_size,
            "timm_kwargs": {
                "img_size": image.image_size,
                "patch_size": image.patch_size,
                "embed_dim": image.hidden_size,
                "depth": image.num_hidden_layers,
                "num_heads": image.num_attention_heads,
                "mlp_ratio": image.intermediate_size / image.hidden_size,
                "act_layer": timm,
            },
        },
        "text_cfg": {
            **_read_text_sizes(text),
            "act_kwargs": {"approximate": approximate},
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
        },
    }


_GELU = {"gelu_pytorch_tanh": ("gelu_tanh", "tanh"), "gelu": ("gelu", "none")}
_POOL = {
    f"head.attention.{part}.{kind}": f"attn_pool.{part}.{kind}"
    for part in ("q", "kv")
    for kind in ("weight", "bias")
}


def _read_sizes(tower: Any) -> Json:
    return {
        "layers": tower.num_hidden_layers,
        "width": tower.hidden_size,
        "mlp_ratio": tower.intermediate_size / tower.hidden_size,
        "norm_kwargs": {"eps": tower.layer_norm_eps},
    }


def _read_text_sizes(text: Any) -> Json:
    return {
        **_read_sizes(text),
        "context_length": text.max_position_embeddings,
        "vocab_size": text.vocab_size,
        "heads": text.num_attention_heads,
    }


def _join_projections(state: dict[str, Tensor]) -> dict[str, Tensor]:
    # Separate q, k and v are joined as the towers' own classes hold them; the pooling head of
    # SigLIP has one weight for all three where timm has one for the query and one for the others.
    made: dict[str, Tensor] = {}
    for name, tensor in state.items():
        head, _, kind = name.rpartition(".")
        if head.endswith((".k_proj", ".v_proj")):
            continue
        if head.endswith(".q_proj"):
            parts = [state[f"{head[:-6]}{p}_proj.{kind}"] for p in "qkv"]
            made[f"{head[:-6]}in_proj_{kind}"] = torch.cat(parts)
        elif ".attention.in_proj_" in name:
            before, kind = name.split(".in_proj_")
            q, k, v = tensor.chunk(3)
            made |= {f"{before}.q.{kind}": q, f"{before}.kv.{kind}": torch.cat([k, v])}
        else:
            made[name] = tensor
    return made


def _rename_inside(name: str, table: dict[str, str], blocks: str, timm: bool) -> str:
    if not name.startswith("encoder.layers."):
        return table.get(name, name)
    _, _, index, rest = name.split(".", 3)
    if ".in_proj_" in rest:
        kind = rest.rpartition("_")[2]
        return f"{blocks}.{index}.attn." + (f"qkv.{kind}" if timm else f"in_proj_{kind}")
    layer, _, kind = rest.rpartition(".")
    known = _LAYER.get(layer)
    return f"{blocks}.{index}.{known[timm] if known else layer}.{kind}"
