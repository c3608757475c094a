"""The forecast on engines that are only a clock: exact where it can be, and good enough to admit by."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator

import pytest

from engines.forecast import Average, Forecast

SECOND = 1e9


def test_nothing_is_forecast_before_a_call_has_ended() -> None:
    assert (Forecast().likely(100), Forecast().careful(100)) == (0, 0)


def test_the_first_guess_is_in_proportion_to_the_work() -> None:
    forecast = Forecast()
    forecast.took(SECOND, 10)
    assert forecast.likely(30) == pytest.approx(3 * SECOND)
    assert forecast.careful(30) == forecast.likely(30)


def test_a_line_is_found_and_followed_where_it_moves() -> None:
    forecast = Forecast()
    generator = random.Random(0)
    for base, each in ((0.5, 0.1), (2.0, 0.0), (0.0, 0.3)):
        for _ in range(400):
            work = generator.randint(1, 20)
            forecast.took((base + each * work) * SECOND, work)
        for work in (5, 10, 20):
            assert forecast.likely(work) == pytest.approx((base + each * work) * SECOND, rel=0.15, abs=0.4 * SECOND)


def test_more_work_never_takes_less_and_nothing_ends_before_it_began() -> None:
    forecast = Forecast()
    for work in range(1, 50):
        forecast.took((50 - work) * SECOND, work)
    assert forecast.likely(100) >= forecast.likely(10) >= 0


def test_care_adds_the_deviation() -> None:
    forecast = Forecast()
    for _ in range(300):
        forecast.took(1 * SECOND, 5)
        forecast.took(3 * SECOND, 5)
    assert forecast.likely(5) == pytest.approx(2 * SECOND, rel=0.05)
    assert forecast.careful(5) == pytest.approx(5 * SECOND, rel=0.05)


def test_an_average_begins_as_the_plain_mean() -> None:
    average = Average()
    for value in (10, 20, 30):
        average.note(value)
    assert average.mean == pytest.approx(20)
    assert average.careful > 20


class Batches:
    """An engine that takes up to 8 calls in a pass, FIFO, and admits by the forecast. Time is simulated, seconds."""

    def __init__(self, fixed: float, each: float, deadline: float, seed: int) -> None:
        self.fixed, self.each, self.deadline = fixed, each, deadline
        self.random = random.Random(seed)
        self.forecast = Forecast()
        self.since = 0.0
        self.waiting: list[tuple[float, int, float]] = []
        self.running: list[tuple[float, int, float]] = []
        self.in_time = self.late = self.refused = 0

    @property
    def capacity(self) -> float:
        return 8 / (self.fixed + 8 * self.each)

    def arrive(self, now: float) -> None:
        work = len(self.waiting) + len(self.running) + 1
        if work == 1:
            self.since = now
        done = self.since + self.forecast.careful(work) / SECOND
        if work > 1 and done > now + self.deadline:
            self.refused += 1
        else:
            self.waiting.append((now, work, self.since))

    def begin(self, now: float) -> float:
        self.running, self.waiting = self.waiting[:8], self.waiting[8:]
        return now + (self.fixed + self.each * len(self.running)) * self.random.uniform(0.85, 1.15)

    def end(self, now: float) -> None:
        for arrived, work, since in self.running:
            self.forecast.took((now - since) * SECOND, work)
            self.in_time += now - arrived <= self.deadline
            self.late += now - arrived > self.deadline
        self.running, self.since = [], now


def run(engine: Batches, arrivals: Iterator[float], end: float) -> None:
    events = [(next(arrivals), 0)]
    while events[0][0] < end:
        now, kind = heapq.heappop(events)
        if kind == 0:
            engine.arrive(now)
            heapq.heappush(events, (next(arrivals), 0))
        else:
            engine.end(now)
        if engine.waiting and not engine.running:
            heapq.heappush(events, (engine.begin(now), 1))


def poisson(rate: float, seed: int) -> Iterator[float]:
    generator, now = random.Random(seed), 0.0
    while True:
        now += generator.expovariate(rate)
        yield now


@pytest.mark.parametrize(
    ("fixed", "each", "passes"),
    [(fixed, each, passes) for fixed, each in ((0.05, 0.07), (0.02, 0.25)) for passes in (1.6, 2.5, 6.0)]
    + [(0.2, 0.01, 3.0), (0.2, 0.01, 6.0)],
)
def test_at_three_times_the_capacity_what_is_let_in_is_done_in_time_and_the_engine_stays_busy(
    fixed: float, each: float, passes: float
) -> None:
    """passes: the deadline, in full passes."""
    engine = Batches(fixed, each, deadline=passes * (fixed + 8 * each), seed=1)
    seconds = 600 / engine.capacity
    run(engine, poisson(3 * engine.capacity, seed=2), seconds)
    assert engine.in_time / seconds >= 0.9 * engine.capacity
    assert engine.late <= 0.02 * engine.in_time
    assert engine.refused > engine.in_time


@pytest.mark.parametrize(("fixed", "each"), [(0.05, 0.07), (0.02, 0.25), (0.2, 0.01)])
def test_a_load_that_can_be_done_is_let_in(fixed: float, each: float) -> None:
    engine = Batches(fixed, each, deadline=6 * (fixed + 8 * each), seed=1)
    run(engine, poisson(0.8 * engine.capacity, seed=2), 600 / engine.capacity)
    assert engine.refused <= 0.01 * engine.in_time
    assert engine.late == 0
