"""What the model said, kept for a while: for policies that have it so (`cache` in a policy file).

Kept are answers, not verdicts: labels, decision and record are made anew of each. Nothing of the question is kept but
its digest. An answer's text is: labels and category names, and in think mode the reasoning, which can quote a user. It
is in memory alone, for its time to live and at most a second longer where `statistics` is asked that often.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from engines.answers import Answers

ENTRY_BYTES = 1024
"""What an entry takes beside its numbers and texts: Python's objects around them, rounded up."""
TEXT_BYTES = 64
"""The same for each text."""


@dataclass(frozen=True)
class _Entry:
    answers: Answers
    size: int
    expires: float


def size(answers: Answers) -> int:
    """Bytes of memory that they take as an entry, at most."""
    return ENTRY_BYTES + answers.choice_logprobs.nbytes + sum(TEXT_BYTES + len(text) for text in answers.texts)


class AnswerCache:
    """Answers by the digest of all that decides them. Thread-safe.

    most_bytes: of all entries together, the least recently used go first; 0: nothing is kept. clock: seconds that never
    go back.
    """

    def __init__(self, most_bytes: int = 0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.most_bytes = most_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._expiries: list[tuple[float, bytes]] = []
        """A heap, with an item for each entry and some for entries that have gone."""
        self._bytes = 0
        self._lookups = Counter({"hit": 0, "miss": 0})

    def get(self, key: bytes) -> Answers | None:
        """The answers kept under the key; None: there are none (any more)."""
        with self._lock:
            self._drop_expired()
            entry = self._entries.get(key)
            self._lookups["miss" if entry is None else "hit"] += 1
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry.answers

    def put(self, key: bytes, answers: Answers, *, ttl_s: float) -> None:
        """Keep them from now on for `ttl_s` seconds; not at all where they alone are larger than the limit."""
        taken = size(answers)
        if taken > self.most_bytes:
            return
        with self._lock:
            self._drop_expired()
            if key in self._entries:
                self._remove(key)
            entry = _Entry(answers, taken, self._clock() + ttl_s)
            self._entries[key] = entry
            self._bytes += taken
            heapq.heappush(self._expiries, (entry.expires, key))
            while self._bytes > self.most_bytes:
                self._remove(next(iter(self._entries)))
            self._forget_the_gone()

    def clear(self) -> None:
        """Keep nothing of what is here."""
        with self._lock:
            self._entries.clear()
            self._expiries.clear()
            self._bytes = 0

    def statistics(self) -> dict[str, float]:
        """What is kept now, without what has expired."""
        with self._lock:
            self._drop_expired()
            return {"answer_cache_entries": float(len(self._entries)), "answer_cache_bytes": float(self._bytes)}

    def lookups(self) -> dict[str, int]:
        """How often something was asked for so far, by "hit" and "miss"."""
        with self._lock:
            return dict(self._lookups)

    def _remove(self, key: bytes) -> None:
        self._bytes -= self._entries.pop(key).size

    def _drop_expired(self) -> None:
        now = self._clock()
        while self._expiries and self._expiries[0][0] <= now:
            expires, key = heapq.heappop(self._expiries)
            entry = self._entries.get(key)
            # Put again meanwhile, it has a later item of its own.
            if entry is not None and entry.expires == expires:
                self._remove(key)

    def _forget_the_gone(self) -> None:
        """Make the heap anew where most of it is of entries that have gone, so that it stays as long as they are."""
        if len(self._expiries) > 2 * len(self._entries) + 16:
            self._expiries = [(entry.expires, key) for key, entry in self._entries.items()]
            heapq.heapify(self._expiries)
