"""Gemma 3's vision tower (SigLIP) and projector on torch. Its twin is `vision_openvino`.

Formulas: SigLIP (arXiv 2303.15343), Gemma 3 report (arXiv 2503.19786) and transformers' modeling_siglip and
modeling_gemma3, to which a test holds it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from engines.checkpoint import PROJECTOR_PREFIX, VISION_PREFIX, Checkpoint
from engines.vision_config import VisionConfig

_NORM = "mm_soft_emb_norm.weight"
_PROJECTION = "mm_input_projection_weight"


def load_vision_weights(checkpoint: Checkpoint, *, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Weights by their name below `vision_tower.vision_model.` or `multi_modal_projector.`; the norm's as 1 + w."""
    weights = {}
    for key in checkpoint.files:
        for prefix in (VISION_PREFIX, PROJECTOR_PREFIX):
            if key.startswith(prefix):
                value = torch.from_numpy(checkpoint.float32(key))
                weights[key.removeprefix(prefix)] = (value + 1.0 if key.endswith(_NORM) else value).to(dtype)
    return weights


def features(weights: Mapping[str, Tensor], config: VisionConfig, pixels: Tensor) -> Tensor:
    """pixels uint8 [N, size, size, 3], RGB -> float32 [N, tokens per image, text hidden size].

    Row by row from the top left; they take the place of text embeddings as they are, without scaling.
    """
    x = _patches(config, pixels).to(weights["embeddings.position_embedding.weight"].dtype)
    x = _linear(weights, "embeddings.patch_embedding", x) + weights["embeddings.position_embedding.weight"]
    for layer in range(config.num_hidden_layers):
        name = f"encoder.layers.{layer}"
        x = x + _attend(weights, config, f"{name}.self_attn", _norm(weights, config, f"{name}.layer_norm1", x))
        h = _linear(weights, f"{name}.mlp.fc1", _norm(weights, config, f"{name}.layer_norm2", x))
        x = x + _linear(weights, f"{name}.mlp.fc2", F.gelu(h, approximate="tanh"))
    return _project(weights, config, _norm(weights, config, "post_layernorm", x)).float()


def _patches(config: VisionConfig, pixels: Tensor) -> Tensor:
    """uint8 [N, size, size, 3] -> float32 [N, patches, 3 * patch * patch] in -1..1, in the order of the weights."""
    side, patch = config.patches_per_side, config.patch_size
    x = (pixels.float() * (1 / 255) - 0.5) / 0.5
    x = x.view(-1, side, patch, side, patch, 3).permute(0, 1, 3, 5, 2, 4)
    return x.reshape(-1, side * side, 3 * patch * patch)


def _attend(weights: Mapping[str, Tensor], config: VisionConfig, name: str, x: Tensor) -> Tensor:
    heads = config.num_attention_heads
    q, k, v = (_linear(weights, f"{name}.{part}_proj", x).unflatten(-1, (heads, -1)).transpose(1, 2) for part in "qkv")
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return _linear(weights, f"{name}.out_proj", out)


def _project(weights: Mapping[str, Tensor], config: VisionConfig, x: Tensor) -> Tensor:
    """[N, patches, hidden] -> [N, tokens, text hidden]: average over squares, RMS norm, projection."""
    tokens = config.tokens_per_side
    pooled = config.patches_per_side // tokens
    x = x.view(-1, tokens, pooled, tokens, pooled, config.hidden_size).mean(dim=(2, 4)).flatten(1, 2)
    x = F.rms_norm(x.float(), x.shape[-1:], weights[_NORM].float(), config.layer_norm_eps).to(x.dtype)
    return x @ weights[_PROJECTION]


def _linear(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"].flatten(1), weights[f"{name}.bias"])


def _norm(weights: Mapping[str, Tensor], config: VisionConfig, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], config.layer_norm_eps)
