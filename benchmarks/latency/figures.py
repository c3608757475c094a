"""From samples to figures, without a clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.latency.loops import VERDICT, Sample
from benchmarks.latency.stages import Split
from benchmarks.latency.verdicts import Accuracy, Flips, Judged, accuracy, flips

LATE_MS, LATE_SHARE = 10.0, 0.05
"""A generator that sends a hundredth of its requests later than this, and than this share of the median latency, is
itself what limits."""
BUSY = 0.9
"""So is one whose event loop takes more than this share of a core."""
IN_SERVER = "server"
"""What a record's timings call the whole way through the server."""


@dataclass(frozen=True)
class Load:
    """rate: requests a second of an open loop; concurrency: callers of a closed one; one of them is None.

    settle_s: first seconds, which are sent and not counted. seconds: those that are counted, after them.
    """

    rate: float | None
    concurrency: int | None
    settle_s: float
    seconds: float

    @property
    def name(self) -> str:
        return f"open {self.rate:g}/s" if self.rate is not None else f"closed {self.concurrency}"

    @property
    def end_s(self) -> float:
        return self.settle_s + self.seconds


@dataclass(frozen=True)
class Latency:
    """ms of n verdicts, from the intended time of sending; nearest rank, so each is a latency that came. None: no
    verdict."""

    n: int
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Latency:
        if not milliseconds:
            return cls(0)
        ranks = np.percentile(np.asarray(milliseconds), (50, 95, 99, 100), method="inverted_cdf")
        return cls(len(milliseconds), *(float(rank) for rank in ranks))


@dataclass(frozen=True)
class Generator:
    """What the generator did. offered_per_s: what was asked of it; None: a closed loop. sent_per_s: what it sent.
    late_p99_ms: behind its schedule. core_share: of one core, that its event loop used. limited: the figures are of the
    generator and not of the server."""

    offered_per_s: float | None
    sent_per_s: float
    late_p99_ms: float
    core_share: float
    limited: bool


@dataclass(frozen=True)
class Point:
    """One load and what came of it.

    requests: whose time lies in the counted seconds; each is a verdict or one of `errors`, and only verdicts have a
    latency. answered: by the server, settling included. verdicts_per_s: verdicts that came in the counted seconds.
    goodput_per_s: of those, within `slo_ms`. within_slo: share of `requests` that got a verdict within it. split: by
    Triton's statistics, settling included; None: not told. timings_ms: means of the verdicts' own records. outside_ms:
    mean of what is not in the server: client, network, and waiting to be sent. prefix_share: of prompt tokens, those
    whose keys and values were kept. kept: verdicts that the server had given before and kept. interrupted: ended before
    its time.
    """

    load: Load
    slo_ms: float
    requests: int
    answered: int
    errors: dict[str, int]
    latency: Latency
    by_kind: dict[str, Latency]
    verdicts_per_s: float
    goodput_per_s: float
    within_slo: float
    generator: Generator
    split: Split | None
    timings_ms: dict[str, float]
    outside_ms: float | None
    prompt_tokens: float | None
    prefix_share: float | None
    kept: int
    accuracy: Accuracy
    flips: Flips
    interrupted: bool = False


def point(
    load: Load,
    samples: Sequence[Sample],
    *,
    slo_ms: float,
    core_share: float,
    sent: int,
    split: Split | None,
    reference: Mapping[str, Judged],
    until_s: float | None = None,
) -> Point:
    """The figures of one load. sent: requests in all, answered or not. until_s: when it was interrupted; None: it was
    not."""
    ended = load.end_s if until_s is None else min(until_s, load.end_s)
    seconds = max(ended - load.settle_s, 1e-9)
    counted = [sample for sample in samples if load.settle_s <= sample.intended < load.end_s]
    verdicts = [sample for sample in counted if sample.reply.word == VERDICT]
    came = [sample for sample in samples if sample.reply.word == VERDICT and load.settle_s <= sample.done < load.end_s]
    by_kind: dict[str, list[float]] = {}
    for sample in verdicts:
        by_kind.setdefault(sample.planned.kind, []).append(sample.latency_s * 1e3)
    within = sum(sample.latency_s * 1e3 <= slo_ms for sample in verdicts)
    latency = Latency.of([sample.latency_s * 1e3 for sample in verdicts])
    late = Latency.of([(sample.sent - sample.intended) * 1e3 for sample in counted]).p99 or 0.0
    allowed = max(LATE_MS, LATE_SHARE * (latency.p50 or 0.0))
    return Point(
        load=load,
        slo_ms=slo_ms,
        requests=len(counted),
        answered=sum(sample.reply.verdict is not None for sample in samples),
        errors=dict(sorted(Counter(one.reply.word for one in counted if one.reply.word != VERDICT).items())),
        latency=latency,
        by_kind={kind: Latency.of(times) for kind, times in sorted(by_kind.items())},
        verdicts_per_s=len(came) / seconds,
        goodput_per_s=sum(sample.latency_s * 1e3 <= slo_ms for sample in came) / seconds,
        within_slo=within / len(counted) if counted else 0.0,
        generator=Generator(
            load.rate, sent / max(ended, 1e-9), late, core_share, limited=late > allowed or core_share > BUSY
        ),
        split=split,
        **_of_records(verdicts),
        accuracy=accuracy(counted),
        flips=flips(counted, reference),
        interrupted=until_s is not None,
    )


def _of_records(verdicts: Sequence[Sample]) -> dict[str, Any]:
    records = [(sample, sample.reply.verdict.record) for sample in verdicts if sample.reply.verdict is not None]
    phases = sorted({phase for _, record in records for phase in record.timings_ms})
    outside = [
        sample.latency_s * 1e3 - record.timings_ms[IN_SERVER]
        for sample, record in records
        if IN_SERVER in record.timings_ms
    ]
    prompts = [record.prompt_tokens for _, record in records if record.prompt_tokens]
    prefixes = [record.prefix_tokens or 0 for _, record in records if record.prompt_tokens]
    return {
        # Over all verdicts: a phase that one of them did not have took it no time.
        "timings_ms": {phase: fmean(record.timings_ms.get(phase, 0.0) for _, record in records) for phase in phases},
        "outside_ms": fmean(outside) if outside else None,
        "prompt_tokens": float(np.median(prompts)) if prompts else None,
        "prefix_share": sum(prefixes) / sum(prompts) if prompts else None,
        "kept": sum(record.cached for _, record in records),
    }
