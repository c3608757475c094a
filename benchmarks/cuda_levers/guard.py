"""A guard of any size with random weights on one device: the torch forward, and FP8 in the place of its products."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from build_scripts.tensorrt_llm.layout import published_layout
from engines.checkpoint import PROJECTOR_PREFIX, TEXT_PREFIX, VISION_PREFIX, TextConfig
from engines.local import vision_torch
from engines.local.forward_torch import Linear, forward
from engines.vision_config import VisionConfig

States = tuple[Tensor, Tensor]
"""Keys and values."""
FP8 = torch.float8_e4m3fn
_LARGEST = torch.finfo(FP8).max


@dataclass(frozen=True)
class Past:
    """What the tokens of a pass go on behind: shared [layers, kv heads, T, head dim] by all rows, then own [layers, B,
    kv heads, P, head dim] of each."""

    shared: States
    own: States | None = None

    @property
    def length(self) -> int:
        own = self.own[0].shape[3] if self.own else 0
        return int(self.shared[0].shape[2] + own)


@dataclass(frozen=True)
class Guard:
    """text, vision: weights by their names in the two forwards. linear: instead of the plain product, see `forward`."""

    config: TextConfig
    vision_config: VisionConfig
    text: Mapping[str, Tensor]
    vision: Mapping[str, Tensor]
    linear: Linear | None = None

    @classmethod
    def random(cls, config: Mapping[str, Any], device: torch.device, *, seed: int = 0) -> Guard:
        """In float32. config: a whole config.json. Deviation 0.02 as at the start of a training, norms around 1, so
        that numbers keep their size from layer to layer. Raises BundleError: no Gemma 3 with a vision tower."""
        layout, vision_config = published_layout(config), VisionConfig.read(config)
        assert vision_config is not None, "published_layout has looked"
        generator = torch.Generator(device).manual_seed(seed)
        text: dict[str, Tensor] = {}
        vision: dict[str, Tensor] = {}
        for name, (_, shape) in layout.items():
            value = torch.randn(shape, generator=generator, device=device) * 0.02
            if len(shape) == 1 and name.endswith("weight"):
                value += 1.0
            if name.startswith(TEXT_PREFIX):
                text[name.removeprefix(TEXT_PREFIX)] = value
            else:
                vision[name.removeprefix(VISION_PREFIX).removeprefix(PROJECTOR_PREFIX)] = value
        return cls(TextConfig.read(config), vision_config, text, vision)

    def to(self, dtype: torch.dtype) -> Guard:
        text, vision = ({name: value.to(dtype) for name, value in some.items()} for some in (self.text, self.vision))
        return replace(self, text=text, vision=vision)

    @property
    def device(self) -> torch.device:
        return self.text["norm.weight"].device

    @property
    def dtype(self) -> torch.dtype:
        return self.text["norm.weight"].dtype

    @property
    def nothing(self) -> Past:
        layers, heads = self.config.num_hidden_layers, self.config.num_key_value_heads
        empty = torch.zeros(layers, heads, 0, self.config.head_dim, dtype=self.dtype, device=self.device)
        return Past((empty, empty))

    def a_pass(
        self,
        ids: Tensor,
        past: Past,
        *,
        branches: Sequence[int] = (),
        candidates: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
        """A pass, ready to be run again and again: `forward`'s outputs, logits float32 [B, 1 + branches, C].

        ids: int64 [B, S]: a trunk, then branches of these lengths that don't see each other; logits are read at the end
        of each. features: float [F, hidden] that stand at each row's first places, all rows the same image.
        """
        batch, total = ids.shape
        trunk, own = total - sum(branches), past.length - past.shared[0].shape[2]
        positions = torch.arange(total, device=self.device)
        visible = torch.ones(total, total, dtype=torch.bool, device=self.device).tril()
        ends, begin = [trunk - 1], trunk
        for length in branches:
            positions[begin : begin + length] = trunk + torch.arange(length, device=self.device)
            visible[begin : begin + length, trunk:begin] = False
            begin += length
            ends.append(begin - 1)
        known = visible.new_ones(total, own)
        inputs: dict[str, Any] = {
            "ids": ids,
            "positions": (past.length + positions).expand(batch, -1),
            "visible": torch.cat([known, visible], dim=1).expand(batch, -1, -1),
            "prefix_keys": past.shared[0],
            "prefix_values": past.shared[1],
            "rows": torch.tensor(ends, device=self.device).expand(batch, -1),
            "candidates": candidates,
            "linear": self.linear,
        }
        if past.own is not None:
            inputs |= {"own_keys": past.own[0], "own_values": past.own[1]}
        if features is not None:
            slots = torch.arange(total, device=self.device)
            slots[len(features) :] = -1
            inputs |= {"slots": slots.expand(batch, -1), "features": features}
        return lambda: forward(self.text, self.config, **inputs)

    def states(self, ids: Tensor, past: Past) -> States:
        """Keys and values of ids int64 [B, S]: [layers, B, kv heads, S, head dim]."""
        _, keys, values = self.a_pass(ids, past, candidates=ids.new_zeros(1))()
        return keys, values

    def prefix(self, ids: Tensor) -> Past:
        """ids: int64 [T], which all rows will share."""
        keys, values = self.states(ids[None], self.nothing)
        return Past((keys[:, 0], values[:, 0]))

    def see(self, pixels: Tensor) -> Tensor:
        """pixels: uint8 [N, size, size, 3] -> float32 [N, tokens, hidden]."""
        return vision_torch.features(self.vision, self.vision_config, pixels)


class Fp8Linear:
    """Products of e4m3 numbers with one scale for a weight and one for its inputs, as ModelOpt's FP8 has them; the sum
    in float32, the result in the inputs' dtype. On a CPU the same rounded numbers are multiplied in float32."""

    def __init__(self, weights: Mapping[str, Tensor], largest: Mapping[str, Tensor]) -> None:
        """weights: by `forward`'s names. largest: of |input| of each product, as `observed` finds them."""
        self._inputs = {name: (value / _LARGEST).float() for name, value in largest.items()}
        self._scales = {name: (weights[f"{name}.weight"].abs().max() / _LARGEST).float() for name in largest}
        self._weights = {name: quantized(weights[f"{name}.weight"], scale) for name, scale in self._scales.items()}
        self._last: tuple[Tensor, Tensor] | None = None

    @classmethod
    def observed(cls, guard: Guard, ids: Tensor, past: Past) -> Fp8Linear:
        """With the largest inputs that a pass over ids int64 [B, S] shows."""
        largest: dict[str, Tensor] = {}

        def watched(name: str, x: Tensor) -> Tensor:
            largest[name] = x.abs().max()
            return F.linear(x, guard.text[f"{name}.weight"])

        replace(guard, linear=watched).states(ids, past)
        return cls(guard.text, largest)

    def __call__(self, name: str, x: Tensor) -> Tensor:
        weight, scales = self._weights[name], (self._inputs[name], self._scales[name])
        rows = self._rounded(x, scales[0]).flatten(0, -2)
        if x.is_cuda:
            product = torch._scaled_mm(rows, weight.t(), scale_a=scales[0], scale_b=scales[1], out_dtype=x.dtype)
        else:
            product = (rows.float() @ weight.float().t() * math.prod(scales)).to(x.dtype)
        return product.view(*x.shape[:-1], -1)

    def _rounded(self, x: Tensor, scale: Tensor) -> Tensor:
        """Once for the products that share their inputs; on a GPU in one kernel."""
        if self._last is None or self._last[0] is not x:
            self._last = x, (_in_one_kernel() if x.is_cuda else quantized)(x, scale)
        return self._last[1]


def quantized(x: Tensor, scale: Tensor) -> Tensor:
    """To e4m3, what is too large to its largest number."""
    return (x / scale).clamp(-_LARGEST, _LARGEST).to(FP8)


@cache
def _in_one_kernel() -> Callable[[Tensor, Tensor], Tensor]:
    """`quantized`, compiled."""
    compiled: Callable[[Tensor, Tensor], Tensor] = torch.compile(quantized, dynamic=True)
    return compiled
