"""When requests are sent, and that a server that stalls can't hide it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from itertools import repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from latency_stand_ins import planned, verdict
from tritonguard import AsyncGuard, Policy, Retries
from tritonguard.testing import AsyncMockTransport, Handler, failing, indeterminate, unsafe_where

from benchmarks.latency.figures import Load, Point, point
from benchmarks.latency.limit import Search
from benchmarks.latency.loops import Log, Reply, asking, closed_loop, open_loop
from benchmarks.latency.mix import Planned
from benchmarks.latency.schedule import poisson

Answer = Callable[[Planned], Coroutine[None, None, Reply]]


def measured(load: Load, answer: Answer, *, slo_ms: float = 100.0) -> Point:
    """One load against `answer`, without anything around it."""

    async def run() -> Point:
        log = Log()
        if load.rate is not None:
            times = poisson(load.rate, load.end_s, seed="test")
            await open_loop(log, answer, [planned()] * len(times), times)
        else:
            assert load.concurrency is not None
            await closed_loop(log, answer, repeat(planned()), concurrency=load.concurrency, seconds=load.end_s)
        return point(load, log.samples, slo_ms=slo_ms, core_share=0.0, sent=log.sent, split=None, reference={})

    return asyncio.run(run())


def stalling(until_s: float, *, freezes: bool = False) -> Answer:
    """Answers at once, but nothing before `until_s` after the first request. freezes: the client's own loop stands."""
    began: list[float] = []

    async def answer(what: Planned) -> Reply:
        began.append(time.monotonic())
        left = max(0.0, began[0] + until_s - time.monotonic())
        if freezes:
            time.sleep(left)
        else:
            await asyncio.sleep(left)
        return verdict(0.1, what)

    return answer


def test_poisson_gaps_have_the_mean_and_the_spread_of_their_rate() -> None:
    times = poisson(50.0, 400.0, seed="a")
    gaps = [after - before for before, after in zip([0.0, *times], times, strict=False)]
    mean = math.fsum(gaps) / len(gaps)
    spread = math.sqrt(math.fsum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert len(times) == pytest.approx(20_000, rel=0.03)
    assert mean == pytest.approx(1 / 50, rel=0.03)
    assert spread == pytest.approx(1 / 50, rel=0.05)  # of an exponential: its mean
    assert sum(gap > 1 / 50 for gap in gaps) / len(gaps) == pytest.approx(math.exp(-1), abs=0.02)


@given(st.floats(0.1, 200), st.floats(0.1, 20), st.text(max_size=5))
@settings(max_examples=50, deadline=None)
def test_a_schedule_is_its_seed_s_alone_and_lies_in_its_time(rate: float, seconds: float, seed: str) -> None:
    times = poisson(rate, seconds, seed=seed)
    assert times == poisson(rate, seconds, seed=seed) == sorted(times)
    assert all(0 < at < seconds for at in times)


def test_a_stall_shows_in_every_request_that_it_delayed() -> None:
    """Half of the time is lost, so half of the requests are late: not the one alone that was under way."""
    stalled = measured(Load(200.0, None, 0.0, 1.0), stalling(0.5))
    assert stalled.latency.p50 is not None
    assert stalled.latency.p95 is not None
    assert stalled.latency.p95 > 350
    assert stalled.within_slo < 0.75
    assert stalled.goodput_per_s < stalled.verdicts_per_s
    waiting = measured(Load(None, 1, 0.0, 1.0), stalling(0.5))
    assert waiting.latency.p95 is not None
    assert waiting.latency.p95 < 350  # the same stall, from callers that wait: hardly to be seen


def test_a_client_that_freezes_is_late_and_says_so() -> None:
    frozen = measured(Load(200.0, None, 0.0, 1.0), stalling(0.5, freezes=True))
    assert frozen.latency.p95 is not None
    assert frozen.latency.p95 > 350
    assert frozen.generator.late_p99_ms > 350
    assert frozen.generator.limited


def test_the_schedule_waits_for_no_answer() -> None:
    """All are sent before the first is answered."""
    answered, sent = asyncio.Event(), []

    async def answer(what: Planned) -> Reply:
        sent.append(what)
        if len(sent) == 50:
            answered.set()
        await answered.wait()
        return verdict(0.1, what)

    async def run() -> Log:
        log = Log()
        async with asyncio.timeout(30):
            await open_loop(log, answer, [planned()] * 50, [number / 1000 for number in range(50)])
        return log

    assert len(asyncio.run(run()).samples) == 50


def test_a_closed_loop_keeps_its_concurrency() -> None:
    under_way, most = 0, 0

    async def answer(what: Planned) -> Reply:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.005)
        under_way -= 1
        return verdict(0.1, what)

    closed = measured(Load(None, 3, 0.1, 0.4), answer)
    assert most == 3
    assert closed.generator.offered_per_s is None
    assert closed.latency.n > 3


def test_callers_of_a_closed_loop_do_not_ask_a_refusing_server_at_once() -> None:
    async def answer(what: Planned) -> Reply:
        return Reply("overloaded")

    refused = measured(Load(None, 2, 0.0, 0.5), answer)
    assert 2 <= refused.requests <= 12
    assert refused.errors == {"overloaded": refused.requests}
    assert refused.latency.n == 0


@pytest.mark.parametrize(
    ("handler", "word"),
    [
        (unsafe_where("bomb"), "verdict"),
        (failing("overloaded"), "overloaded"),
        (failing("unavailable"), "unavailable"),
        (failing("invalid_request"), "invalid_request"),
        (indeterminate(), "indeterminate"),
        (indeterminate("vision_untrained"), "verdict"),
    ],
)
@pytest.mark.parametrize("on_error", ["block", "allow", "raise"])
def test_only_what_a_server_judged_is_a_verdict(handler: Handler, word: str, on_error: str) -> None:
    """Whatever `on_error` makes of it: a decision without a judgement is the error that it stands for."""

    async def ask() -> Reply:
        policy = Policy.model_validate({"on_error": on_error})
        async with AsyncGuard(transport=AsyncMockTransport(handler), retries=Retries(attempts=1)) as guard:
            what = planned()
            return await asking(guard)(
                Planned(what.request.model_copy(update={"policy": policy}), what.key, "verdict", "en", (None, None))
            )

    assert asyncio.run(ask()).word == word


@given(st.floats(0.05, 500), st.floats(0.1, 50))
@settings(max_examples=100, deadline=None)
def test_the_search_ends_beside_the_highest_rate_that_holds(limit: float, start: float) -> None:
    search = Search(start, precision=0.1, most_tries=40)
    while (rate := search.next_rate()) is not None:
        if search.holds is not None:
            assert rate > search.holds
        if search.fails is not None:
            assert rate < search.fails
        search.note(rate, held=rate <= limit)
    assert search.holds is not None
    assert search.fails is not None
    assert search.holds <= limit < search.fails <= 1.1001 * search.holds


def test_the_search_gives_up_after_its_tries() -> None:
    search = Search(8.0, most_tries=3)
    for _ in range(3):
        rate = search.next_rate()
        assert rate is not None
        search.note(rate, held=False)
    assert search.next_rate() is None
    assert search.holds is None
    assert search.fails == 2.0
