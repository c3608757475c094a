"""LoRA (Hu et al. 2021) over the torch forward, stored as PEFT stores it.

W' = W + (alpha / r) * B @ A with A [r, in], B [out, r], on all seven projections of each layer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.checkpoint import FloatArray, TensorFile, TextConfig, write_tensors
from engines.local.forward_torch import Linear

PROJECTIONS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
# The key prefix of adapters trained with transformers 4.52-4.57 (the generation that TensorRT-LLM reads).
_PEFT_PREFIX = "base_model.model.model.language_model."


class Lora(nn.Module):
    """Trainable A and B for every projection; `linear(weights)` is what `forward` takes."""

    def __init__(self, weights: Mapping[str, Tensor], config: TextConfig, *, rank: int, alpha: int) -> None:
        super().__init__()
        self.rank, self.alpha = rank, alpha
        self.names = [f"layers.{layer}.{name}" for layer in range(config.num_hidden_layers) for name in PROJECTIONS]
        self._index = {name: index for index, name in enumerate(self.names)}
        shapes = [weights[f"{name}.weight"].shape for name in self.names]
        self.a = nn.ParameterList([nn.Parameter(torch.empty(rank, size)) for _, size in shapes])
        self.b = nn.ParameterList([nn.Parameter(torch.zeros(size, rank)) for size, _ in shapes])
        for matrix in self.a:
            nn.init.kaiming_uniform_(matrix, a=5**0.5)

    def linear(self, weights: Mapping[str, Tensor]) -> Linear:
        scale = self.alpha / self.rank

        def apply(name: str, x: Tensor) -> Tensor:
            index, weight = self._index[name], weights[f"{name}.weight"]
            x = x.to(weight.dtype)
            low_rank = F.linear(F.linear(x, self.a[index].to(x.dtype)), self.b[index].to(x.dtype))
            return F.linear(x, weight) + low_rank * scale

        return apply

    def load(self, folder: Path) -> None:
        """Take the numbers of a saved adapter of the same shape. Raises BundleError when it can't be read."""
        stored = TensorFile.open(folder / "adapter_model.safetensors")
        with torch.no_grad():
            for index, name in enumerate(self.names):
                self.a[index].copy_(torch.from_numpy(stored.float32(f"{_PEFT_PREFIX}{name}.lora_A.weight").copy()))
                self.b[index].copy_(torch.from_numpy(stored.float32(f"{_PEFT_PREFIX}{name}.lora_B.weight").copy()))

    def save(self, folder: Path, *, base_name: str) -> None:
        """adapter_config.json and adapter_model.safetensors (float32), loadable by PEFT."""
        values: dict[str, FloatArray] = {}
        for index, name in enumerate(self.names):
            values[f"{_PEFT_PREFIX}{name}.lora_A.weight"] = self.a[index].detach().numpy()
            values[f"{_PEFT_PREFIX}{name}.lora_B.weight"] = self.b[index].detach().numpy()
        values = dict(sorted(values.items()))
        layout = {key: ("F32", value.shape) for key, value in values.items()}
        write_tensors(folder / "adapter_model.safetensors", layout, values.values())
        config = {
            "base_model_name_or_path": base_name,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "peft_type": "LORA",
            "r": self.rank,
            "target_modules": r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
            "task_type": "CAUSAL_LM",
            "use_dora": False,
            "use_rslora": False,
        }
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
