"""The forms that a checkpoint can be given for the TensorRT-LLM target, by name, and what can't be served there.

TensorRT-LLM 1.2.1 has an FP8 row for Gemma 3 (Ada, Hopper, Blackwell); int8 weights load in its PyTorch backend
(`WeightOnlyQuantLinearMethod`), but no row of its matrix names them. Vision tower, projector, embedding and output stay
in bfloat16 in every form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tritonguard.errors import BundleError

KIND = "quantized"
"""Of the manifest of a folder that `quantize` wrote."""


@dataclass(frozen=True)
class Profile:
    """weight: safetensors dtype of the text model's linear weights. quant_algo, kv_cache_quant_algo: as
    hf_quant_config.json names them; None: as stored. modelopt: names of ModelOpt's configurations, of which the later
    ones stand.
    """

    name: str
    summary: str
    weight: str = "BF16"
    quant_algo: str | None = None
    kv_cache_quant_algo: str | None = None
    modelopt: tuple[str, ...] = ()

    @property
    def is_quantized(self) -> bool:
        return self.quant_algo is not None

    @property
    def is_calibrated(self) -> bool:
        """Whether it has scales of activations, which depend on calibration prompts."""
        return self.weight == "F8_E4M3"

    def describe(self) -> dict[str, Any]:
        """For a manifest."""
        return {
            "name": self.name,
            "quant_algo": self.quant_algo,
            "kv_cache_quant_algo": self.kv_cache_quant_algo,
            "modelopt": list(self.modelopt),
        }


_ALL = (
    Profile("bf16", "weights as published: the reference"),
    Profile("fp8", "FP8 weights and inputs, a scale a tensor", "F8_E4M3", "FP8", None, ("FP8_DEFAULT_CFG",)),
    Profile(
        "fp8-kv",
        "FP8 weights, inputs and KV cache: what to serve on Ada, Hopper and Blackwell",
        "F8_E4M3",
        "FP8",
        "FP8",
        ("FP8_DEFAULT_CFG", "FP8_KV_CFG"),
    ),
    Profile(
        "int8-weight-only",
        "int8 weights, a scale a row; inputs stay bfloat16 (experimental: in no row of the support matrix)",
        "I8",
        "W8A16",
        None,
        ("INT8_WEIGHT_ONLY_CFG",),
    ),
)
PROFILES: Mapping[str, Profile] = {profile.name: profile for profile in _ALL}

_REFUSED = {
    # tensorrt_llm/_torch/modules/linear.py, get_quant_method: the last line of its choice.
    "int8-sq": "the PyTorch backend of TensorRT-LLM, the only one that runs Gemma 3 with images, has no branch for "
    "SmoothQuant (it answers 'unsupported quant mode'). Take fp8-kv on a GPU with FP8 (Ada, Hopper, Blackwell) and "
    "int8-weight-only on an older one; int8-sq itself is a profile of --target openvino",
}


def choose(name: str) -> Profile:
    """Raises BundleError, with the reason for a form that this target can't run, else with the names that there are."""
    if name in _REFUSED:
        raise BundleError(f"profile {name} can't be served: {_REFUSED[name]}")
    if name not in PROFILES:
        raise BundleError(f"there is no profile {name!r} for this target; choose one of: {', '.join(PROFILES)}")
    return PROFILES[name]
