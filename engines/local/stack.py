"""Contexts of several rows in one array, for passes in which each row goes on behind its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.checkpoint import FloatArray
from engines.local.context import Context

_BLOCK = 64
"""Room is in whole blocks of tokens: OpenVINO makes its kernels anew for each length that it meets."""


@dataclass
class Stack:
    """keys, values: float32 [layers, B, kv heads, room, head dim]; lengths: int32 [B], how many of a row's count."""

    lengths: npt.NDArray[np.int32]
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
        return cls(np.array(lengths, np.int32), keys, values)

    @property
    def room(self) -> int:
        return self.keys.shape[3]

    @property
    def places(self) -> npt.NDArray[np.int32]:
        """int32 [B]: each row has its own."""
        return np.arange(len(self.lengths), dtype=np.int32)

    def fits(self, more: int) -> bool:
        """Whether each row has room for so many tokens."""
        return int(self.lengths.max()) + more <= self.room

    def append(self, row: int, keys: FloatArray, values: FloatArray, places: Sequence[int]) -> None:
        """Put the states at `places` of one row's pass behind it. keys, values: [layers, kv heads, S, head dim]."""
        begin = int(self.lengths[row])
        place = slice(begin, begin + len(places))
        self.keys[:, row, :, place] = keys[:, :, list(places)]
        self.values[:, row, :, place] = values[:, :, list(places)]
        self.lengths[row] = place.stop

    def context(self, row: int) -> Context:
        """One row's, as a view."""
        return Context(int(self.lengths[row]), self.keys[:, row], self.values[:, row])
