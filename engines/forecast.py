"""How long a request will take, by the work that is before it: a line through what the latest ones took."""

from __future__ import annotations

from dataclasses import dataclass

_LATEST = 0.02
"""Weight of the latest call: some passes' worth of calls are remembered."""
_PRIOR = 3.0
"""How much the first guess of a line weighs: this times the square of the mean work, for a spread of that. Where passes
hold many calls for the time of one the guess is far too steep, but a line through a narrow spread is no better."""
_CARE = 3.0
"""Mean deviations that are added where few may be above."""


@dataclass
class Average:
    """Of the latest values: mean, and mean distance from it (RFC 6298's two)."""

    mean: float = 0.0
    apart: float = 0.0
    count: int = 0

    def note(self, value: float) -> None:
        self.count += 1
        latest = max(_LATEST, 1 / self.count)
        if self.count > 1:
            self.apart += latest * (abs(value - self.mean) - self.apart)
        self.mean += latest * (value - self.mean)

    @property
    def careful(self) -> float:
        """What few values are above."""
        return self.mean + _CARE * self.apart


class Forecast:
    """Time over work, as least squares of the latest calls weighted by age; not thread-safe.

    An engine shares its passes between the calls under way: when one ends depends on the work before it and its own,
    steeply where a pass's time is its work's, hardly where many calls share a pass for the time of one. Time counts
    from when the engine last gave an answer, or began behind a rest, so that it holds whole passes: from a call's
    arrival on it would depend on how far the pass under way had come. The first guess is a time in proportion to the
    work. Work is in any unit in which that holds, more or less; time in ns.
    """

    def __init__(self) -> None:
        self._count = 0
        self._work = self._time = self._squares = self._products = 0.0  # means, by age
        self._apart = 0.0

    def took(self, time_ns: float, work: float) -> None:
        """A call took so long from that moment on, with so much work before it and its own (more than 0)."""
        self._count += 1
        latest = max(_LATEST, 1 / self._count)
        if self._count > 1:
            self._apart += latest * (abs(time_ns - self.likely(work)) - self._apart)
        self._work += latest * (work - self._work)
        self._time += latest * (time_ns - self._time)
        self._squares += latest * (work * work - self._squares)
        self._products += latest * (work * time_ns - self._products)

    def likely(self, work: float) -> float:
        """Until a call ends, with so much work before it and its own; 0 where none has ended yet."""
        if not self._count:
            return 0.0
        prior = _PRIOR * _LATEST * self._work**2
        together = self._products - self._work * self._time + prior * self._time / self._work
        slope = max(together / (self._squares - self._work**2 + prior), 0.0)
        return max(self._time + slope * (work - self._work), 0.0)

    def careful(self, work: float) -> float:
        """What few take longer than."""
        return self.likely(work) + _CARE * self._apart
