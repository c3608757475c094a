"""How long a pass waits for those whom the one before it has answered."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

_MOST = 0.15
"""Of a pass's time: what the next one may wait."""
_USUALLY = 2.0
"""Times the usual return: what it waits where that is less."""
_REMEMBERED = 5


class Patience:
    """Callers that ask again when they are answered come back together, one shortly after the other, and one pass for
    all of them costs less than one for the first and another for the rest. Callers that don't come back are not worth
    a moment: so a pass waits only where those of the latest passes came back soon, half of the time at least.

    Seconds are of one clock, which the caller reads. Not thread-safe.
    """

    def __init__(self) -> None:
        self._returns: deque[float] = deque(maxlen=_REMEMBERED)
        self._answered = self._due = 0
        self._ended_s = self._pass_s = 0.0
        self._back_s = math.inf

    def answered(self, rows: int, *, began_s: float, ended_s: float) -> None:
        """A pass has answered so many."""
        if self._answered:
            self._returns.append(self._back_s)
        self._answered = self._due = rows
        self._ended_s, self._pass_s, self._back_s = ended_s, ended_s - began_s, math.inf

    def came(self, rows: int, now_s: float) -> None:
        """So many have come."""
        if self._due > 0:
            self._due -= rows
            if self._due <= 0:
                self._back_s = now_s - self._ended_s

    def left_s(self, now_s: float) -> float:
        """How long to wait still; 0: all are back, or it is too long."""
        most = _MOST * self._pass_s
        usual = median(self._returns) if self._returns else math.inf
        if self._due <= 0 or usual > most:
            return 0.0
        return max(self._ended_s + min(_USUALLY * usual, most) - now_s, 0.0)
