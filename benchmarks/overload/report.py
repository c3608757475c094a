"""A run as Markdown, as JSON and as plots over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from benchmarks.latency.figures import Latency
from benchmarks.latency.plots import chart
from benchmarks.overload.calls import Answered
from benchmarks.overload.judgement import CALM, Found, Phase, latency
from benchmarks.report import markdown

BINS = 60


def document(found: Found, facts: dict[str, str], plots: Sequence[str]) -> str:
    """facts: where, when and how it was run."""
    memory = found.memory
    lines = [
        f"capacity: {found.capacity:.2f} right verdicts/s, closed loop",
        f"memory: {memory.first:.0f} MB in the overload's first minute, {memory.last:.0f} MB in its last; "
        f"slope {memory.line.slope:+.2f} +- {memory.line.error:.2f} MB a minute",
        f"callers: {found.core_share:.0%} of a core, 99 % sent within {found.late_p99_ms:.1f} ms of their time",
    ]
    return "\n\n".join(
        [
            "# Overload",
            "\n".join(f"- {name}: {value}" for name, value in facts.items()),
            f"Requests come at random, {CALM:g} times the capacity before and after. Latency counts from the intended "
            "time of sending; of verdicts, and of the answer `overloaded`.",
            table(found),
            "\n".join(f"- {line}" for line in lines),
            "\n".join(f"- {bar}" for bar in found.bars()),
            *(f"![{name}]({name})" for name in plots),
        ]
    )


def table(found: Found) -> str:
    head = ["load", "offered/s", "sent", "right/s in time", "answers", "p50 ms", "p95 ms", "p99 ms"]
    rows = [
        (
            told.name,
            f"{told.rate:.2f}",
            told.sent,
            f"{told.goodput:.2f}",
            ", ".join(f"{word} {count}" for word, count in told.words.items()),
            *_three(told.verdicts),
            *_three(told.refusals),
        )
        for told in (found.before, found.overload, found.after)
    ]
    return markdown([*head, "refused p50 ms", "p95 ms", "p99 ms"], rows)


def plots(run: Sequence[Phase], answers: Sequence[Answered]) -> dict[str, str]:
    """SVG by file name, over the seconds of the run in BINS parts: answers a second by when they came, and latencies by
    when they should have been sent."""
    end_s = run[-1].end_s
    width = end_s / BINS
    bins = [(number * width, (number + 1) * width) for number in range(BINS)]
    rates: dict[str, list[tuple[float, float]]] = {"verdicts/s": [], "refused/s": []}
    times: dict[str, list[tuple[float, float]]] = {"verdict p50": [], "verdict p99": [], "refusal p95": []}
    for begin, end in bins:
        came = [one for one in answers if begin <= one.at_s < end]
        right = sum(one.word == "right" for one in came)
        rates["verdicts/s"].append((end, right / width))
        rates["refused/s"].append((end, (len(came) - right) / width))
        sent = [one for one in answers if begin <= one.intended_s < end]
        own, refused = latency(sent, "right"), latency(sent, "overloaded")
        for name, value in (("verdict p50", own.p50), ("verdict p99", own.p99), ("refusal p95", refused.p95)):
            if value is not None:
                times[name].append((end, value))
    return {
        "overload-rates.svg": chart(rates, x="seconds", y="answers/s"),
        "overload-latency.svg": chart(times, x="seconds", y="ms", logarithmic=True),
    }


def values(found: Found, facts: dict[str, str]) -> dict[str, Any]:
    """For JSON."""
    recovery = found.recovery_s if math.isfinite(found.recovery_s) else None
    return {**facts, **vars(found), "recovery_s": recovery, "bars": [_bar(bar) for bar in found.bars()]}


def _bar(bar: Any) -> dict[str, Any]:
    value = bar.value if math.isfinite(bar.value) else None
    return {"name": bar.name, "value": value, "least": bar.least, "most": bar.most, "met": bar.met}


def _three(of: Latency) -> list[str]:
    return ["-" if value is None else f"{value:.0f}" for value in (of.p50, of.p95, of.p99)]
