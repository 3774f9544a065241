"""From the trained parts to the file that open_clip loads."""

from pathlib import Path

import torch
from open_clip import CLIP
from safetensors.torch import save_file
from torch import Tensor, nn

from lite.projection import ALIGNED, Projection
from lite.text_tower import Tokens

CONFIG = {
    "embed_dim": 256,
    "vision_cfg": {
        "timm_model_name": "tf_efficientnet_lite0",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "timm_proj_bias": True,
        "image_size": 160,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 160,
        "heads": 5,
        "layers": 3,
    },
}
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
STREAM_STD = 0.04  # of the token rows: in proportion to a context initialised with N(0, 0.02)
LOGIT_SCALE = 30.0


def assemble(
    model: CLIP, tokens: Tokens, tower: nn.Module, projection: Projection
) -> dict[str, Tensor]:
    """The state dict of the whole model in float32."""
    state = {k: v.detach().clone() for k, v in model.state_dict().items() if k != "attn_mask"}
    state["token_embedding.weight"] = tokens.table()
    state["text_projection"][:, ALIGNED:] = 0
    _rescale_stream(state)
    trunk = _fold_normalisation(tower.state_dict())
    state |= {f"visual.trunk.{k}": v for k, v in trunk.items() if not k.startswith("classifier")}
    state["visual.head.proj.weight"], state["visual.head.proj.bias"] = (
        projection.weight,
        projection.bias,
    )
    state["logit_scale"] = torch.tensor(LOGIT_SCALE).log()
    return state


def save(state: dict[str, Tensor], path: Path) -> None:
    """Half precision, the token table in 8-bit floats; replaced atomically."""
    small = {
        k: v if not v.is_floating_point() else v.to(_stored(k)).contiguous()
        for k, v in state.items()
    }
    draft = path.with_suffix(".tmp")
    save_file(small, draft)
    draft.chmod(0o644)
    draft.replace(path)


def _stored(name: str) -> torch.dtype:
    return torch.float8_e4m3fn if name == "token_embedding.weight" else torch.float16


def _rescale_stream(state: dict[str, Tensor]) -> None:
    """Scale all that is added to the residual stream; layer norms undo it."""
    scale = STREAM_STD / state["token_embedding.weight"].std()
    added = ("attn.out_proj.weight", "attn.out_proj.bias", "mlp.c_proj.weight", "mlp.c_proj.bias")
    for name, value in state.items():
        if name in ("token_embedding.weight", "positional_embedding") or (
            name.startswith("transformer.") and name.endswith(added)
        ):
            state[name] = value * scale


def _fold_normalisation(trunk: dict[str, Tensor]) -> dict[str, Tensor]:
    """Let the stem take CLIP's normalisation in place of its own, mean = std = 0.5.

    With x = std z + mean the stem saw 2 x - 1 = 2 std z + (2 mean - 1): the factor goes into the
    weights, the constant into the batch norm's mean. Exact except at the padded border.
    """
    trunk = {k: v.detach().clone() for k, v in trunk.items()}
    weight = trunk["conv_stem.weight"]  # (32, 3, 3, 3)
    offset = 2 * torch.tensor(CLIP_MEAN) - 1
    trunk["bn1.running_mean"] -= (weight * offset.view(1, 3, 1, 1)).sum((1, 2, 3))
    trunk["conv_stem.weight"] = weight * (2 * torch.tensor(CLIP_STD)).view(1, 3, 1, 1)
    return trunk
