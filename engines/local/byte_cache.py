"""A cache of what is dear to compute: least recently used first out, limited in bytes, each thing computed once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Value = TypeVar("Value")
Key = bytes
"""A SHA-256 of everything that decides the value."""
_Flights = dict[Key, Future[Value]]


class ByteCache(Generic[Value]):
    """Thread-safe. most_bytes: of all values held, by `size`; a value larger than that is handed on and not held.

    hits: keys asked for that another call, or the same one, had computed or was computing; misses: the others.
    """

    def __init__(self, most_bytes: int, size: Callable[[Value], int]) -> None:
        self._most_bytes = most_bytes
        self._size = size
        self._lock = threading.Lock()
        self._held: OrderedDict[Key, Value] = OrderedDict()
        self._under_way: dict[Key, Future[Value]] = {}
        self._bytes = self._hits = self._misses = 0

    def obtain(self, keys: Sequence[Key], compute: Callable[[list[Key]], Sequence[Value]]) -> list[Value]:
        """The value of each key. `compute` gets those that are not held and that nobody computes, each once.

        What another thread computes is waited for; where it fails there, it is computed here. Raises what `compute`
        raises.
        """
        found: dict[Key, Value] = {}
        computed = 0
        while left := [key for key in dict.fromkeys(keys) if key not in found]:
            mine, others = self._claim(left, found)
            if mine:
                computed += len(mine)
                found |= self._fill(mine, compute)
            # Only behind one's own: two calls that waited for each other's would wait for ever.
            found |= {key: future.result() for key, future in others.items() if future.exception() is None}
        with self._lock:
            self._hits += len(keys) - computed
            self._misses += computed
        return [found[key] for key in keys]

    def statistics(self, one: str, many: str) -> dict[str, float]:
        """Values held, their bytes, hits and misses so far, by names made of what a value and several are called."""
        with self._lock:
            return {
                many: float(len(self._held)),
                f"{one}_bytes": float(self._bytes),
                f"{one}_hits": float(self._hits),
                f"{one}_misses": float(self._misses),
            }

    def _claim(self, keys: Sequence[Key], found: dict[Key, Value]) -> tuple[_Flights[Value], _Flights[Value]]:
        """Puts what is held into `found`. Returns what the caller now has to compute, and what others do."""
        mine: _Flights[Value] = {}
        others: _Flights[Value] = {}
        with self._lock:
            for key in keys:
                if key in self._held:
                    self._held.move_to_end(key)
                    found[key] = self._held[key]
                elif key in self._under_way:
                    others[key] = self._under_way[key]
                else:
                    mine[key] = self._under_way[key] = Future()
        return mine, others

    def _fill(self, mine: _Flights[Value], compute: Callable[[list[Key]], Sequence[Value]]) -> dict[Key, Value]:
        try:
            values = dict(zip(mine, compute(list(mine)), strict=True))
        except BaseException as error:
            with self._lock:
                for key in mine:
                    del self._under_way[key]
            for future in mine.values():
                future.set_exception(error)
            raise
        with self._lock:
            for key, value in values.items():
                del self._under_way[key]
                self._hold(key, value)
        for key, future in mine.items():
            future.set_result(values[key])
        return values

    def _hold(self, key: Key, value: Value) -> None:
        if self._size(value) > self._most_bytes:
            return
        self._held[key] = value
        self._bytes += self._size(value)
        while self._bytes > self._most_bytes:
            _, dropped = self._held.popitem(last=False)
            self._bytes -= self._size(dropped)
