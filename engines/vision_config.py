"""The sizes of a Gemma 3 checkpoint's vision tower."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tritonguard.errors import BundleError

# Of transformers' SiglipVisionConfig: published config.json files leave out what equals them.
_VISION_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
    "layer_norm_eps": 1e-6,
}


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower's sizes, in the names of config.json's `vision_config`, and the tokens per image."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    layer_norm_eps: float
    mm_tokens_per_image: int

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> VisionConfig | None:
        """From a whole config.json; None when it describes no tower. Raises BundleError: sizes that don't fit."""
        vision = config.get("vision_config")
        if vision is None:
            return None
        sizes = {name: vision.get(name, default) for name, default in _VISION_DEFAULTS.items()}
        read = cls(**sizes, mm_tokens_per_image=config.get("mm_tokens_per_image", 256))
        if vision.get("hidden_act", "gelu_pytorch_tanh") != "gelu_pytorch_tanh" or vision.get("num_channels", 3) != 3:
            raise BundleError("config.json's vision_config is no SigLIP tower of Gemma 3")
        if read.hidden_size % read.num_attention_heads or read.image_size % read.patch_size:
            raise BundleError("config.json's vision_config: heads or patches do not divide their whole")
        if read.tokens_per_side**2 != read.mm_tokens_per_image or read.patches_per_side % read.tokens_per_side:
            raise BundleError("config.json: mm_tokens_per_image is no whole pooling of the patches")
        return read

    @property
    def patches_per_side(self) -> int:
        return self.image_size // self.patch_size

    @property
    def tokens_per_side(self) -> int:
        return math.isqrt(self.mm_tokens_per_image)
