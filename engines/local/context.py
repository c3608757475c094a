"""What the model has read so far: keys and values of token ids at positions 0 to T-1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from engines.checkpoint import FloatArray, TextConfig

_BLOCK = 32
"""Contexts hold whole blocks of tokens: OpenVINO makes its kernels anew for each length that it meets."""


@dataclass
class _Room:
    """How many places of a context's arrays are taken; all contexts on the same arrays share it."""

    taken: int


@dataclass(frozen=True)
class Context:
    """keys, values: float32 [layers, kv heads, T, head dim], of which the first `length` count.

    A token takes a free place of the last block where there is one, so that only each block copies what was before it.
    A place is written once, and no context that doesn't count it looks at it: each stays what it is.
    """

    length: int
    keys: FloatArray
    values: FloatArray
    _room: _Room | None = field(default=None, compare=False, repr=False)

    @classmethod
    def empty(cls, config: TextConfig) -> Context:
        """OpenVINO refuses zero keys, so one that nothing may see stands for none."""
        zeros = np.zeros((config.num_hidden_layers, config.num_key_value_heads, 1, config.head_dim), np.float32)
        return cls(0, zeros, zeros)

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def extended(self, keys: FloatArray, values: FloatArray, places: Sequence[int]) -> Context:
        """With the states at `places` of one row's pass behind it. keys, values: [layers, kv heads, S, head dim].

        Of two contexts that extend the same one, the second gets arrays of its own.
        """
        length = self.length + len(places)
        if self._room is not None and self._room.taken == self.length and length <= self.keys.shape[2]:
            longer = Context(length, self.keys, self.values, self._room)
        else:
            longer = Context(length, self._copied(self.keys, length), self._copied(self.values, length), _Room(length))
        longer.keys[:, :, self.length : length] = keys[:, :, list(places)]
        longer.values[:, :, self.length : length] = values[:, :, list(places)]
        assert longer._room is not None
        longer._room.taken = length
        return longer

    def sealed(self) -> Context:
        """The same, never written to again: whoever extends it gets arrays of its own."""
        for states in (self.keys, self.values):
            states.flags.writeable = False
        return Context(self.length, self.keys, self.values)

    def _copied(self, held: FloatArray, length: int) -> FloatArray:
        """With room for `length` tokens, in whole blocks."""
        room = -(-length // _BLOCK) * _BLOCK
        copy = np.zeros((*held.shape[:2], room, held.shape[3]), np.float32)
        copy[:, :, : self.length] = held[:, :, : self.length]
        return copy
