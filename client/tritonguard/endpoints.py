"""Which of several servers the next request goes to.

The one with the fewest requests in flight, in turn where that is equal. A server that failed is set aside for
a short time that doubles with each failure in a row; afterwards one request at a time tries it, until one is
answered. Where all are set aside, the one whose time ends first is tried.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence

from tritonguard.errors import InvalidRequest

FIRST_ASIDE_S = 0.2
MOST_ASIDE_S = 10.0
_MOST_DOUBLINGS = 30


def endpoint_names(url: str | Sequence[str]) -> tuple[str, ...]:
    """The host:port of each endpoint. Raises InvalidRequest for none, a doubled one, and one with a scheme."""
    names = (url,) if isinstance(url, str) else tuple(url)
    if not names or any(not isinstance(name, str) or "://" in name or not name.strip() for name in names):
        raise InvalidRequest("url: give host:port of the gRPC endpoint, without a scheme", field="url")
    if len(set(names)) < len(names):
        raise InvalidRequest("url: an endpoint is given twice", field="url")
    return names


class Endpoints:
    """The standing of `count` endpoints, by index; safe to share between threads. clock: seconds."""

    def __init__(self, count: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._in_flight = [0] * count
        self._failures = [0] * count
        self._aside_until = [0.0] * count
        self._next = 0
        self._lock = threading.Lock()

    def take(self, tried: Collection[int] = ()) -> int:
        """The endpoint for one request, which is `give_back`'s to end. tried: taken only where no other is left."""
        with self._lock:
            now, count = self._clock(), len(self._in_flight)

            def order(index: int) -> tuple[bool, bool, float, int, int]:
                aside = self._is_aside(index, now)
                until = self._aside_until[index] if aside else 0.0
                return aside, index in tried, until, self._in_flight[index], (index - self._next) % count

            chosen = min(range(count), key=order)
            self._in_flight[chosen] += 1
            self._next = (chosen + 1) % count
            return chosen

    def give_back(self, index: int, *, failed: bool | None) -> None:
        """The request to this endpoint ended.

        failed: the endpoint could not be reached or was not ready; False: it answered, be it with a refusal;
        None: a cancelled or late request, which says nothing.
        """
        with self._lock:
            self._in_flight[index] -= 1
            if failed is None:
                return
            if not failed:
                self._failures[index] = 0
                return
            now = self._clock()
            # Requests that were in flight together fail together: that is one failure, not many.
            if self._failures[index] and now < self._aside_until[index]:
                return
            self._failures[index] += 1
            doublings = min(self._failures[index] - 1, _MOST_DOUBLINGS)
            self._aside_until[index] = now + min(MOST_ASIDE_S, FIRST_ASIDE_S * 2**doublings)

    def has_another(self, tried: Collection[int]) -> bool:
        """Whether an endpoint in good standing is left that was not tried."""
        with self._lock:
            now = self._clock()
            return any(not self._is_aside(index, now) for index in range(len(self._failures)) if index not in tried)

    def _is_aside(self, index: int, now: float) -> bool:
        if not self._failures[index]:
            return False
        return now < self._aside_until[index] or self._in_flight[index] > 0
