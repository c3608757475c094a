"""The highest rate that holds an objective, by doubling and bisection; the trying is done elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class Search:
    """start: requests a second of the first try. precision: it ends when the lowest rate that did not hold is at most
    this much above the highest that did, as a share. most_tries: it ends after so many.

    A rate above one that failed is never tried, nor one below one that held.
    """

    start: float
    precision: float = 0.1
    most_tries: int = 10
    holds: float | None = None
    fails: float | None = None
    tries: int = field(default=0)

    def next_rate(self) -> float | None:
        """The rate to try; None: found, or out of tries."""
        if self.tries >= self.most_tries:
            return None
        if self.holds is None:
            return self.start if self.fails is None else self.fails / 2
        if self.fails is None:
            return self.holds * 2
        if self.fails <= self.holds * (1 + self.precision):
            return None
        return math.sqrt(self.holds * self.fails)

    def note(self, rate: float, *, held: bool) -> None:
        """What came of a try."""
        self.tries += 1
        if held:
            self.holds = max(rate, self.holds or rate)
        else:
            self.fails = min(rate, self.fails or rate)
