"""What tensors a Gemma 3 checkpoint holds, from its config alone: names, dtypes, shapes, and so the bytes.

The names are those of the published checkpoint, which is what TensorRT-LLM's `Gemma3VLM.load_weights` filters for. A
profile changes the dtype of the text model's linear weights and adds scales beside them, as ModelOpt exports them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tritonguard.errors import BundleError

from build_scripts.tensor_checks import DTYPE_BYTES
from build_scripts.tensorrt_llm.profiles import Profile
from engines.checkpoint import PROJECTOR_PREFIX, TEXT_PREFIX, VISION_PREFIX, TensorFile, TextConfig
from engines.vision_config import VisionConfig

Layout = dict[str, tuple[str, tuple[int, ...]]]
"""{published key: (safetensors dtype, shape)}."""

_NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")


def published_layout(config: Mapping[str, Any]) -> Layout:
    """The tensors of the published checkpoint, all bfloat16; config: a whole config.json.

    Raises BundleError: no Gemma 3 with a vision tower, or in another form than transformers 4.57's.
    """
    text, vision = TextConfig.read(config), VisionConfig.read(config)
    if vision is None:
        raise BundleError("config.json describes no vision tower; this target serves the whole Gemma 3")
    shapes = _text_shapes(text) | _vision_shapes(vision) | _projector_shapes(vision.hidden_size, text.hidden_size)
    return {name: ("BF16", shape) for name, shape in shapes.items()}


def quantized_layout(config: Mapping[str, Any], profile: Profile) -> Layout:
    """The tensors of the same checkpoint in a profile's form. Raises BundleError as `published_layout`."""
    layout = published_layout(config)
    if not profile.is_quantized:
        return layout
    for module, (rows, columns) in linear_shapes(TextConfig.read(config)).items():
        layout[f"{module}.weight"] = (profile.weight, (rows, columns))
        layout[f"{module}.weight_scale"] = ("F32", () if profile.is_calibrated else (rows,))
        if profile.is_calibrated:
            layout[f"{module}.input_scale"] = ("F32", ())
        for part in ("k", "v"):
            if profile.kv_cache_quant_algo and module.endswith(f".{part}_proj"):
                layout[f"{module}.{part}_scale"] = ("F32", ())
    return layout


def data_bytes(layout: Layout) -> int:
    """Bytes of the tensors' data, without the files' headers."""
    return sum(DTYPE_BYTES[dtype] * math.prod(shape) for dtype, shape in layout.values())


def layout_of(files: Mapping[str, TensorFile]) -> Layout:
    """What the headers of a checkpoint's files say."""
    specs = {name: file.header[name] for name, file in files.items()}
    return {name: (spec["dtype"], tuple(spec["shape"])) for name, spec in specs.items()}


def check_layout(found: Layout, expected: Layout, *, whose: str) -> None:
    """Raises BundleError that names the first tensor that is missing, unexpected, or of another dtype or shape."""
    if missing := sorted(set(expected) - set(found)):
        raise BundleError(f"{whose} lacks {len(missing)} tensor(s), the first is {missing[0]}")
    if added := sorted(set(found) - set(expected)):
        raise BundleError(f"{whose} has {len(added)} tensor(s) that don't belong there, the first is {added[0]}")
    for name, (dtype, shape) in sorted(expected.items()):
        if found[name] != (dtype, shape):
            other, size = found[name]
            raise BundleError(f"{whose}: {name} is {other} {list(size)}, and {dtype} {list(shape)} is expected")


def linear_shapes(text: TextConfig) -> dict[str, tuple[int, int]]:
    """{published module name: (out, in)} of the text model's linear layers: what a profile quantizes."""
    hidden, wide = text.hidden_size, text.intermediate_size
    queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    shapes = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (wide, hidden),
        "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
    }
    layers = range(text.num_hidden_layers)
    return {f"{TEXT_PREFIX}layers.{layer}.{name}": shape for layer in layers for name, shape in shapes.items()}


def _text_shapes(text: TextConfig) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": shape for name, shape in linear_shapes(text).items()}
    norms = dict.fromkeys(_NORMS, text.hidden_size) | dict.fromkeys(
        ("self_attn.q_norm", "self_attn.k_norm"), text.head_dim
    )
    for layer in range(text.num_hidden_layers):
        shapes |= {f"{TEXT_PREFIX}layers.{layer}.{name}.weight": (size,) for name, size in norms.items()}
    return shapes | {
        f"{TEXT_PREFIX}embed_tokens.weight": (text.vocab_size, text.hidden_size),
        f"{TEXT_PREFIX}norm.weight": (text.hidden_size,),
    }


def _vision_shapes(vision: VisionConfig) -> dict[str, tuple[int, ...]]:
    hidden, wide, patch = vision.hidden_size, vision.intermediate_size, vision.patch_size
    modules: dict[str, tuple[int, ...]] = {
        "embeddings.patch_embedding": (hidden, 3, patch, patch),
        "post_layernorm": (hidden,),
    }
    for layer in range(vision.num_hidden_layers):
        name = f"encoder.layers.{layer}"
        modules |= {f"{name}.self_attn.{part}_proj": (hidden, hidden) for part in ("q", "k", "v", "out")}
        modules |= {f"{name}.mlp.fc1": (wide, hidden), f"{name}.mlp.fc2": (hidden, wide)}
        modules |= {f"{name}.layer_norm{number}": (hidden,) for number in (1, 2)}
    shapes = {f"{name}.weight": shape for name, shape in modules.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in modules.items()}
    shapes["embeddings.position_embedding.weight"] = (vision.patches_per_side**2, hidden)
    return {VISION_PREFIX + name: shape for name, shape in shapes.items()}


def _projector_shapes(vision_hidden: int, text_hidden: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{PROJECTOR_PREFIX}mm_input_projection_weight": (vision_hidden, text_hidden),
        f"{PROJECTOR_PREFIX}mm_soft_emb_norm.weight": (vision_hidden,),
    }
