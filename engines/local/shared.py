"""Prefixes that rows of a pass share: one for all of them, or several on a shelf."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.checkpoint import FloatArray
from engines.local.context import Context
from engines.local.grouping import MOST_ROWS

_BLOCK = 64
"""A shelf is in whole blocks of tokens: OpenVINO makes its kernels anew for each length that it meets."""


@dataclass(frozen=True)
class Shared:
    """contexts: what each row goes on behind. keys, values: float32 [layers, G, kv heads, T, head dim]; places: int32
    [B], which of the G is a row's; lengths: int32 [G], how many tokens of each count."""

    contexts: Sequence[Context]
    keys: FloatArray
    values: FloatArray
    places: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]

    @classmethod
    def one(cls, context: Context, count: int) -> Shared:
        """The same for `count` rows."""
        states = context.keys[:, None], context.values[:, None]
        return cls([context] * count, *states, np.zeros(count, np.int32), np.array([context.length], np.int32))

    def at(self, rows: Sequence[int]) -> Shared:
        """Of these rows."""
        return Shared([self.contexts[row] for row in rows], self.keys, self.values, self.places[rows], self.lengths)

    def context(self, row: int) -> Context:
        return self.contexts[row]


class Shelf:
    """As many prefixes beside each other in one array as a pass has rows. Each is copied when it comes; those that were
    not asked for longest make room."""

    def __init__(self) -> None:
        self._held: list[Context | None] = [None] * MOST_ROWS
        self._used = [0] * MOST_ROWS
        self._takes = 0
        self._keys = self._values = np.zeros((0, 0, 0, 0, 0), np.float32)

    @property
    def nbytes(self) -> int:
        return self._keys.nbytes + self._values.nbytes

    def take(self, contexts: Sequence[Context]) -> Shared:
        """contexts: of each row, one at least and MOST_ROWS at most. Valid until the next call."""
        if all(context is contexts[0] for context in contexts):
            return Shared.one(contexts[0], len(contexts))
        self._takes += 1
        self._make_room(contexts)
        # First those that are there, so that nobody is put on the place of one that comes later.
        wanted = sorted(
            {id(context): context for context in contexts}.values(), key=lambda each: self._place(each) is None
        )
        for context in wanted:
            self._used[self._put(context)] = self._takes
        places = np.array([self._place(context) for context in contexts], np.int32)
        lengths = np.array([context.length if context else 0 for context in self._held], np.int32)
        return Shared(contexts, self._keys, self._values, places, lengths)

    def _make_room(self, contexts: Sequence[Context]) -> None:
        longest = max(each.length for each in (*contexts, *self._held) if each is not None)
        if longest <= self._keys.shape[3] <= 2 * longest + _BLOCK:
            return
        layers, heads, _, dim = contexts[0].keys.shape
        shape = (layers, MOST_ROWS, heads, -(-longest // _BLOCK) * _BLOCK, dim)
        self._keys, self._values = (np.zeros(shape, np.float32) for _ in range(2))
        self._held = [None] * MOST_ROWS

    def _place(self, context: Context) -> int | None:
        return next((place for place, held in enumerate(self._held) if held is context), None)

    def _put(self, context: Context) -> int:
        place = self._place(context)
        if place is None:
            place = self._used.index(min(self._used))
            self._held[place] = context
            self._keys[:, place, :, : context.length] = context.keys[:, :, : context.length]
            self._values[:, place, :, : context.length] = context.values[:, :, : context.length]
        return place
