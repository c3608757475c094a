"""Loads, one after the other, on one deployment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain, count, islice
from typing import Protocol

from tritonguard.errors import Unavailable

from benchmarks.latency.figures import Load, Point, point
from benchmarks.latency.limit import Search
from benchmarks.latency.loops import VERDICT, Ask, Log, closed_loop, open_loop
from benchmarks.latency.mix import Mix
from benchmarks.latency.schedule import poisson
from benchmarks.latency.stages import Counters, answers, between
from benchmarks.latency.verdicts import Judged, judged_of

WARMING = 4
"""Requests at a time while warming up."""
PATIENCE_S = 120.0
"""Deadline of those: the first ones may compile and fill what later ones find."""
_AHEAD = 64
_TELL_S = 10.0
_COUNTED_S = 5.0


class Counting(Protocol):
    async def counters(self) -> dict[str, Counters] | None:
        """By model; None: not told."""
        ...


@dataclass(frozen=True)
class Limit:
    """per_s: the highest rate at which `share` of the requests got a verdict within `slo_ms`; None: none did.
    fails_at: the lowest that did not hold; None: all held. generator_limited: the search ended at the generator."""

    slo_ms: float
    share: float
    per_s: float | None
    fails_at: float | None
    tries: int
    generator_limited: bool


@dataclass
class Findings:
    """What came of a run so far, so that an interrupt loses none of it. verdicts: the first of each request, by key.
    revisions: (engine, precision, bundle, model) of the records."""

    points: list[Point] = field(default_factory=list)
    limit: Limit | None = None
    verdicts: dict[str, Judged] = field(default_factory=dict)
    revisions: set[tuple[str | None, ...]] = field(default_factory=set)


@dataclass
class Sweep:
    """reference: verdicts of an earlier run; None: the first answers of this one. say: takes lines on the progress."""

    mix: Mix
    ask: Ask
    statistics: Counting
    slo_ms: float
    findings: Findings
    reference: Mapping[str, Judged] | None = None
    say: Callable[[str], None] = print
    _numbers: count[int] = field(default_factory=count, repr=False)

    async def warm_up(self, requests: int) -> None:
        """One request of each policy, and so many of the workload; none is counted. Raises Unavailable where not one of
        them gets a verdict."""
        if requests < 1:
            return
        self.say(f"warming up: one request of each policy, {requests} of the workload")
        log = Log()
        plan = chain(self.mix.one_of_each_policy(), islice(self.mix.stream("warm-up"), requests))
        before = await self.statistics.counters()
        patient = (replace(one, request=one.request.model_copy(update={"deadline_s": PATIENCE_S})) for one in plan)
        await closed_loop(log, self.ask, patient, concurrency=WARMING, seconds=float("inf"))
        words = {sample.reply.word for sample in log.samples}
        if VERDICT not in words:
            raise Unavailable(f"warming up: no verdict came, but {', '.join(sorted(words))}")
        await self._counted(before, log)

    async def run(self, loads: Sequence[Load]) -> None:
        for load in loads:
            await self.measure(load)

    async def measure(self, load: Load) -> Point:
        """Ask under one load, and wait for all answers. An interrupt leaves the point of what came until then."""
        before = await self.statistics.counters()
        name = f"{next(self._numbers)} {load.name}"
        stream = self.mix.stream(name)
        times: list[float] = []
        if load.rate is not None:
            times = poisson(load.rate, load.end_s, seed=f"{self.mix.workload.seed} {load.rate:g}")
        # Made before the clock runs; what a closed loop asks beyond that is made on the way.
        plan = list(islice(stream, len(times) if load.concurrency is None else _AHEAD * load.concurrency))
        self.say(f"{load.name}: {load.settle_s:g} s to settle, {load.seconds:g} s counted")
        log, busy = Log(), time.thread_time()
        try:
            async with self._telling(log):
                if load.concurrency is None:
                    await open_loop(log, self.ask, plan, times)
                else:
                    asked = chain(plan, stream)
                    await closed_loop(log, self.ask, asked, concurrency=load.concurrency, seconds=load.end_s)
        except asyncio.CancelledError:
            self._note(load, log, _share(busy, log), until_s=log.now())
            raise
        core_share = _share(busy, log)
        after = await self._counted(before, log)
        return self._note(load, log, core_share, before=before, after=after)

    async def find_limit(self, *, share: float, settle_s: float, seconds: float) -> None:
        """Search the highest rate that holds, from the best throughput so far."""
        search = Search(max((point.verdicts_per_s for point in self.findings.points), default=0.0) or 1.0)
        limited = False
        while (rate := search.next_rate()) is not None and not limited:
            measured = await self.measure(Load(rate, None, settle_s, seconds))
            limited = measured.generator.limited
            held = measured.within_slo >= share and not limited
            self.say(f"{rate:.2f}/s: {measured.within_slo:.1%} within {self.slo_ms:g} ms, {'held' if held else 'not'}")
            search.note(rate, held=held)
            self.findings.limit = Limit(self.slo_ms, share, search.holds, search.fails, search.tries, limited)

    async def _counted(self, before: Mapping[str, Counters] | None, log: Log) -> dict[str, Counters] | None:
        """The counters when they tell of every verdict of this log: a server counts an answer after it has sent it, and
        the last ones would be the next measurement's. What is not counted in _COUNTED_S is not waited for."""
        verdicts = sum(sample.reply.verdict is not None for sample in log.samples)
        end = log.now() + _COUNTED_S
        while True:
            after = await self.statistics.counters()
            if before is None or after is None or log.now() > end or answers(before, after) >= verdicts:
                return after
            await asyncio.sleep(_COUNTED_S / 100)

    def _note(
        self,
        load: Load,
        log: Log,
        core_share: float,
        *,
        before: Mapping[str, Counters] | None = None,
        after: Mapping[str, Counters] | None = None,
        until_s: float | None = None,
    ) -> Point:
        for key, judged in judged_of(log.samples).items():
            self.findings.verdicts.setdefault(key, judged)
        for sample in log.samples:
            if sample.reply.verdict is not None:
                record = sample.reply.verdict.record
                known = (record.engine, record.precision, record.bundle_revision, record.model_revision)
                self.findings.revisions.add(known)
        measured = point(
            load,
            log.samples,
            slo_ms=self.slo_ms,
            core_share=core_share,
            sent=log.sent,
            split=None if before is None or after is None else between(before, after),
            reference=self.findings.verdicts if self.reference is None else self.reference,
            until_s=until_s,
        )
        self.findings.points.append(measured)
        return measured

    @asynccontextmanager
    async def _telling(self, log: Log) -> AsyncIterator[None]:
        async def tell() -> None:
            while True:
                await asyncio.sleep(_TELL_S)
                self.say(f"  {log.now():.0f} s: {log.sent} sent, {len(log.samples)} answered")

        telling = asyncio.create_task(tell())
        try:
            yield
        finally:
            telling.cancel()
            with suppress(asyncio.CancelledError):
                await telling


def _share(busy_before: float, log: Log) -> float:
    """Of a core, that this thread has used since the log began."""
    return (time.thread_time() - busy_before) / max(log.now(), 1e-9)
