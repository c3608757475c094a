"""The settings of each peer: one knob after the other, from the best that was found so far, for each kind of load.

A kind is a way of answering at concurrency 1 or 8. Each setting is measured once on each of them, with the same
questions for all settings, and a knob is turned where that gains more than measuring again would. What was tried and
what it gave is kept, failures too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.peers.figures import Figures
from benchmarks.peers.pool import Children, key_of
from benchmarks.peers.protocol import PeerError
from benchmarks.peers.question import PLAIN, TRICK, Question
from benchmarks.peers.roster import Peer, Setting

Kind = tuple[str, int]
"""(way, concurrency)"""
KINDS: tuple[Kind, ...] = ((PLAIN, 1), (PLAIN, 8), (TRICK, 1), (TRICK, 8))
GAIN = 1.03
Measure = Callable[[Setting], Mapping[Kind, float]]
"""Rates by kind, more is better. Raises PeerError."""


@dataclass(frozen=True)
class Tried:
    """rates: requests a second by kind, at concurrency 1 one over the median. error: why there are none."""

    setting: Setting
    rates: Mapping[str, float]
    error: str | None = None


@dataclass
class Sweep:
    """best: by kind."""

    best: dict[Kind, Setting]
    tried: list[Tried] = field(default_factory=list)

    def setting_for(self, way: str, concurrency: int) -> Setting:
        return self.best[way, 1 if concurrency == 1 else 8]


def sweep(start: Setting, knobs: Mapping[str, Sequence[object]], measure: Measure) -> Sweep:
    """Raises PeerError where not even the start can be measured."""
    known: dict[str, Mapping[Kind, float]] = {}
    result = Sweep(dict.fromkeys(KINDS, start))

    def rates(setting: Setting) -> Mapping[Kind, float]:
        key = repr(sorted(setting.items(), key=lambda item: item[0]))
        if key not in known:
            try:
                known[key] = measure(setting)
                result.tried.append(Tried(setting, {kind_name(kind): rate for kind, rate in known[key].items()}))
            except PeerError as error:
                known[key] = {}
                result.tried.append(Tried(setting, {}, str(error)))
        return known[key]

    if not rates(start):
        raise PeerError(str(result.tried[0].error))
    for knob, values in knobs.items():
        held = list({repr(setting): setting for setting in result.best.values()}.values())
        for setting in [{**each, knob: value} for each in held for value in values]:
            for kind, rate in rates(setting).items():
                if rate > GAIN * rates(result.best[kind])[kind]:
                    result.best[kind] = setting
    return result


def kind_name(kind: Kind) -> str:
    return f"{kind[0]} c={kind[1]}"


def measured_by(children: Children, peer: Peer, questions: Callable[[Kind], list[Question]]) -> Measure:
    """Measures a setting in a child of its own, which ends behind it. questions: new ones, for warming up and for
    measuring."""

    def measure(setting: Setting) -> Mapping[Kind, float]:
        rates: dict[Kind, float] = {}
        try:
            for kind in KINDS:
                way, concurrency = kind
                asked = questions(kind)
                children.run(peer, setting, asked[:concurrency], concurrency, way)
                run = children.run(peer, setting, asked[concurrency:], concurrency, way)
                figures = Figures.of(run)
                rates[kind] = 1e3 / figures.p50 if concurrency == 1 else figures.per_s
        finally:
            children.drop(peer, setting)
        told = ", ".join(f"{kind_name(kind)} {rate:.2f}/s" for kind, rate in rates.items())
        print(f"  {key_of(peer, setting)}: {told}", file=sys.stderr, flush=True)
        return rates

    return measure
