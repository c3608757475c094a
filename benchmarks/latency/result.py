"""All that a run leaves behind: where, of what, and how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.latency.figures import Point
from benchmarks.latency.sweep import Findings, Limit
from benchmarks.latency.verdicts import Judged


@dataclass(frozen=True)
class Origin:
    """began: UTC, ISO 8601. generator, server: machines; the server's is what the user said of it, or the generator's
    own for a server that was started here. workload: as read. texts: name and SHA-256 of their file. reference: what
    flips are counted against."""

    command: str
    began: str
    generator: str
    server: str
    workload: dict[str, Any]
    seed: int
    texts: dict[str, str]
    warm_up: int
    slo_ms: float
    reference: str


@dataclass(frozen=True)
class Result:
    """What was found, with its origin. The JSON of one is a later run's `--reference`; no text is in it."""

    origin: Origin
    points: list[Point]
    limit: Limit | None
    revisions: list[tuple[str | None, ...]]
    verdicts: dict[str, Judged]
    interrupted: bool

    @classmethod
    def of(cls, origin: Origin, findings: Findings, *, interrupted: bool) -> Result:
        revisions = sorted(findings.revisions, key=str)
        return cls(origin, findings.points, findings.limit, revisions, findings.verdicts, interrupted)
