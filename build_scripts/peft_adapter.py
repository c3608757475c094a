"""A PEFT LoRA adapter folder, read with numpy: only what can be merged exactly is accepted.

Refused by name is whatever makes W' more than W + scale * B @ A, and every setting that isn't known here:
an adapter that is merged a little wrong answers like one that was trained a little worse, and nobody sees it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonguard.errors import BundleError

from build_scripts.tensor_checks import check_tensors
from engines.checkpoint import FloatArray, TensorFile

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# Module paths as each generation of transformers names them, and the canonical name they share.
_ADAPTER_FORMS = (
    # 4.50-4.51; 4.52 on; text-only Gemma3ForCausalLM
    (re.compile(r"(?:language_model\.model|model\.language_model|model)\.(layers\..+)"), "text."),
    # 4.50-4.51; 4.52-4.57; 5.x, which has no vision_model
    (re.compile(r"(?:model\.)?vision_tower\.(?:vision_model\.)?(encoder\..+)"), "vision."),
)
_BASE_FORMS = (("language_model.model.", "text."), ("vision_tower.vision_model.", "vision."))
_ROOT = "base_model.model."
_MATRIX = re.compile(re.escape(_ROOT) + r"(.+)\.lora_([AB])\.weight")
_TIED = re.compile(r"\b(embed_tokens|lm_head)\b")

_USED = frozenset(
    {
        "alpha_pattern",
        "bias",
        "init_lora_weights",
        "lora_alpha",
        "peft_type",
        "r",
        "rank_pattern",
        "use_rslora",
    }
)
# Settings of training or loading that don't change what A and B mean.
_NEUTRAL = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "ensure_weight_tying",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
    }
)
_REFUSED = {
    "use_dora": "DoRA rescales the whole weight",
    "modules_to_save": "whole modules were trained beside the LoRA matrices",
    "lora_bias": "the base's projections have no bias to add to",
    "trainable_token_indices": "rows of the embedding were trained, and it is tied to the output",
    "fan_in_fan_out": "Gemma's projections are stored as [out, in]",
    "layer_replication": "the merged model would have more layers than the base",
    "target_parameters": "only the weights of linear modules are merged",
}


@dataclass(frozen=True)
class LowRank:
    """One module's update: scale * B @ A. `a`, `b`: tensor names in the adapter's file."""

    a: str
    b: str
    scale: float


@dataclass(frozen=True)
class Adapter:
    """`modules`: canonical module name (`text.layers.0.self_attn.q_proj`) -> its update."""

    file: TensorFile
    modules: Mapping[str, LowRank]

    @classmethod
    def open(cls, folder: Path) -> Adapter:
        """Raises BundleError: files that can't be read, or an adapter that can't be merged exactly."""
        try:
            config = json.loads((folder / CONFIG).read_text())
        except (OSError, ValueError) as error:
            raise BundleError(f"{folder.name} has no readable {CONFIG}") from error
        if not isinstance(config, dict):
            raise BundleError(f"{folder.name}/{CONFIG} is not a JSON object")
        _refuse_unmergeable(config)
        file = TensorFile.open(folder / WEIGHTS)
        check_tensors(file)
        modules: dict[str, LowRank] = {}
        for path, matrices in _by_module(file.header).items():
            name = canonical_module(path)
            if name in modules:
                raise BundleError(f"the adapter holds {name} twice, under two key forms")
            modules[name] = _low_rank(path, matrices, file, config)
        if not modules:
            raise BundleError(f"{WEIGHTS} holds no LoRA matrices")
        return cls(file, modules)

    def delta(self, module: str) -> FloatArray:
        """float32 [out, in]: scale * B @ A."""
        update = self.modules[module]
        product: FloatArray = self.file.float32(update.b) @ self.file.float32(update.a)
        product *= update.scale
        return product

    def shape(self, module: str) -> tuple[int, int]:
        """(out, in) of the weight that this update fits."""
        update = self.modules[module]
        return self.file.header[update.b]["shape"][0], self.file.header[update.a]["shape"][1]


def canonical_module(path: str) -> str:
    """The canonical name of a module path behind `base_model.model.`; unknown forms stay as they are."""
    for pattern, prefix in _ADAPTER_FORMS:
        if match := pattern.fullmatch(path):
            return prefix + match[1]
    return path


def canonical_base_module(key: str) -> str | None:
    """`language_model.model.layers.0.mlp.up_proj.weight` -> `text.layers.0.mlp.up_proj`; None: no weight."""
    for published, prefix in _BASE_FORMS:
        if key.startswith(published) and key.endswith(".weight"):
            return prefix + key.removeprefix(published).removesuffix(".weight")
    return None


def _refuse_unmergeable(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise BundleError(f"{CONFIG}: peft_type {config.get('peft_type')!r} can't be merged (LORA can)")
    if config.get("bias", "none") != "none":
        raise BundleError(f"{CONFIG}: bias {config['bias']!r}: biases were trained beside the LoRA matrices")
    # Other initialisations (pissa, olora, corda, loftq ...) subtract from the base's weights before training.
    if config.get("init_lora_weights", True) not in (True, False, None, "gaussian"):
        raise BundleError(f"{CONFIG}: init_lora_weights {config['init_lora_weights']!r} is for changed base weights")
    for name, value in config.items():
        if value and name not in _USED | _NEUTRAL:
            reason = _REFUSED.get(name, "this merge doesn't know what it does to the weights")
            raise BundleError(f"{CONFIG}: {name} is set: {reason}")


def _by_module(keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """{module path: {"A": key, "B": key}}. Raises BundleError for a tensor that is no plain LoRA matrix."""
    modules: dict[str, dict[str, str]] = {}
    for key in keys:
        if tied := _TIED.search(key):
            raise BundleError(f"the adapter targets {tied[1]}; embedding and output are one tied matrix")
        match = _MATRIX.fullmatch(key)
        if match is None:
            raise BundleError(f"{WEIGHTS}: {key} is not a plain LoRA matrix")
        modules.setdefault(match[1], {})[match[2]] = key
    return modules


def _low_rank(path: str, matrices: Mapping[str, str], file: TensorFile, config: Mapping[str, Any]) -> LowRank:
    for present, missing in (("A", "B"), ("B", "A")):
        if missing not in matrices:
            raise BundleError(f"the adapter has lora_{present} without lora_{missing} for {path}")
    a, b = matrices["A"], matrices["B"]
    rank = _of_pattern(config, "rank_pattern", path, config.get("r"))
    alpha = _of_pattern(config, "alpha_pattern", path, config.get("lora_alpha"))
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise BundleError(f"{CONFIG}: r {rank!r} and lora_alpha {alpha!r} must be numbers")
    shape_a, shape_b = file.header[a]["shape"], file.header[b]["shape"]
    if len(shape_a) != 2 or len(shape_b) != 2 or shape_a[0] != rank or shape_b[1] != rank:
        raise BundleError(f"{path}: A {shape_a} and B {shape_b} are not of rank {rank}")
    return LowRank(a, b, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _of_pattern(config: Mapping[str, Any], name: str, path: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of a module's path, by PEFT's own rule."""
    try:
        for pattern, value in (config.get(name) or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", path):
                return value
    except (AttributeError, re.error) as error:
        raise BundleError(f"{CONFIG}: {name} is not a map of regular expressions") from error
    return default
