"""A quantized folder read with plain torch, and no ModelOpt: what TensorRT-LLM's kernels compute, spelled out.

Weights are values * scale. FP8: each linear's input is divided by its scale, rounded to e4m3 and multiplied back; keys
(behind norm and rotation) and values likewise, where there are scales for a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Gemma3Config, Gemma3ForConditionalGeneration
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from engines.checkpoint import PROJECTOR_PREFIX, TEXT_PREFIX, VISION_PREFIX, Checkpoint

DTYPES = {"BF16": torch.bfloat16, "F32": torch.float32, "F8_E4M3": torch.float8_e4m3fn, "I8": torch.int8}
MODULES = {TEXT_PREFIX: "model.language_model.", VISION_PREFIX: "model.vision_tower.vision_model."} | {
    PROJECTOR_PREFIX: "model.multi_modal_projector."
}
LARGEST = 448.0  # of e4m3
ATTENTION = "rounded_caches"


def stored(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Every tensor of a folder by its published key, in the dtype of the file."""
    tensors = {}
    for name, file in checkpoint.files.items():
        spec = file.header[name]
        data = torch.tensor(file.stored_bytes(name))
        tensors[name] = data.view(DTYPES[spec["dtype"]]).reshape(spec["shape"])
    return tensors


def dense(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """A weight as float32: its values times the scale of the tensor, or of each row."""
    values, scale = tensors[name].float(), tensors.get(f"{name}_scale")
    if scale is None:
        return values
    return values * (scale if scale.ndim == 0 else scale[:, None])


def to_fp8_and_back(x: Tensor, scale: Tensor) -> Tensor:
    rounded = (x.float() / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
    return (rounded.float() * scale).to(x.dtype)


def load_exported(folder: Path, dtype: torch.dtype) -> Any:
    """transformers' model with the folder's numbers, in eval mode, that computes in `dtype`."""
    checkpoint = Checkpoint.open(folder)
    tensors = stored(checkpoint)
    settings = {name: value for name, value in checkpoint.config.items() if name != "quantization_config"}
    model: Any = Gemma3ForConditionalGeneration(Gemma3Config(**settings)).to(dtype).eval()
    weights = {_module(name): dense(tensors, name) for name in tensors if not name.endswith("_scale")}
    _, unexpected = model.load_state_dict({name: value.to(dtype) for name, value in weights.items()}, strict=False)
    assert not unexpected
    assert set(dict(model.named_parameters())) - set(weights) <= {"lm_head.weight"}
    model.tie_weights()
    for name, scale in tensors.items():
        if name.endswith(".input_scale"):
            linear = model.get_submodule(_module(name.removesuffix(".input_scale")))
            linear.register_forward_pre_hook(lambda _, inputs, scale=scale: (to_fp8_and_back(inputs[0], scale),))
    if caches := {name: scale for name, scale in tensors.items() if name.endswith((".k_scale", ".v_scale"))}:
        ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _rounding(caches))
        ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, sdpa_mask)
        model.model.language_model.config._attn_implementation = ATTENTION
    return model


def _rounding(caches: Mapping[str, Tensor]) -> Callable[..., Any]:
    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, *arguments: Any, **options: Any) -> Any:
        attention = f"{TEXT_PREFIX}layers.{module.layer_idx}.self_attn"
        key = to_fp8_and_back(key, caches[f"{attention}.k_proj.k_scale"])
        value = to_fp8_and_back(value, caches[f"{attention}.v_proj.v_scale"])
        return sdpa_attention_forward(module, query, key, value, *arguments, **options)

    return attend


def _module(key: str) -> str:
    prefix = next(prefix for prefix in MODULES if key.startswith(prefix))
    return MODULES[prefix] + key.removeprefix(prefix)
