"""From rounds to what was added, without a clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from benchmarks.latency.figures import IN_SERVER
from benchmarks.latency.loops import Sample
from benchmarks.latency.stages import Split
from benchmarks.path.bare import Run
from benchmarks.report import Bar

MOST_ALONE, MOST_SATURATED = 0.25, 0.10
"""What may be added: to the median latency of a single caller, to the time per request of many."""
ENGINE = "decode"
"""The model that is the engine's process."""


@dataclass(frozen=True)
class Added:
    """Both ways under one concurrency. p50_ms: over all requests of all rounds. per_s: median of the rounds'.

    p50_added, time_added: median over the rounds of served / bare - 1, of the median latency and of the time per
    request (the inverse of the throughput); `each` has the rounds' own. cpu_ms: CPU milliseconds of a request, by
    process, of each way.
    """

    concurrency: int
    rounds: int
    requests: int
    p50_ms: dict[str, float]
    per_s: dict[str, float]
    p50_added: float
    time_added: float
    each: list[tuple[float, float]]
    cpu_ms: dict[str, dict[str, float]]

    @classmethod
    def of(cls, concurrency: int, bare: Sequence[Run], served: Sequence[Run]) -> Added:
        ways = {"bare": bare, "served": served}
        each = [
            (median(ours.ms) / median(theirs.ms) - 1, theirs.per_s / ours.per_s - 1)
            for theirs, ours in zip(bare, served, strict=True)
        ]
        return cls(
            concurrency,
            len(bare),
            len(bare[0].ms),
            {way: median([one for run in runs for one in run.ms]) for way, runs in ways.items()},
            {way: median([run.per_s for run in runs]) for way, runs in ways.items()},
            median([p50 for p50, _ in each]),
            median([time for _, time in each]),
            each,
            {way: _cpu_ms(runs) for way, runs in ways.items()},
        )

    @property
    def bar(self) -> Bar:
        if self.concurrency == 1:
            return Bar("added to the p50 at concurrency 1", self.p50_added, most=MOST_ALONE)
        return Bar(
            f"added to the time per request at concurrency {self.concurrency}", self.time_added, most=MOST_SATURATED
        )


def _cpu_ms(runs: Sequence[Run]) -> dict[str, float]:
    requests = sum(len(run.ms) for run in runs)
    return {name: sum(run.cpu_s[name] for run in runs) / requests * 1e3 for name in runs[0].cpu_s}


@dataclass(frozen=True)
class Way:
    """Where the time of a served request went; means, ms, one after the other: `total` is their sum.

    client: building the request, and reading the reply into a verdict. wire: gRPC on both sides, the network, and what
    Triton does before and after the models. preprocess, verdict: their queue and backend in Triton, the way to their
    processes included; of them the stages' own work is `preprocess_stage`. handover: `decode` until it has the request.
    passes: in the engine. waiting: the rest of its time, in its queue and on the way back.
    """

    client: float
    wire: float
    preprocess: float
    handover: float
    waiting: float
    passes: float
    verdict: float
    total: float
    preprocess_stage: float

    @classmethod
    def of(cls, samples: Sequence[Sample], infer_s: Sequence[float], split: Split) -> Way:
        """infer_s: of the same requests, seconds of the client's calls. split: of the same requests, by Triton."""
        total, infer = fmean(sample.latency_s * 1e3 for sample in samples), fmean(infer_s) * 1e3
        told = [sample.reply.verdict.record.timings_ms for sample in samples if sample.reply.verdict is not None]
        stage = fmean(timings["preprocess"] for timings in told)
        passes = fmean(_passes(timings) for timings in told)
        models = {model.model: model.total_ms for model in split.models}
        return cls(
            client=total - infer,
            wire=infer - split.total_ms,
            preprocess=models["preprocess"],
            handover=models[ENGINE],
            waiting=split.engine_ms - passes,
            passes=passes,
            verdict=models["verdict"],
            total=total,
            preprocess_stage=stage,
        )


def _passes(timings: dict[str, float]) -> float:
    """What the engine says of its own phases."""
    return sum(value for phase, value in timings.items() if phase not in (IN_SERVER, "preprocess"))
