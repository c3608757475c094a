"""Each distinct image passes the tower once, in one call and between threads; and what the cache under it promises."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.local.byte_cache import ByteCache
from engines.local.image_cache import MOST_TOGETHER, ImageCache

TOKENS, HIDDEN = 4, 3
SIZE = TOKENS * HIDDEN * 4
WAIT_S = 60


class Tower:
    """Features that say which image they are of; `passes` are the numbers of images that it was given at once."""

    def __init__(self) -> None:
        self.passes: list[int] = []

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.passes.append(len(pixels))
        return np.repeat(pixels[:, 0, 0, 0].astype(np.float32), TOKENS)[:, None] + np.arange(HIDDEN, dtype=np.float32)


def image(number: int) -> np.ndarray:
    return np.full((2, 2, 3), number, np.uint8)


def numbers(features: Sequence[np.ndarray]) -> list[int]:
    assert all(one.shape == (TOKENS, HIDDEN) and (one[:, 0] == one[0, 0]).all() for one in features)
    return [int(one[0, 0]) for one in features]


def test_equal_images_of_one_call_are_seen_once_together_with_the_others() -> None:
    cache, tower = ImageCache(100 * SIZE), Tower()
    assert numbers(cache.features([image(n) for n in (5, 7, 5, 5, 9, 7)], tower)) == [5, 7, 5, 5, 9, 7]
    assert numbers(cache.features([image(n) for n in (9, 4)], tower)) == [9, 4]
    assert tower.passes == [3, 1]
    assert cache.statistics() == {
        "images": 4.0,
        "image_bytes": 4.0 * SIZE,
        "image_hits": 4.0,
        "image_misses": 4.0,
    }


def test_one_pixel_makes_another_image() -> None:
    cache, tower = ImageCache(100 * SIZE), Tower()
    other = image(5)
    other[1, 1, 2] += 1
    cache.features([image(5), other], tower)
    assert tower.passes == [2]


def test_many_images_are_seen_some_at_a_time() -> None:
    tower = Tower()
    many = range(2 * MOST_TOGETHER + 1)
    assert numbers(ImageCache(100 * SIZE).features([image(n) for n in many], tower)) == list(many)
    assert tower.passes == [MOST_TOGETHER, MOST_TOGETHER, 1]


def test_with_no_bytes_nothing_is_held_and_one_call_still_sees_an_image_once() -> None:
    cache, tower = ImageCache(0), Tower()
    for _ in range(2):
        cache.features([image(5), image(5)], tower)
    assert tower.passes == [1, 1]
    assert (cache.statistics()["images"], cache.statistics()["image_bytes"]) == (0.0, 0.0)


def test_what_is_held_cannot_be_written_to_and_keeps_nothing_else_alive() -> None:
    [features, _] = ImageCache(100 * SIZE).features([image(5), image(6)], Tower())
    assert features.base is None
    with pytest.raises(ValueError, match="read-only"):
        features[0, 0] = 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 6), max_size=6), max_size=12), st.integers(0, 4))
def test_whatever_was_dropped_each_image_gets_its_own_features(calls: list[list[int]], room: int) -> None:
    cache, tower = ImageCache(room * SIZE), Tower()
    for call in calls:
        assert numbers(cache.features([image(n) for n in call], tower)) == call
        assert cache.statistics()["image_bytes"] <= room * SIZE
    counts = cache.statistics()
    assert counts["image_misses"] == sum(tower.passes)
    assert counts["image_hits"] + counts["image_misses"] == sum(map(len, calls))


class Gate:
    """A computation that says when it has begun, and ends when it is told to."""

    def __init__(self, compute: Callable[[list[bytes]], list[int]]) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self._compute = compute

    def __call__(self, keys: list[bytes]) -> list[int]:
        self.begun.set()
        assert self.go_on.wait(WAIT_S)
        return self._compute(keys)


class Watched(ByteCache[int]):
    """Says when a call is about to wait for what others compute."""

    def __init__(self, most_bytes: int = 100) -> None:
        super().__init__(most_bytes, lambda value: 1)
        self.waits = threading.Semaphore(0)

    def _claim(self, keys, found):  # type: ignore[no-untyped-def]
        mine, others = super()._claim(keys, found)
        if others:
            self.waits.release()
        return mine, others


def lengths(keys: list[bytes]) -> list[int]:
    return [len(key) for key in keys]


def never(keys: list[bytes]) -> list[int]:
    raise AssertionError(f"computed {keys}")


@pytest.mark.parametrize("most_bytes", [100, 0])
def test_what_another_thread_computes_is_waited_for(most_bytes: int) -> None:
    """Held afterwards or not."""
    cache, gate = Watched(most_bytes), Gate(lengths)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(cache.obtain, [b"a", b"bb"], gate)
        assert gate.begun.wait(WAIT_S)
        waiting = [pool.submit(cache.obtain, [b"bb"], never) for _ in range(3)]
        for _ in waiting:
            assert cache.waits.acquire(timeout=WAIT_S)
        assert not any(each.done() for each in waiting)
        gate.go_on.set()
        assert first.result(WAIT_S) == [1, 2]
        assert [each.result(WAIT_S) for each in waiting] == [[2]] * 3
    counts = cache.statistics("x", "xs")
    assert (counts["x_hits"], counts["x_misses"]) == (3.0, 2.0)


def test_what_nobody_computes_is_computed_before_anything_is_waited_for() -> None:
    cache, gate, asked = Watched(), Gate(lengths), list[list[bytes]]()

    def others(keys: list[bytes]) -> list[int]:
        asked.append(keys)
        return lengths(keys)

    with ThreadPoolExecutor() as pool:
        first = pool.submit(cache.obtain, [b"a"], gate)
        assert gate.begun.wait(WAIT_S)
        second = pool.submit(cache.obtain, [b"a", b"bb", b"ccc"], others)
        assert cache.waits.acquire(timeout=WAIT_S)
        assert cache.obtain([b"bb"], never) == [2]  # while the first one still goes on
        gate.go_on.set()
        assert second.result(WAIT_S) == [1, 2, 3]
        assert first.result(WAIT_S) == [1]
    assert asked == [[b"bb", b"ccc"]]


def test_two_calls_that_need_what_the_other_computes_both_end() -> None:
    cache, gates = Watched(), (Gate(lengths), Gate(lengths))
    with ThreadPoolExecutor() as pool:
        first = pool.submit(cache.obtain, [b"a"], gates[0])
        assert gates[0].begun.wait(WAIT_S)
        second = pool.submit(cache.obtain, [b"bb", b"a"], gates[1])
        assert gates[1].begun.wait(WAIT_S)
        third = pool.submit(cache.obtain, [b"a", b"bb"], never)
        for gate in gates:
            gate.go_on.set()
        assert [each.result(WAIT_S) for each in (first, second, third)] == [[1], [2, 1], [1, 2]]


def test_a_failure_is_its_own_callers_and_who_waited_computes_it() -> None:
    def fails(keys: list[bytes]) -> list[int]:
        raise OSError("the tower fell")

    cache, gate = Watched(), Gate(fails)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(cache.obtain, [b"a"], gate)
        assert gate.begun.wait(WAIT_S)
        second = pool.submit(cache.obtain, [b"a"], lengths)
        assert cache.waits.acquire(timeout=WAIT_S)
        gate.go_on.set()
        with pytest.raises(OSError, match="fell"):
            first.result(WAIT_S)
        assert second.result(WAIT_S) == [1]
    assert cache.obtain([b"a"], never) == [1]


def test_as_many_values_as_keys_or_it_is_an_error() -> None:
    cache = Watched()
    with pytest.raises(ValueError, match="shorter"):
        cache.obtain([b"a", b"bb"], lambda keys: [1])
    assert cache.obtain([b"a", b"bb"], lengths) == [1, 2]
