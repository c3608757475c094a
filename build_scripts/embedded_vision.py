"""The embedded checkpoint's vision tower: small, in the published layout, random and untrained.

It stands where Gemma 3's SigLIP tower stands, so that the whole way of an image can be built, served and tested
without its weights; what it makes of an image means nothing, and the manifest says `vision: untrained`.
Values are drawn as transformers initialises the modules (Xavier, LeCun), from a fixed seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.checkpoint import PROJECTOR_PREFIX, VISION_PREFIX, FloatArray, float32_to_bfloat16

HIDDEN, WIDE, LAYERS, HEADS = 192, 768, 4, 3
IMAGE, PATCH = 448, 14
TOKENS = 64
"""Soft tokens per image: 32 x 32 patches, averaged in squares of 4 x 4."""
_SEED = 20260101
_SOFT_TOKEN_RMS = 1.03
"""Root mean square of the text model's scaled embeddings, which soft tokens stand beside."""


def vision_config() -> dict[str, Any]:
    """config.json's `vision_config` as transformers 4.57 writes it."""
    return {
        "attention_dropout": 0.0,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": HIDDEN,
        "image_size": IMAGE,
        "intermediate_size": WIDE,
        "layer_norm_eps": 1e-6,
        "model_type": "siglip_vision_model",
        "num_attention_heads": HEADS,
        "num_channels": 3,
        "num_hidden_layers": LAYERS,
        "patch_size": PATCH,
        "vision_use_head": False,
    }


def preprocessor_config() -> dict[str, Any]:
    """preprocessor_config.json with the published fields: scaled to the square, mean and deviation 0.5."""
    return {
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_pan_and_scan": None,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "Gemma3ImageProcessor",
        "image_seq_length": TOKENS,
        "image_std": [0.5, 0.5, 0.5],
        "pan_and_scan_max_num_crops": None,
        "pan_and_scan_min_crop_size": None,
        "pan_and_scan_min_ratio_to_activate": None,
        "processor_class": "Gemma3Processor",
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": IMAGE, "width": IMAGE},
    }


def processor_config() -> dict[str, Any]:
    return {"image_seq_length": TOKENS, "processor_class": "Gemma3Processor"}


def vision_shapes(text_hidden: int) -> dict[str, tuple[int, ...]]:
    """{published key: shape} of tower and projector, in the order of their keys."""
    shapes: dict[str, tuple[int, ...]] = {
        f"{VISION_PREFIX}embeddings.patch_embedding.weight": (HIDDEN, 3, PATCH, PATCH),
        f"{VISION_PREFIX}embeddings.patch_embedding.bias": (HIDDEN,),
        f"{VISION_PREFIX}embeddings.position_embedding.weight": ((IMAGE // PATCH) ** 2, HIDDEN),
        f"{VISION_PREFIX}post_layernorm.weight": (HIDDEN,),
        f"{VISION_PREFIX}post_layernorm.bias": (HIDDEN,),
        f"{PROJECTOR_PREFIX}mm_input_projection_weight": (HIDDEN, text_hidden),
        f"{PROJECTOR_PREFIX}mm_soft_emb_norm.weight": (HIDDEN,),
    }
    square = dict.fromkeys((f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")), (HIDDEN, HIDDEN))
    matrices = {**square, "mlp.fc1": (WIDE, HIDDEN), "mlp.fc2": (HIDDEN, WIDE)}
    for layer in range(LAYERS):
        name = f"{VISION_PREFIX}encoder.layers.{layer}"
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{name}.{norm}.weight": (HIDDEN,), f"{name}.{norm}.bias": (HIDDEN,)}
        for module, shape in matrices.items():
            shapes |= {f"{name}.{module}.weight": shape, f"{name}.{module}.bias": shape[:1]}
    return dict(sorted(shapes.items()))


def vision_values(text_hidden: int) -> Iterator[npt.NDArray[np.uint16]]:
    """The tensors of `vision_shapes` as bfloat16 bits, in its order; the same ones at every call."""
    random = np.random.default_rng(_SEED)
    for key, shape in vision_shapes(text_hidden).items():
        yield float32_to_bfloat16(_initial(key, shape, random))


def _initial(key: str, shape: tuple[int, ...], random: np.random.Generator) -> FloatArray:
    if key.endswith(("layer_norm1.weight", "layer_norm2.weight", "post_layernorm.weight")):
        return np.ones(shape, np.float32)
    if len(shape) == 1:  # biases, and the projector's norm, which stores w of 1 + w
        return np.zeros(shape, np.float32)
    if "position_embedding" in key:
        deviation = HIDDEN**-0.5
    elif "patch_embedding" in key:
        deviation = float(np.prod(shape[1:])) ** -0.5
    elif "projection" in key:  # from vectors of root mean square 1
        deviation = _SOFT_TOKEN_RMS * HIDDEN**-0.5
    else:
        limit = (6 / sum(shape)) ** 0.5
        return random.uniform(-limit, limit, shape).astype(np.float32)
    return random.normal(0, deviation, shape).astype(np.float32)
