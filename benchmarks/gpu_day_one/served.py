"""The bundle on our own engine: parity against the reference, and the latency table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tritonguard.errors import GuardError
from tritonguard.examples import CANARY, PROMPTS
from tritonguard.label import Safety, label_from_choices

from benchmarks.gpu_day_one.closed_loop import CONCURRENCIES, Load, closed_loop
from benchmarks.gpu_day_one.findings import Finding
from benchmarks.gpu_day_one.material import KINDS, Material
from benchmarks.gpu_day_one.parity import KeptSide, compared
from benchmarks.report import markdown
from build_scripts.parity_report import Report
from build_scripts.parity_sides import BundleSide
from engines.bundle import Bundle, open_engine
from engines.protocol import Answer

ROWS = tuple((kind, concurrency) for kind in KINDS for concurrency in CONCURRENCIES)


@dataclass(frozen=True)
class Served:
    """load_s: until the engine had answered its warm-up. labels: of each plain example; None: no answer. report: of
    parity, where there is a reference. statistics: what the engine counts of itself, at the end."""

    load_s: float
    labels: list[Safety | None]
    report: Report | None
    loads: list[Load]
    statistics: dict[str, float]


def served(folder: Path, reference: KeptSide | None, seconds: float) -> Served:
    """The whole of a process: load, the shipped corpus, every kind at every concurrency for so many seconds.

    Raises BundleError, SideError.
    """
    bundle = Bundle.open(folder)
    material = Material.of(bundle)
    began = time.monotonic()
    with closing(open_engine(bundle)) as engine:
        load_s = time.monotonic() - began
        labels = [_label(answer) for answer in engine.run(material.jobs("verdict"))]
        report = None if reference is None else compared(reference, BundleSide(bundle, engine))
        loads = [
            closed_loop(engine, kind, material.jobs(kind), concurrency=concurrency, seconds=seconds)
            for kind, concurrency in ROWS
            if kind != "image" or bundle.image_size
        ]
        return Served(load_s, labels, report, loads, dict(engine.statistics()))


def load_finding(done: Served, gpu: str | None, precision: str) -> Finding:
    """gpu: the GPU's part of a statement's id."""
    right = [label is one.expected.user for label, one in zip(done.labels, PROMPTS, strict=True)]
    return Finding(
        "canary_judged",
        "Does our engine load the bundle, and judge a safe and an unsafe example right?",
        all(is_right for is_right, one in zip(right, PROMPTS, strict=True) if one in CANARY),
        f"loaded in {done.load_s:.0f} s, {sum(right)} of {len(right)} examples as expected",
        "these are not the guard's verdicts: check the checkpoint (quantize prints its checks), then parity",
        statement=gpu and f"loads-{precision}-{gpu}",
        wanted=True,
    )


def latency_table(loads: Sequence[Load]) -> str:
    head = ("kind", "concurrency", "answered", "failed", "p50 ms", "p95 ms", "requests/s")
    return markdown(
        head,
        [
            (
                one.kind,
                one.concurrency,
                one.answered,
                ", ".join(f"{count} {kind}" for kind, count in one.failed.items()) or "0",
                one.p50_ms,
                one.p95_ms,
                one.per_s,
            )
            for one in loads
        ],
    )


def latency_findings(loads: Sequence[Load], precision: str) -> list[Finding]:
    """A figure for each kind; none where requests failed, since fewer requests are faster."""
    found = []
    for kind in dict.fromkeys(one.kind for one in loads):
        rows = [one for one in loads if one.kind == kind]
        failed = sum(sum(one.failed.values()) for one in rows)
        told = "; ".join(
            f"{one.concurrency} at once: p50 {one.p50_ms:.1f} ms, p95 {one.p95_ms:.1f} ms, {one.per_s:.1f}/s"
            for one in rows
        )
        found.append(
            Finding(
                f"latency_{kind}_p50_ms",
                f"How long does a request of kind {kind} take?",
                None if failed else {str(one.concurrency): round(one.p50_ms, 2) for one in rows},
                f"{failed} requests failed; {told}" if failed else f"{precision}: {told}",
                "see the kinds of errors in the latency table",
                statement=f"latency-{kind}",
            )
        )
    return found


def _label(answer: Answer | GuardError) -> Safety | None:
    if not isinstance(answer, Answer):
        return None
    return label_from_choices(answer.choice_logprobs, has_response=False).user_safety
