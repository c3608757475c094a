"""The curves as Markdown and as plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.cost_curves.curves import LengthCost, PoliciesCost
from benchmarks.latency.figures import Point
from benchmarks.latency.loops import VERDICT
from benchmarks.latency.plots import chart
from benchmarks.report import markdown


@dataclass(frozen=True)
class Curves:
    """max_tokens: the longest prompt that the bundle reads. limit_megabytes: of the cache of prefixes. queue: most
    waiting requests of the server."""

    lengths: Sequence[LengthCost]
    throughputs: Sequence[Point]
    policies: Sequence[PoliciesCost]
    max_tokens: int
    limit_megabytes: float
    queue: int


def document(curves: Curves, facts: dict[str, str], plots: Sequence[str]) -> str:
    """facts: command, date, machine, bundle."""
    lengths = [
        (one.tokens, _number(one.prompt_tokens), f"{one.ms:.0f}", one.times, one.answer) for one in curves.lengths
    ]
    throughputs = [
        (
            point.load.concurrency,
            f"{point.verdicts_per_s:.2f}",
            _number(point.latency.p50),
            _number(point.latency.p99),
            ", ".join(f"{kind} {count}" for kind, count in point.errors.items()) or "-",
        )
        for point in curves.throughputs
    ]
    policies = [
        (one.policies, f"{one.megabytes:.0f}", _number(one.prefix_megabytes), _number(one.held))
        for one in curves.policies
    ]
    return "\n\n".join(
        [
            "# Cost curves",
            "\n".join(f"- {name}: {value}" for name, value in facts.items()),
            "Figures of this machine; taken on a CPU they are no claims about a GPU.",
            "## Latency of one request against its text's length",
            f"Built-in policy, one request at a time. The bundle reads prompts of at most {curves.max_tokens} tokens, "
            "policy and template included; longer ones are refused and never cut.",
            markdown(("tokens of the text", "of the prompt", "p50 ms", "times", "answer"), lengths),
            "## Throughput against concurrency",
            f"Closed loop. Of more than {curves.queue} waiting requests, or more than their deadline allows, some are "
            "refused; their callers ask again 0.1 s later.",
            markdown(("callers", "verdicts/s", "p50 ms", "p99 ms", "refused"), throughputs),
            "## Memory against the number of policies",
            "Free-text policies that callers send, one request each. The cache of their keys and values holds at most "
            f"{curves.limit_megabytes:.0f} MB; the least recently used go first. The built-in policy and one to warm "
            "up are in it from the start.",
            markdown(("policies", "all processes, MB", "kept prefixes, MB", "kept prefixes"), policies),
            *(f"![{name}]({name})" for name in plots),
        ]
    )


def plots(curves: Curves) -> dict[str, str]:
    """SVG by file name."""
    judged = [(float(one.tokens), one.ms) for one in curves.lengths if one.answer == VERDICT]
    refused = [(float(one.tokens), one.ms) for one in curves.lengths if one.answer != VERDICT]
    throughput = [(float(point.load.concurrency or 0), point.verdicts_per_s) for point in curves.throughputs]
    # An axis of doublings has no 0.
    some = [one for one in curves.policies if one.policies]
    sizes = [(float(one.policies), one.megabytes) for one in some]
    held = [(float(one.policies), one.prefix_megabytes) for one in some if one.prefix_megabytes is not None]
    limit = [(place, curves.limit_megabytes) for place, _ in sizes]
    memory = {"all processes": sizes, "kept prefixes": held, "their limit": limit}
    return {
        "cost-length.svg": chart({"verdict, p50": judged, "refused": refused}, x="tokens of the text", y="ms"),
        "cost-concurrency.svg": chart({"verdicts/s": throughput}, x="callers", y="verdicts/s", doubling=True),
        "cost-policies.svg": chart(memory, x="policies", y="MB", doubling=True),
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
