"""What one request brings: tokens that the model wrote greedily, and the likeliest tokens at the place of each."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from engines.checkpoint import FloatArray
from engines.program import Choice

_MOST_MASS = 1.001
"""Of probabilities that sum to at most 1, with room for the rounding of a float32 log-softmax."""
_LEAST_MASS = 2.0**-24
"""What the rounding of such a sum may hide; a bound below it would be no bound."""


@dataclass(frozen=True)
class Step:
    """One place of a draft.

    id: what the model wrote there. likeliest: id -> log-probability (nats, over the whole vocabulary) of the K
    likeliest ids at this place, as the package gave them.
    """

    id: int
    likeliest: Mapping[int, float]

    @cached_property
    def known(self) -> Mapping[int, float]:
        """`likeliest`, if it can be what it says; else nothing is known: {}.

        Log-probabilities are numbers up to 0 with a mass of at most 1, and a greedy model wrote the likeliest of them:
        a list of which that is not true is damaged, or is that of another place.
        """
        values = self.likeliest.values()
        if not values or not all(math.isfinite(value) and value <= 0 for value in values):
            return {}
        if self.likeliest.get(self.id) != max(values) or self._mass > _MOST_MASS:
            return {}
        return self.likeliest

    @property
    def _mass(self) -> float:
        return math.fsum(map(math.exp, self.likeliest.values()))

    def best(self, options: Collection[int]) -> int | None:
        """The likeliest of the options; None: that is not known. What the model wrote is the likeliest of all."""
        if self.id in options:
            return self.id
        among = [id for id in options if id in self.known]
        return max(among, key=lambda id: self.known[id]) if among else None

    def read(self, choice: Choice) -> tuple[FloatArray, bool]:
        """float32 [2]: log P(safe) and log P(unsafe), normalised over the two; and whether one of them is a bound.

        An option that is not among the K likeliest is less likely than each of them, and has no more than the mass
        that they leave: the larger it could be, it is taken to be, and so the other one smaller than it is. NaN where
        neither is known: the verdict stage calls that indeterminate.
        """
        pair = [self.known.get(choice.safe), self.known.get(choice.unsafe)]
        if pair == [None, None]:
            return np.full(2, np.nan, np.float32), False
        left = math.log(max(1.0 - self._mass, _LEAST_MASS))
        bound = min(*self.known.values(), left) if None in pair else 0.0
        values = np.array([bound if value is None else value for value in pair], np.float64)
        row: FloatArray = (values - np.logaddexp(*values)).astype(np.float32)
        return np.minimum(row, np.float32(0.0)), None in pair


Draft = tuple[Step, ...]
"""In the order of writing; what ended it is its last step."""
