"""What the model has read so far: keys and values of token ids at positions 0 to T-1, and the cache of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engines.checkpoint import FloatArray, TextConfig

_BLOCK = 32
"""Contexts hold whole blocks of tokens: OpenVINO makes its kernels anew for each length that it meets."""


@dataclass(frozen=True)
class Context:
    """keys, values: float32 [layers, kv heads, T, head dim], of which the first `length` count."""

    length: int
    keys: FloatArray
    values: FloatArray

    @classmethod
    def empty(cls, config: TextConfig) -> Context:
        """OpenVINO refuses zero keys, so one that nothing may see stands for none."""
        zeros = np.zeros((config.num_hidden_layers, config.num_key_value_heads, 1, config.head_dim), np.float32)
        return cls(0, zeros, zeros)

    def extended(self, keys: FloatArray, values: FloatArray, places: Sequence[int]) -> Context:
        """With the states at `places` of one row's pass behind it. keys, values: [layers, kv heads, S, head dim]."""
        length = self.length + len(places)
        return Context(
            length,
            self._joined(self.keys, keys[:, :, list(places)], length),
            self._joined(self.values, values[:, :, list(places)], length),
        )

    def _joined(self, held: FloatArray, more: FloatArray, length: int) -> FloatArray:
        room = -(-length // _BLOCK) * _BLOCK
        joined = np.zeros((*held.shape[:2], room, held.shape[3]), np.float32)
        joined[:, :, : self.length] = held[:, :, : self.length]
        joined[:, :, self.length : length] = more
        return joined


class ContextCache:
    """The contexts of policy prefixes by their token ids, least recently used ones dropped. Not thread-safe."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[tuple[int, ...], Context] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, ids: tuple[int, ...]) -> Context | None:
        if ids in self._held:
            self._held.move_to_end(ids)
        return self._held.get(ids)

    def put(self, ids: tuple[int, ...], context: Context) -> None:
        self._held[ids] = context
        while len(self._held) > self._most:
            self._held.popitem(last=False)
