"""What is kept: for its time to live, within its bytes, the least recently used gone first."""

from __future__ import annotations

import threading
import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engines.answer_cache import AnswerCache, size
from engines.answers import Answers


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def answers(text: bytes = b"User Safety: safe", value: float = 0.0) -> Answers:
    return Answers(np.array([[value, -1.0]], np.float32), (text,), (False,), (False,))


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


ONE = size(answers())


def test_what_is_put_is_got_under_its_key_alone() -> None:
    cache, said = AnswerCache(10 * ONE), answers()
    cache.put(key(1), said, ttl_s=60)
    assert cache.get(key(1)) is said
    assert cache.get(key(2)) is None
    assert cache.lookups() == {"hit": 1, "miss": 1}
    assert cache.statistics() == {"answer_cache_entries": 1, "answer_cache_bytes": ONE}


def test_it_is_gone_when_its_time_is_over_and_each_has_its_own() -> None:
    clock = Clock()
    cache = AnswerCache(10 * ONE, clock=clock)
    cache.put(key(1), answers(), ttl_s=60)
    cache.put(key(2), answers(), ttl_s=10)
    clock.now = 9.9
    assert cache.get(key(2)) is not None
    clock.now = 10.0
    assert cache.get(key(2)) is None
    assert cache.get(key(1)) is not None
    clock.now = 60.0
    # Nobody asked for it again: it is not in memory all the same.
    assert cache.statistics() == {"answer_cache_entries": 0, "answer_cache_bytes": 0}


def test_reading_does_not_prolong_and_putting_again_does() -> None:
    clock = Clock()
    cache = AnswerCache(10 * ONE, clock=clock)
    for number in (1, 2):
        cache.put(key(number), answers(), ttl_s=10)
    clock.now = 5.0
    cache.get(key(1))
    newer = answers(value=-2.0)
    cache.put(key(2), newer, ttl_s=10)
    clock.now = 12.0
    assert cache.get(key(1)) is None
    assert cache.get(key(2)) is newer


def test_the_least_recently_used_makes_room() -> None:
    cache = AnswerCache(3 * ONE)
    for number in (1, 2, 3):
        cache.put(key(number), answers(), ttl_s=60)
    cache.get(key(1))
    cache.put(key(4), answers(), ttl_s=60)
    assert [number for number in (1, 2, 3, 4) if cache.get(key(number))] == [1, 3, 4]


def test_what_is_larger_than_the_limit_drives_nothing_out() -> None:
    cache = AnswerCache(2 * ONE)
    cache.put(key(1), answers(), ttl_s=60)
    cache.put(key(2), answers(b"x" * 3 * ONE), ttl_s=60)
    assert cache.get(key(1)) is not None
    assert cache.get(key(2)) is None


def test_without_room_nothing_is_kept() -> None:
    cache = AnswerCache(0)
    cache.put(key(1), answers(), ttl_s=60)
    assert cache.get(key(1)) is None


def test_cleared_it_keeps_nothing() -> None:
    cache = AnswerCache(10 * ONE)
    cache.put(key(1), answers(), ttl_s=60)
    cache.clear()
    assert cache.get(key(1)) is None
    assert cache.statistics() == {"answer_cache_entries": 0, "answer_cache_bytes": 0}


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 7), st.integers(1, 20), st.integers(0, 900)),
            st.tuples(st.just("get"), st.integers(0, 7)),
            st.tuples(st.just("wait"), st.integers(1, 15)),
        ),
        max_size=60,
    )
)
def test_it_gives_what_was_put_last_and_never_too_late(
    steps: list[tuple[str, int, int, int] | tuple[str, int]],
) -> None:
    clock, most = Clock(), 4 * ONE
    cache = AnswerCache(most, clock=clock)
    put: dict[int, tuple[Answers, float]] = {}
    for step in steps:
        match step:
            case ("put", number, ttl_s, length):
                put[number] = answers(b"x" * length), clock.now + ttl_s
                cache.put(key(number), put[number][0], ttl_s=ttl_s)
                assert cache.get(key(number)) is put[number][0]
            case ("get", number):
                said = cache.get(key(number))
                assert said is None or (said is put[number][0] and clock.now < put[number][1])
            case ("wait", seconds):
                clock.now += seconds
        live = sum(clock.now < expires for _, expires in put.values())
        kept = cache.statistics()
        assert kept["answer_cache_entries"] <= live
        assert kept["answer_cache_bytes"] <= most
        assert (kept["answer_cache_bytes"] == 0) == (kept["answer_cache_entries"] == 0)


def test_the_bytes_that_it_tells_are_at_least_those_that_it_takes() -> None:
    cache = AnswerCache(1_000_000)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        # Twice as many as fit, so that what has gone is counted too.
        for number in range(1800):
            cache.put(key(number), answers(b"x" * (number % 50) + b"User Safety: safe"), ttl_s=60 + number)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken <= cache.statistics()["answer_cache_bytes"] <= 1_000_000


def test_threads_that_share_it_get_whole_answers_and_the_count_is_right() -> None:
    cache = AnswerCache(20 * ONE)
    wrong: list[int] = []

    def use(seed: int) -> None:
        for number in range(500):
            each = (number * seed) % 40
            cache.put(key(each), answers(value=-float(each)), ttl_s=60)
            said = cache.get(key((each + seed) % 40))
            if said is not None and said.choice_logprobs[0, 0] != -float((each + seed) % 40):
                wrong.append(each)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in (3, 7, 11, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sum(cache.lookups().values()) == 4 * 500
    kept = cache.statistics()
    assert kept["answer_cache_bytes"] == kept["answer_cache_entries"] * ONE <= 20 * ONE
