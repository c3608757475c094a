"""`Guard.check_many`; the asynchronous one is in test_async_guard."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from answers import always, answer
from tritonguard import ERRORS, GuardError, GuardRequest, InvalidRequest, Policy, Verdict
from tritonguard.testing import fake_guard as guard

RAISING = Policy(on_error="raise")


def requests(count: int) -> list[GuardRequest]:
    return [GuardRequest(prompt=f"text {number}", request_id=f"r{number}", policy=RAISING) for number in range(count)]


@pytest.mark.parametrize("concurrency", [1, 3, 8])
def test_check_many_answers_in_order_whatever_finishes_first(concurrency: int) -> None:
    def handler(request: GuardRequest) -> Verdict:
        number = int(request.request_id[1:])
        time.sleep(0.004 if number % 3 == 0 else 0.0)
        if number == 5:
            raise ERRORS["overloaded"].error("told")
        return answer(request, 0.1)

    answers = list(guard(handler).check_many(requests(20), concurrency=concurrency))
    assert [a.kind for a in answers if isinstance(a, GuardError)] == ["overloaded"]
    assert [a.request_id if isinstance(a, GuardError) else a.record.request_id for a in answers] == [
        f"r{number}" for number in range(20)
    ]


def test_check_many_reads_no_further_than_twice_the_concurrency_and_closes_early() -> None:
    read: list[int] = []
    judged: list[str] = []

    def source() -> Iterator[GuardRequest]:
        for number, request in enumerate(requests(1000)):
            read.append(number)
            yield request

    def handler(request: GuardRequest) -> Verdict:
        judged.append(request.request_id)
        return answer(request, 0.1)

    before = threading.active_count()
    many = guard(handler).check_many(source(), concurrency=2)
    assert read == []
    next(many)
    time.sleep(0.02)
    assert len(read) <= 5
    many.close()
    assert threading.active_count() == before
    assert len(judged) <= len(read)


def test_check_many_runs_that_many_at_once_and_no_more() -> None:
    three_are_here = threading.Barrier(3)
    now, most = 0, 0
    lock = threading.Lock()

    def handler(request: GuardRequest) -> Verdict:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        three_are_here.wait(timeout=30)  # breaks where fewer than three run together
        with lock:
            now -= 1
        return answer(request, 0.1)

    assert len(list(guard(handler).check_many(requests(9), concurrency=3))) == 9
    assert most == 3


def test_an_exception_of_the_source_comes_after_the_answers_before_it() -> None:
    def source() -> Iterator[GuardRequest]:
        yield from requests(5)
        raise OSError("disk")

    many = guard(always(0.1)).check_many(source(), concurrency=2)
    assert all(isinstance(next(many), Verdict) for _ in range(5))
    with pytest.raises(OSError, match="disk"):
        next(many)


def test_check_many_refuses_no_concurrency_and_a_closed_guard() -> None:
    client = guard(always(0.1))
    with pytest.raises(InvalidRequest):
        client.check_many([], concurrency=0)
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.check_many([])
