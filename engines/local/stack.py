"""Contexts of several rows in one array, for passes in which each row goes on behind its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engines.checkpoint import FloatArray
from engines.local.context import Context

_BLOCK = 64
"""Room is in whole blocks of tokens: OpenVINO makes its kernels anew for each length that it meets."""


@dataclass
class Stack:
    """keys, values: float32 [layers, B, kv heads, room, head dim], of which a row's first `lengths[row]` count."""

    lengths: list[int]
    keys: FloatArray
    values: FloatArray

    @classmethod
    def of(cls, contexts: Sequence[Context], *, more: int) -> Stack:
        """Copies of these, of which there is at least one, each with room for `more` tokens."""
        lengths = [context.length for context in contexts]
        room = -(-(max(lengths) + more) // _BLOCK) * _BLOCK
        layers, heads, _, dim = contexts[0].keys.shape
        keys, values = (np.zeros((layers, len(contexts), heads, room, dim), np.float32) for _ in range(2))
        for row, context in enumerate(contexts):
            keys[:, row, :, : context.length] = context.keys[:, :, : context.length]
            values[:, row, :, : context.length] = context.values[:, :, : context.length]
        return cls(lengths, keys, values)

    @classmethod
    def empty(cls, like: Context, count: int) -> Stack:
        """No past for `count` rows: one key that nothing may see, since OpenVINO refuses zero of them."""
        layers, heads, _, dim = like.keys.shape
        zeros = np.zeros((layers, count, heads, 1, dim), np.float32)
        return cls([0] * count, zeros, zeros)

    @property
    def room(self) -> int:
        return self.keys.shape[3]

    @property
    def nothing(self) -> Context:
        """What rows with a past of their own share."""
        layers, _, heads, _, dim = self.keys.shape
        zeros = np.zeros((layers, heads, 1, dim), np.float32)
        return Context(0, zeros, zeros)

    def fits(self, more: int) -> bool:
        """Whether each row has room for so many tokens."""
        return max(self.lengths) + more <= self.room

    def append(self, row: int, keys: FloatArray, values: FloatArray, places: Sequence[int]) -> None:
        """Put the states at `places` of one row's pass behind it. keys, values: [layers, kv heads, S, head dim]."""
        place = slice(self.lengths[row], self.lengths[row] + len(places))
        self.keys[:, row, :, place] = keys[:, :, list(places)]
        self.values[:, row, :, place] = values[:, :, list(places)]
        self.lengths[row] = place.stop

    def context(self, row: int) -> Context:
        """One row's, as a view."""
        return Context(self.lengths[row], self.keys[:, row], self.values[:, row])
