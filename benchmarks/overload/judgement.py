"""What the answers of calm, overload and calm again say, without a clock and without a server."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from benchmarks.latency.figures import BUSY, Latency
from benchmarks.latency.schedule import poisson
from benchmarks.overload.calls import REFUSALS, Answered, goodput
from benchmarks.report import Bar
from benchmarks.soak_memory import Sample, Slope, fit

CALM = 0.8
LEAST_GOODPUT, MOST_TIMES_P99 = 0.90, 2.0
MOST_REFUSAL_MS, MOST_RECOVERY_S = 50.0, 5.0
MOST_CALM_REFUSED = 0.01
"""Of the requests before the overload: a p99 beside refusals would be no measure of calm."""
MOST_GROWTH = 0.02
"""Of the servers' memory, from the first minute of the overload to its last."""
NOISE = 1.1
"""So many times the p99 of before still is it: two windows of the same load differ by chance."""
DEADLINE_P99S = 1.6
"""Latencies under overload come near the deadline, and two windows of the same load differ by chance: less than the bar
of twice the p99."""
LEAST_REST = 0.5
"""Share of the second calm from which at least a recovery is told: a p99 of few requests says nothing."""
_OVERLOADED = "overloaded"


@dataclass(frozen=True)
class Phase:
    """One load of the run, seconds from its epoch. times: of the capacity."""

    name: str
    times: float
    begin_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.begin_s

    def holds(self, moment_s: float) -> bool:
        return self.begin_s <= moment_s < self.end_s


def phases(*, calm_s: float, overload_s: float, times: float) -> tuple[Phase, Phase, Phase]:
    """Calm, overload, calm."""
    ends = calm_s, calm_s + overload_s, 2 * calm_s + overload_s
    return (
        Phase("before", CALM, 0.0, ends[0]),
        Phase("overload", times, ends[0], ends[1]),
        Phase("after", CALM, ends[1], ends[2]),
    )


def schedule(run: Sequence[Phase], capacity: float, *, seed: int) -> list[float]:
    """When requests are sent. Phases of equal rate and length have the same gaps: the server makes the difference."""
    return [
        phase.begin_s + moment
        for phase in run
        for moment in poisson(phase.times * capacity, phase.seconds, seed=f"{seed} {phase.times:g}")
    ]


def deadline_for(p99_s: float) -> float:
    """Of every request, by the p99 of calm, in seconds: DEADLINE_P99S times that, but no longer than a calm load can
    come back from in MOST_RECOVERY_S, with the share of the capacity that it leaves."""
    return min(DEADLINE_P99S * p99_s, NOISE * p99_s + (1 - CALM) * MOST_RECOVERY_S)


@dataclass(frozen=True)
class Told:
    """One phase. words: answers by their word. verdicts: latency of right ones; refusals: of `overloaded`, ms."""

    name: str
    rate: float
    sent: int
    words: dict[str, int]
    goodput: float
    verdicts: Latency
    refusals: Latency

    @property
    def refused(self) -> float:
        """Share of those sent."""
        return sum(self.words.get(word, 0) for word in REFUSALS) / self.sent if self.sent else math.nan

    @classmethod
    def of(cls, phase: Phase, answers: Sequence[Answered], capacity: float) -> Told:
        """answers: of all phases."""
        own = [one for one in answers if phase.holds(one.intended_s)]
        shifted = [replace(one, at_s=one.at_s - phase.begin_s) for one in own]
        return cls(
            phase.name,
            phase.times * capacity,
            len(own),
            dict(sorted(Counter(one.word for one in own).items())),
            goodput(shifted, phase.seconds),
            latency(own, "right"),
            latency(own, _OVERLOADED),
        )


@dataclass(frozen=True)
class Memory:
    """MB of all server processes together, means of the overload's first and last minute (third, in a short one)."""

    first: float
    last: float
    line: Slope

    @classmethod
    def of(cls, samples: Sequence[Sample], phase: Phase) -> Memory:
        """samples: minutes from the epoch on. NaN where a part has none."""
        part_s = min(60.0, phase.seconds / 3)

        def mean(begin_s: float, end_s: float) -> float:
            sizes = [one.megabytes for one in samples if begin_s <= 60 * one.minutes <= end_s]
            return sum(sizes) / len(sizes) if sizes else math.nan

        within = [one for one in samples if phase.begin_s <= 60 * one.minutes <= phase.end_s]
        first, last = mean(phase.begin_s, phase.begin_s + part_s), mean(phase.end_s - part_s, phase.end_s)
        return cls(first, last, fit(within))

    @property
    def growth(self) -> float:
        return self.last / self.first - 1


@dataclass(frozen=True)
class Found:
    """capacity: right verdicts a second. recovery_s: see `recovery`. lost: requests without exactly one answer.
    core_share: of one core, that the callers used; late_p99_ms: how late they sent, of all requests."""

    capacity: float
    before: Told
    overload: Told
    after: Told
    recovery_s: float
    memory: Memory
    lost: int
    core_share: float
    late_p99_ms: float
    answers: Sequence[Answered] = field(repr=False)

    @property
    def unexpected(self) -> int:
        """Answers that are neither right nor a refusal."""
        words = [one.word for one in self.answers]
        return sum(word != "right" and word not in REFUSALS for word in words)

    def bars(self) -> list[Bar]:
        calm, loaded, refused = self.before.verdicts.p99, self.overload.verdicts.p99, self.overload.refusals.p95
        return [
            Bar("goodput, of capacity", _ratio(self.overload.goodput, self.capacity), least=LEAST_GOODPUT),
            Bar("p99 of verdicts, times that of before", _ratio(loaded, calm), most=MOST_TIMES_P99),
            # Just below: the bar is "less than".
            Bar("p95 of refusals, ms", math.nan if refused is None else refused, most=MOST_REFUSAL_MS - 1e-9),
            Bar("refused before, of those sent", self.before.refused, most=MOST_CALM_REFUSED),
            Bar("growth of memory", self.memory.growth, most=MOST_GROWTH),
            Bar("recovery, s", self.recovery_s, most=MOST_RECOVERY_S),
            Bar("requests without exactly one answer", self.lost, most=0),
            Bar("answers neither right nor a refusal", self.unexpected, most=0),
            Bar("the callers' share of a core", self.core_share, most=BUSY),
        ]


def found(
    run: tuple[Phase, Phase, Phase],
    answers: Sequence[Answered],
    samples: Sequence[Sample],
    *,
    capacity: float,
    lost: int,
    core_share: float,
) -> Found:
    """samples: of memory, minutes from the epoch on."""
    before, overload, after = (Told.of(phase, answers, capacity) for phase in run)
    late = Latency.of([one.late_s * 1e3 for one in answers]).p99
    return Found(
        capacity,
        before,
        overload,
        after,
        recovery(run[2], answers, before.verdicts.p99),
        Memory.of(samples, run[1]),
        lost,
        core_share,
        late or 0.0,
        answers,
    )


def recovery(after: Phase, answers: Sequence[Answered], p99_ms: float | None) -> float:
    """Seconds of the second calm until its load is served as before: of the requests from then on, at least half of
    the phase's, none is refused and their p99 is that of before. Infinite where that never is so."""
    own = sorted((one for one in answers if after.holds(one.intended_s)), key=lambda one: one.intended_s)
    if p99_ms is None:
        return math.inf
    for index in range(int(len(own) * (1 - LEAST_REST)) + 1):
        rest = own[index:]
        p99 = latency(rest, "right").p99
        if p99 is not None and p99 <= NOISE * p99_ms and all(one.word == "right" for one in rest):
            return rest[0].intended_s - after.begin_s if index else 0.0
    return math.inf


def latency(answers: Sequence[Answered], word: str) -> Latency:
    """Of one answer, ms."""
    return Latency.of([one.seconds * 1e3 for one in answers if one.word == word])


def _ratio(part: float | None, whole: float | None) -> float:
    return part / whole if part is not None and whole else math.nan
