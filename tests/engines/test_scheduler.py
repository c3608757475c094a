"""The queue: each request answered once and on time, in order, with a typed refusal where there is no place."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from engine_stand_in import StandIn
from tritonguard.errors import DeadlineExceeded, GuardError, InternalError, Overloaded, Unavailable

from engines.program import FreeText, Program
from engines.protocol import Answer, Job
from engines.scheduler import NEVER_NS, Results, Scheduler

WAIT_S = 10.0
QUICK, SLOW = Program(()), Program((FreeText(8, (1,), 2),))


class Gated(StandIn):
    """An engine that holds every call until it is let go, and remembers which jobs came in it."""

    def __init__(self, lanes: int = 1) -> None:
        self.lanes = lanes
        self.calls: list[list[int]] = []
        self.began, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.failure: BaseException | None = None

    def run(self, jobs: Sequence[Job]) -> list[Answer | GuardError]:
        self.calls.append([int(job.ids[0]) for job in jobs])
        self.began.release()
        assert self.go.acquire(timeout=WAIT_S)
        if self.failure is not None:
            raise self.failure
        return [Answer(np.zeros((1, 2), np.float32), (int(job.ids[0]),), 0) for job in jobs]


class Answered:
    """What `done` was called with, and how often."""

    def __init__(self) -> None:
        self.results: list[Results] = []
        self.at = threading.Event()

    def __call__(self, results: Results) -> None:
        self.results.append(results)
        self.at.set()

    @property
    def one(self) -> Answer | GuardError:
        assert self.at.wait(WAIT_S)
        ((result,),) = self.results
        return result


@contextmanager
def scheduling(*, lanes: int = 1, **limits: Any) -> Iterator[tuple[Scheduler, Gated]]:
    engine = Gated(lanes)
    scheduler = Scheduler(engine, **limits)
    try:
        yield scheduler, engine
    finally:
        engine.go.release(100)
        scheduler.close()


def job(number: int, *, seconds: float | None = None, program: Program = QUICK) -> Job:
    deadline = None if seconds is None else time.monotonic_ns() + round(seconds * 1e9)
    return Job(np.array([number], np.int32), 0, program, deadline_ns=deadline)


def ask(scheduler: Scheduler, *jobs: Job, priority: int = 0) -> Answered:
    answered = Answered()
    scheduler.submit(jobs, answered, priority=priority)
    return answered


def teach(scheduler: Scheduler, engine: Gated, seconds: float) -> None:
    """The pace that the queue learns: one call alone took so long."""
    taught = ask(scheduler, job(0))
    assert engine.began.acquire(timeout=WAIT_S)
    time.sleep(seconds)
    engine.go.release()
    assert isinstance(taught.one, Answer)


def test_what_waited_goes_in_order_and_each_request_gets_its_own() -> None:
    with scheduling() as (scheduler, engine):
        first = ask(scheduler, job(0))
        assert engine.began.acquire(timeout=WAIT_S)
        pair = ask(scheduler, job(1), job(2))
        last = ask(scheduler, job(3))
        engine.go.release(3)
        assert isinstance(last.one, Answer)
        assert last.one.ids == (3,)
        assert isinstance(first.one, Answer)
        ((one, two),) = pair.results
        assert (isinstance(one, Answer), isinstance(two, Answer)) == (True, True)
        assert engine.calls == [[0], [1, 2], [3]]


def test_a_higher_priority_goes_first_and_equal_ones_by_arrival() -> None:
    with scheduling() as (scheduler, engine):
        ask(scheduler, job(0))
        assert engine.began.acquire(timeout=WAIT_S)
        asked = [ask(scheduler, job(n), priority=priority) for n, priority in ((1, 0), (2, 5), (3, 0), (4, 5))]
        engine.go.release(5)
        assert all(each.at.wait(WAIT_S) for each in asked)
        assert engine.calls == [[0], [2], [4], [1], [3]]


def test_a_full_queue_refuses_the_next_and_keeps_the_others() -> None:
    with scheduling(most_waiting=2) as (scheduler, engine):
        ask(scheduler, job(0))
        assert engine.began.acquire(timeout=WAIT_S)
        waiting = [ask(scheduler, job(n)) for n in (1, 2)]
        refused = ask(scheduler, job(3))
        assert isinstance(refused.one, Overloaded)
        assert scheduler.statistics()["waiting"] == 2
        engine.go.release(3)
        assert all(isinstance(each.one, Answer) for each in waiting)


def test_it_shows_when_one_more_would_be_done() -> None:
    shown: list[int] = []
    with scheduling(most_waiting=1, show=shown.append) as (scheduler, engine):
        teach(scheduler, engine, 0.2)
        ask(scheduler, job(1))
        assert engine.began.acquire(timeout=WAIT_S)
        assert 0.2e9 < shown[-1] - time.monotonic_ns() < 2e9
        second = ask(scheduler, job(2))
        assert shown[-1] == NEVER_NS
        engine.go.release(2)
        assert isinstance(second.one, Answer)
        idle_by = time.monotonic() + WAIT_S
        while shown[-1] != 0 and time.monotonic() < idle_by:
            time.sleep(0.01)
        assert shown[-1] == 0
    assert shown[-1] == NEVER_NS


def test_in_a_full_queue_the_latest_of_the_lowest_priority_gives_way() -> None:
    with scheduling(most_waiting=2) as (scheduler, engine):
        ask(scheduler, job(0))
        assert engine.began.acquire(timeout=WAIT_S)
        early, late = (ask(scheduler, job(n)) for n in (1, 2))
        urgent = ask(scheduler, job(3), priority=1)
        assert isinstance(late.one, Overloaded)
        engine.go.release(3)
        assert isinstance(urgent.one, Answer)
        assert isinstance(early.one, Answer)


def test_a_deadline_in_the_queue_is_answered_on_time_and_costs_the_engine_nothing() -> None:
    with scheduling() as (scheduler, engine):
        ask(scheduler, job(0))
        assert engine.began.acquire(timeout=WAIT_S)
        began = time.monotonic()
        late = ask(scheduler, job(1, seconds=0.05))
        assert isinstance(late.one, DeadlineExceeded)
        assert 0.05 <= time.monotonic() - began < 1.0
        engine.go.release()
        after = ask(scheduler, job(2))
        engine.go.release()
        assert isinstance(after.one, Answer)
        assert engine.calls == [[0], [2]]


def test_a_deadline_while_the_model_runs_is_answered_on_time_and_only_once() -> None:
    with scheduling() as (scheduler, engine):
        late = ask(scheduler, job(0, seconds=0.05))
        assert isinstance(late.one, DeadlineExceeded)
        engine.go.release()
        engine.go.release()
        assert isinstance(ask(scheduler, job(1)).one, Answer)
        assert len(late.results) == 1


@pytest.mark.parametrize("order", [(0.1, 0.3, 60.0), (60.0, 0.3, 0.1), (0.3, 60.0, 0.1)])
def test_deadlines_are_met_in_whatever_order_they_come(order: tuple[float, ...]) -> None:
    with scheduling() as (scheduler, engine):
        ask(scheduler, job(0))
        assert engine.began.acquire(timeout=WAIT_S)
        began = time.monotonic()
        asked = {seconds: ask(scheduler, job(1, seconds=seconds)) for seconds in order}
        for seconds in (0.1, 0.3):
            assert isinstance(asked[seconds].one, DeadlineExceeded)
            assert seconds <= time.monotonic() - began < seconds + 1.0
        engine.go.release(2)
        assert isinstance(asked[60.0].one, Answer)


def test_a_request_whose_turn_comes_after_its_deadline_is_refused_at_once() -> None:
    with scheduling() as (scheduler, engine):
        teach(scheduler, engine, 0.3)
        ask(scheduler, job(1))
        assert engine.began.acquire(timeout=WAIT_S)
        began = time.monotonic()
        assert isinstance(ask(scheduler, job(2, seconds=0.1)).one, Overloaded)
        assert time.monotonic() - began < 0.1
        engine.go.release(2)
        assert isinstance(ask(scheduler, job(3, seconds=5.0)).one, Answer)


def test_the_time_of_an_unusual_request_says_nothing_about_others() -> None:
    with scheduling() as (scheduler, engine):
        unusual = Answered()
        scheduler.submit([job(0)], unusual, usual=False)
        assert engine.began.acquire(timeout=WAIT_S)
        time.sleep(0.3)
        engine.go.release()
        assert isinstance(unusual.one, Answer)
        ask(scheduler, job(1))
        assert engine.began.acquire(timeout=WAIT_S)
        second = ask(scheduler, job(2, seconds=0.2))
        engine.go.release(2)
        assert isinstance(second.one, Answer)


def test_of_what_waits_nothing_is_begun_that_cannot_be_done_in_time_unless_it_is_alone() -> None:
    with scheduling() as (scheduler, engine):
        teach(scheduler, engine, 0.3)
        ask(scheduler, job(1))
        assert engine.began.acquire(timeout=WAIT_S)
        # The forecast lets it in; then the call under way takes longer than was to be expected.
        hopeless, patient = ask(scheduler, job(2, seconds=0.8)), ask(scheduler, job(3, seconds=WAIT_S))
        time.sleep(0.6)
        engine.go.release(2)
        assert isinstance(hopeless.one, Overloaded)
        assert isinstance(patient.one, Answer)
        assert engine.calls == [[0], [1], [3]]
        alone = ask(scheduler, job(4, seconds=0.1))
        engine.go.release()
        assert isinstance(alone.one, (Answer, DeadlineExceeded))
        assert engine.calls[-1] == [4]


@pytest.mark.parametrize("failure", [RuntimeError("graph"), MemoryError(), SystemExit()])
def test_an_engine_that_fails_fails_its_call_and_nothing_after_it(failure: BaseException) -> None:
    with scheduling() as (scheduler, engine):
        engine.failure = failure
        engine.go.release()
        failed = ask(scheduler, job(0)).one
        assert isinstance(failed, InternalError)
        assert failed.__cause__ is failure
        engine.failure = None
        engine.go.release()
        assert isinstance(ask(scheduler, job(1)).one, Answer)


def test_closing_finishes_what_is_here_and_refuses_what_comes() -> None:
    with scheduling() as (scheduler, engine):
        running = ask(scheduler, job(0))
        assert engine.began.acquire(timeout=WAIT_S)
        waiting = ask(scheduler, job(1, seconds=WAIT_S))
        engine.go.release(2)
        scheduler.close()
        assert isinstance(running.one, Answer)
        assert isinstance(waiting.one, Answer)
        assert isinstance(ask(scheduler, job(2)).one, Unavailable)


def test_many_threads_get_one_answer_each() -> None:
    class Instant(StandIn):
        def run(self, jobs: Sequence[Job]) -> list[Answer | GuardError]:
            return [Answer(np.zeros((1, 2), np.float32), (int(job.ids[0]),), 0) for job in jobs]

    scheduler = Scheduler(Instant(), most_waiting=50)
    asked: dict[int, Answered] = {}

    def send(start: int) -> None:
        for n in range(start, start + 200):
            asked[n] = ask(scheduler, job(n, seconds=0.002 if n % 7 == 0 else None), priority=n % 3)

    senders = [threading.Thread(target=send, args=(1000 * k,)) for k in range(4)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    scheduler.close()
    assert len(asked) == 800
    for n, answered in asked.items():
        result = answered.one
        assert isinstance(result, (DeadlineExceeded, Overloaded)) or (isinstance(result, Answer) and result.ids == (n,))


def test_an_engine_with_lanes_has_as_many_calls_at_once_each_of_one_request() -> None:
    with scheduling(lanes=3) as (scheduler, engine):
        asked = [ask(scheduler, job(n)) for n in range(5)]
        for _ in range(3):
            assert engine.began.acquire(timeout=WAIT_S)
        assert scheduler.statistics() == {"waiting": 2, "running": 3}
        engine.go.release(5)
        assert all(isinstance(each.one, Answer) for each in asked)
        assert sorted(engine.calls) == [[0], [1], [2], [3], [4]]


def test_thinking_leaves_half_of_the_lanes_to_the_quick() -> None:
    with scheduling(lanes=2) as (scheduler, engine):
        slow = [ask(scheduler, job(n, program=SLOW)) for n in range(3)]
        assert engine.began.acquire(timeout=WAIT_S)
        quick = ask(scheduler, job(9))
        assert engine.began.acquire(timeout=WAIT_S)
        assert engine.calls == [[0], [9]]
        engine.go.release(4)
        assert all(isinstance(each.one, Answer) for each in (*slow, quick))


def test_answers_are_counted_by_what_they_were() -> None:
    with scheduling() as (scheduler, engine):
        engine.go.release()
        assert isinstance(ask(scheduler, job(0)).one, Answer)
        assert isinstance(ask(scheduler, job(1, seconds=0.0)).one, GuardError)
        assert scheduler.answers() == {"ok": 1, "deadline_exceeded": 1}


def test_beside_idle_lanes_what_is_under_way_counts() -> None:
    """Lanes share passes: an idle one alone makes nobody faster."""
    with scheduling(lanes=8) as (scheduler, engine):
        teach(scheduler, engine, 0.3)
        under_way = ask(scheduler, job(1, seconds=0.1))  # alone it is tried
        assert engine.began.acquire(timeout=WAIT_S)
        assert isinstance(ask(scheduler, job(2, seconds=0.1)).one, Overloaded)
        assert isinstance(under_way.one, DeadlineExceeded)
        engine.go.release()


def test_what_waits_is_refused_as_soon_as_its_time_is_too_short() -> None:
    with scheduling(lanes=2) as (scheduler, engine):
        teach(scheduler, engine, 0.2)
        under_way = [ask(scheduler, job(n)) for n in (1, 2)]
        assert engine.began.acquire(timeout=WAIT_S)
        assert engine.began.acquire(timeout=WAIT_S)
        waiting = ask(scheduler, job(3, seconds=2.0))
        behind = ask(scheduler, job(4, seconds=2.1))
        time.sleep(1.2)
        # One of the calls ends late; by its time, what waits behind the other and the first has no chance any more.
        engine.go.release()
        assert isinstance(behind.one, Overloaded)
        engine.go.release(3)
        assert isinstance(waiting.one, (Answer, Overloaded))
        assert all(isinstance(each.one, Answer) for each in under_way)


def test_the_first_end_of_a_pass_does_not_count_the_others_of_that_pass_once_more() -> None:
    with scheduling(lanes=4) as (scheduler, engine):
        teach(scheduler, engine, 0.1)
        shared = [ask(scheduler, job(n)) for n in range(1, 5)]
        for _ in shared:
            assert engine.began.acquire(timeout=WAIT_S)
        waiting = ask(scheduler, job(5, seconds=3.0))
        time.sleep(1.2)
        engine.go.release()
        assert isinstance(shared[0].one, Answer)
        engine.go.release(4)
        assert isinstance(waiting.one, Answer)
        assert all(isinstance(each.one, Answer) for each in shared)
