"""From runs to figures, ratios and bars, without a clock."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from benchmarks.peers.closed_loop import Run
from benchmarks.peers.question import Question
from benchmarks.peers.workloads import P50, Limit, Workload
from benchmarks.report import Bar


@dataclass(frozen=True)
class Figures:
    """Of one run, or medians of rounds. p50, p95: ms, nearest rank."""

    p50: float
    p95: float
    per_s: float

    @classmethod
    def of(cls, run: Run) -> Figures:
        """A run of at least one question."""
        p50, p95 = (float(rank) for rank in np.percentile(run.ms, (50, 95), method="inverted_cdf"))
        return cls(p50, p95, len(run.ms) / run.seconds)

    @classmethod
    def medians(cls, rounds: Sequence[Figures]) -> Figures:
        return cls(*(median(getattr(one, name) for one in rounds) for name in ("p50", "p95", "per_s")))

    def figure(self, name: str) -> float:
        return self.p50 if name == P50 else self.per_s


@dataclass(frozen=True)
class Ratio:
    """Ours over the best peer's, of each round; the middle one counts. peer: the best by its median."""

    peer: str
    rounds: tuple[float, ...]

    @property
    def middle(self) -> float:
        return median(self.rounds)

    @property
    def spread(self) -> tuple[float, float]:
        return min(self.rounds), max(self.rounds)


def ratio(ours: Sequence[Figures], peers: Mapping[str, Sequence[Figures]], figure: str) -> Ratio | None:
    """ours, peers: rounds, those of one number in a row of time. None where no peer was measured."""
    if not peers:
        return None
    medians = {name: Figures.medians(rounds).figure(figure) for name, rounds in peers.items()}
    best = (min if figure == P50 else max)(medians, key=lambda name: medians[name])
    pairs = zip(ours, peers[best], strict=False)
    return Ratio(best, tuple(mine.figure(figure) / theirs.figure(figure) for mine, theirs in pairs))


def bars(workload: Workload, found: Mapping[Limit, Ratio | None]) -> list[Bar]:
    """Of one workload. A bar without a peer is missed: nothing was shown."""
    made = []
    for limit in workload.bars:
        against = found.get(limit)
        who = against.peer if against else "no peer"
        name = f"{workload.name}: {limit.figure} over {who}'s {limit.way} answer"
        value = against.middle if against else math.nan
        at_most = limit.figure == P50
        made.append(Bar(name, value, None if at_most else limit.value, limit.value if at_most else None))
    return made


@dataclass(frozen=True)
class Agreement:
    """Of labels with ours, on the same questions. unread: answers of theirs in which a label is missing."""

    compared: int
    differing: int
    unread: int

    @classmethod
    def of(
        cls, questions: Sequence[Question], ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]
    ) -> Agreement:
        """In pairs; a question counts once, whatever number of choices it has."""
        differing = unread = 0
        for question, mine, other in zip(questions, ours, theirs, strict=True):
            labels = question.labels(other)
            unread += None in labels
            differing += labels != question.labels(mine)
        return cls(len(questions), differing, unread)

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(self.compared + other.compared, self.differing + other.differing, self.unread + other.unread)

    @property
    def is_kept(self) -> bool:
        """Whether this engine's verdicts are ours, but for rounding."""
        return self.differing <= max(FEW, KEPT * self.compared)

    @property
    def is_suspicious(self) -> bool:
        """More than rounding the same weights explains: its prompt or its export is wrong."""
        return self.differing > max(FEW, SUSPICIOUS * self.compared)


KEPT, SUSPICIOUS, FEW = 0.03, 0.15, 1
"""Shares of the questions, and their number, that may have another label."""
