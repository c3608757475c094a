"""Interleaved rounds: in each of them every engine answers new questions, one after the other, in a turning order."""

from __future__ import annotations

import sys
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace

from tritonguard.request import Mode

from benchmarks.peers.closed_loop import Run
from benchmarks.peers.figures import Agreement, Figures, Ratio, bars, ratio
from benchmarks.peers.pool import Runner
from benchmarks.peers.protocol import PeerError
from benchmarks.peers.question import CHECK, PLAIN, TRICK, Question
from benchmarks.peers.roster import FLOOR, GENAI, GENAI_W8A8, LLAMA, OURS, Peer, Setting
from benchmarks.peers.sweep import Sweep
from benchmarks.peers.workloads import TEXT, Limit, Questions, Workload
from benchmarks.report import Bar

PROGRAM = "program"
"""How ours answers."""
FLOOR_QUESTIONS = 4
CHECKED = 16
"""Questions whose choices are compared."""
SHORT = {
    (OURS, PROGRAM): "ours",
    (GENAI, PLAIN): "GenAI",
    (GENAI, TRICK): "GenAI, trick",
    (GENAI_W8A8, PLAIN): "GenAI W8A8",
    (GENAI_W8A8, TRICK): "W8A8, trick",
    (LLAMA, PLAIN): "llama.cpp",
    (LLAMA, TRICK): "llama, trick",
}
"""Names in the plot."""
Entry = tuple[str, str]
"""(engine, way)"""


@dataclass(frozen=True)
class Entrant:
    """An engine in one way of answering, with the settings for it."""

    peer: Peer
    way: str
    setting: Setting

    @property
    def key(self) -> Entry:
        return self.peer.name, self.way


@dataclass
class Measured:
    """One workload. rounds: figures by engine and way. agreement: of peers' choices with ours. failed: engines
    that stopped answering, with the reason; their rounds so far are kept. asked: (prefix, tokens behind it, the forced
    head's among them) of our questions."""

    workload: Workload
    rounds: dict[Entry, list[Figures]] = field(default_factory=dict)
    agreement: dict[str, Agreement] = field(default_factory=dict)
    failed: dict[Entry, str] = field(default_factory=dict)
    asked: list[tuple[int, int]] = field(default_factory=list)

    def of_ours(self) -> list[Figures]:
        """Raises PeerError where our own engine failed."""
        for (_, way), rounds in self.rounds.items():
            if way == PROGRAM:
                return rounds
        raise PeerError(f"{self.workload.name}: ours was not measured: {'; '.join(self.failed.values())}")

    def ratio(self, figure: str, way: str, among: Container[str] | None = None) -> Ratio | None:
        """Against the best of the peers in this way, of those named in `among` where that is given. The floor is none
        of them: it is not measured in every round."""
        ours = self.of_ours()
        whole = {
            name: rounds
            for (name, own), rounds in self.rounds.items()
            if own == way and name != FLOOR and len(rounds) == len(ours) and (among is None or name in among)
        }
        return ratio(ours, whole, figure)

    @property
    def ratios(self) -> dict[Limit, Ratio | None]:
        return {limit: self.ratio(limit.figure, limit.way) for limit in self.workload.bars}

    @property
    def bars(self) -> list[Bar]:
        return bars(self.workload, self.ratios)


def entrants(workload: Workload, ours: Peer, peers: Sequence[tuple[Peer, Sweep | None]]) -> list[Entrant]:
    """Ours first. A floor takes part in the plain answers at concurrency 1."""
    found = [Entrant(ours, PROGRAM, ours.start)]
    for peer, sweep in peers:
        if peer.once and (workload.concurrency > 1 or PLAIN not in workload.ways):
            continue
        for way in [PLAIN] if peer.once else workload.ways:
            setting = sweep.setting_for(way, workload.concurrency) if sweep else peer.start
            found.append(Entrant(peer, way, setting))
    return found


def turned(entries: Sequence[Entrant], number: int) -> list[Entrant]:
    """The order of a round: each begins with another one, every second goes backwards."""
    start = number % len(entries)
    order = [*entries[start:], *entries[:start]]
    return order[::-1] if number % 2 else order


def measure(
    runner: Runner,
    workload: Workload,
    entries: Sequence[Entrant],
    questions: Questions,
    *,
    rounds: int,
    count: int,
) -> Measured:
    """count: questions of an engine in a round. Plain answers are to the questions that ours is asked; a trick has its
    own, or a peer's cache would know them. Before its first round each is asked some that don't count, and behind the
    last one for its choices, to see that it runs the same weights on the same prompts."""
    measured = Measured(workload)
    warm = max(workload.concurrency, workload.policies)
    for entrant in entries:
        asked = questions.draw(workload, warm)
        _try(runner, entrant, asked[:FLOOR_QUESTIONS] if entrant.peer.once else asked, measured)
    asked = []
    for number in range(rounds):
        lists = {way: questions.draw(workload, count) for way in workload.ways}
        if workload.mode is Mode.CATEGORIES:
            lists[PLAIN] = _as_long_as_ours(runner, entries[0], lists[PLAIN], measured)
        lists[PROGRAM] = asked = lists[PLAIN]
        for entrant in turned(entries, number):
            if entrant.key in measured.failed or (entrant.peer.once and number):
                continue
            own = lists[entrant.way][: FLOOR_QUESTIONS if entrant.peer.once else None]
            if (run := _try(runner, entrant, own, measured)) is not None:
                measured.rounds.setdefault(entrant.key, []).append(Figures.of(run))
        measured.asked += [(one.prefix, len(one.ids) - one.prefix + len(one.heads[0])) for one in asked]
        told = " | ".join(_told(measured))
        print(f"  {workload.name}, round {number + 1}/{rounds}: {told}", file=sys.stderr, flush=True)
    _compare(runner, entries, asked[:CHECKED], measured)
    return measured


def _try(
    runner: Runner, entrant: Entrant, asked: Sequence[Question], measured: Measured, way: str | None = None
) -> Run | None:
    """way: None: the entrant's. None: it failed, which is written down."""
    way = way or (TRICK if entrant.way == TRICK else PLAIN)
    try:
        return runner.run(entrant.peer, entrant.setting, asked, measured.workload.concurrency, way)
    except PeerError as error:
        measured.failed[entrant.key] = str(error)
        print(f"  {' '.join(entrant.key)} failed: {error}", file=sys.stderr, flush=True)
        return None


def _as_long_as_ours(runner: Runner, ours: Entrant, asked: Sequence[Question], measured: Measured) -> list[Question]:
    """The same questions; a plain answer has as many tokens as ours, and the end of the turn."""
    run = _try(runner, ours, asked, measured)
    answers: Sequence[Sequence[int]] = run.answers if run else [()] * len(asked)
    return [replace(one, tokens=len(said) + 1) for one, said in zip(asked, answers, strict=True)]


def _compare(runner: Runner, entries: Sequence[Entrant], asked: Sequence[Question], measured: Measured) -> None:
    """Each peer's choices with ours, in the weights of its plain answers."""
    ours = None if entries[0].key in measured.failed else _try(runner, entries[0], asked, measured)
    for entrant in entries[1:]:
        if ours is None or entrant.way != PLAIN or entrant.key in measured.failed:
            continue
        theirs = _try(runner, entrant, asked, measured, CHECK)
        if theirs is not None:
            measured.agreement[entrant.peer.name] = Agreement.of(asked, ours.answers, theirs.answers)


def labels(found: Sequence[Measured]) -> dict[str, Agreement]:
    """Of each peer, over all workloads."""
    summed: dict[str, Agreement] = {}
    for measured in found:
        for name, one in measured.agreement.items():
            before = summed.get(name, Agreement(0, 0, 0))
            summed[name] = before + one
    return summed


def _told(measured: Measured) -> Iterator[str]:
    for (name, way), rounds in measured.rounds.items():
        yield f"{name} {way} p50 {rounds[-1].p50:.0f} ms {rounds[-1].per_s:.2f}/s"


def throughput_lines(found: Sequence[Measured]) -> dict[str, list[tuple[float, float]]]:
    """For a plot of text verdicts: requests a second over concurrency, by engine and way."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for measured in found:
        if measured.workload in TEXT.values():
            for (name, way), rounds in measured.rounds.items():
                per_s = Figures.medians(rounds).per_s
                lines.setdefault(SHORT.get((name, way), f"{name} {way}"), []).append(
                    (float(measured.workload.concurrency), per_s)
                )
    return {name: line for name, line in lines.items() if len(line) > 1}
