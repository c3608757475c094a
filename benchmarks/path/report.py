"""The tables of a run, for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.path.figures import Added, Way
from benchmarks.report import Bar, markdown


@dataclass(frozen=True)
class Result:
    """began: UTC, ISO 8601. machine: its processor. load: mean of the last minute before the run, in processes. served:
    precision and revision of the bundle. ways: by concurrency."""

    command: str
    began: str
    machine: str
    load: float
    served: str
    added: list[Added]
    ways: dict[int, Way]

    @property
    def bars(self) -> list[Bar]:
        return [one.bar for one in self.added]


def tables(result: Result) -> str:
    head = [
        "concurrency",
        "bare p50 ms",
        "served p50 ms",
        "added",
        "bare/s",
        "served/s",
        "added to the time per request",
    ]
    rows = [
        [
            str(one.concurrency),
            *(f"{one.p50_ms[way]:.1f}" for way in ("bare", "served")),
            f"{one.p50_added:.1%}",
            *(f"{one.per_s[way]:.2f}" for way in ("bare", "served")),
            f"{one.time_added:.1%}",
        ]
        for one in result.added
    ]
    parts = ["## What is added", markdown(head, rows), _rounds(result.added)]
    parts += ["## Where the time of a served request went (means, ms)", markdown(*_ways(result.ways))]
    parts += ["## CPU time of a request (ms, by process)", markdown(*_cpu(result.added))]
    return "\n\n".join([*parts, "\n".join(f"- {bar}" for bar in result.bars)])


def document(result: Result) -> str:
    """Markdown."""
    facts = {
        "command": f"`{result.command}`",
        "began": result.began,
        "machine": result.machine,
        "load before": f"{result.load:.1f}",
        "bundle": result.served,
    }
    told = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    what = (
        "Bare: the engine behind its scheduler in one process, tokens at hand. Served: client, Triton and all stages "
        "on the same machine. The same requests, in turn; medians over the rounds of each round's own ratio."
    )
    return "\n\n".join(["# What the package adds to the bare forward", told, what, tables(result)]) + "\n"


def _rounds(added: Sequence[Added]) -> str:
    lines = []
    for one in added:
        each = ", ".join(f"{p50:+.1%} / {time:+.1%}" for p50, time in one.each)
        lines.append(f"- concurrency {one.concurrency}, {one.rounds} rounds of {one.requests}, p50 / time: {each}")
    return "\n".join(lines)


def _ways(ways: dict[int, Way]) -> tuple[list[str], list[list[str]]]:
    names = ["client", "wire", "preprocess", "handover", "waiting", "passes", "verdict", "total", "preprocess_stage"]
    head = ["concurrency", *names[:-1], "of preprocess its stage"]
    return head, [[str(key), *(f"{getattr(way, name):.2f}" for name in names)] for key, way in ways.items()]


def _cpu(added: Sequence[Added]) -> tuple[list[str], list[list[str]]]:
    names = list(dict.fromkeys(name for one in added for name in one.cpu_ms["served"]))
    head = ["concurrency", "bare", "served", "added", *names]
    rows = []
    for one in added:
        bare, served = (sum(one.cpu_ms[way].values()) for way in ("bare", "served"))
        own = [f"{one.cpu_ms['served'].get(name, 0.0):.2f}" for name in names]
        rows.append([str(one.concurrency), f"{bare:.1f}", f"{served:.1f}", f"{served / bare - 1:.1%}", *own])
    return head, rows
