"""How much GPU memory a bundle needs, computed from its files and its config.json.

What is left of the free memory behind weights, tower, activations and the package's own is shared out by
`free_gpu_memory_fraction`: that part is the cache of keys and values, and it must hold one longest sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.checkpoint import Checkpoint, TextConfig
from engines.tensorrt_llm.engine_config import EngineConfig
from engines.vision_config import VisionConfig

PACKAGE_BYTES = 1 << 30
"""For the CUDA context, cuBLAS, FlashInfer's workspaces and fragments: a reserve, the one number not computed here."""
_BFLOAT16, _FLOAT32 = 2, 4


@dataclass(frozen=True)
class Sizes:
    """Bytes. cache_per_token: of keys and values, all layers. sequence: the longest sequence's. memory_fraction: of
    what is free behind `fixed`, for the cache.
    """

    weights: int
    activations: int
    vision: int
    cache_per_token: int
    sequence: int
    memory_fraction: float

    @classmethod
    def of(cls, folder: Path, manifest: Mapping[str, Any], config: EngineConfig) -> Sizes:
        """Of a bundle. Raises BundleError: no readable config.json."""
        text, tower = Checkpoint.read_config(folder), Checkpoint.read_vision_config(folder)
        fp8 = config.kv_cache_dtype == "fp8"
        per_token = cache_bytes_per_token(text, value_bytes=1 if fp8 else _BFLOAT16)
        return cls(
            weights=weight_bytes(manifest),
            activations=activation_bytes(text, config),
            vision=0 if tower is None else vision_bytes(tower, config),
            cache_per_token=per_token,
            sequence=per_token * config.max_seq_len,
            memory_fraction=config.memory_fraction,
        )

    @property
    def fixed(self) -> int:
        return self.weights + self.activations + self.vision + PACKAGE_BYTES

    @property
    def least(self) -> int:
        """Free GPU memory with which one longest sequence just fits."""
        return self.fixed + round(self.sequence / self.memory_fraction)

    def cache(self, free_bytes: int) -> int:
        """Bytes for keys and values where so many are free before the weights are loaded."""
        return max(0, int((free_bytes - self.fixed) * self.memory_fraction))


def weight_bytes(manifest: Mapping[str, Any]) -> int:
    return sum(spec["bytes"] for name, spec in manifest["files"].items() if name.endswith(".safetensors"))


def cache_bytes_per_token(text: TextConfig, *, value_bytes: int) -> int:
    """In every layer, the windowed ones too: without `max_attention_window`, which this engine doesn't set, 1.2.1 keeps
    each token in all of them (neighbour: resource_manager.py @001541ba, KVCacheManager)."""
    return 2 * text.num_key_value_heads * text.head_dim * value_bytes * text.num_hidden_layers


def activation_bytes(text: TextConfig, config: EngineConfig) -> int:
    """The most of one step: the widest layer's values for max_num_tokens tokens, two masks of a longest prompt with
    images (bytes, `modeling_gemma3.py` @00e7d103), and float32 logits with their log-softmax for each request."""
    heads = (text.num_attention_heads + 2 * text.num_key_value_heads) * text.head_dim
    per_token = (3 * text.intermediate_size + 6 * text.hidden_size + heads) * _BFLOAT16
    logits = config.max_batch_size * text.vocab_size * 2 * _FLOAT32
    return config.max_seq_len * per_token + 2 * config.max_seq_len**2 + logits


def vision_bytes(tower: VisionConfig, config: EngineConfig) -> int:
    """The most images that fit into one step, together in the tower: pixels in float32, and a layer's values."""
    images = -(-config.max_seq_len // tower.mm_tokens_per_image)
    patches = tower.patches_per_side**2
    per_image = patches * (tower.intermediate_size + 6 * tower.hidden_size) * _BFLOAT16
    return images * (per_image + 3 * tower.image_size**2 * _FLOAT32)
