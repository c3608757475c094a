"""A server counts an answer after it has sent it: no measurement may take what an earlier one asked for its own."""

from __future__ import annotations

import asyncio

import pytest
from latency_stand_ins import mix, verdict

from benchmarks.latency import sweep
from benchmarks.latency.figures import Load
from benchmarks.latency.loops import Reply
from benchmarks.latency.mix import Planned
from benchmarks.latency.stages import Counters
from benchmarks.latency.sweep import Findings, Sweep
from serving.launch import ENSEMBLE

LOAD = Load(None, 2, 0.0, 0.1)


class LateStatistics:
    """Tells of each answer `late_s` after it was sent."""

    def __init__(self, late_s: float) -> None:
        self.late_s = late_s
        self.counted = 0

    async def ask(self, planned: Planned) -> Reply:
        await asyncio.sleep(0.01)
        asyncio.get_running_loop().call_later(self.late_s, self._count)
        return verdict(0.1, planned)

    def _count(self) -> None:
        self.counted += 1

    async def counters(self) -> dict[str, Counters]:
        return {ENSEMBLE: Counters(self.counted, total_ns=self.counted)}


def findings(statistics: LateStatistics) -> Findings:
    async def measure() -> Findings:
        every = Sweep(mix(), statistics.ask, statistics, 100.0, Findings(), say=lambda line: None)
        await every.warm_up(1)
        await every.run([LOAD, LOAD])
        return every.findings

    return asyncio.run(measure())


def test_statistics_are_of_the_answers_of_their_own_measurement() -> None:
    for point in findings(LateStatistics(0.2)).points:
        assert point.split is not None
        assert point.split.requests == point.answered > 2


def test_what_is_never_counted_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "_COUNTED_S", 0.05)
    assert [point.split for point in findings(LateStatistics(3600)).points] == [None, None]
