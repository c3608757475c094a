"""A closed loop: so many callers, each sending its next request when its last is answered."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

import numpy as np
from tritonguard.errors import GuardError

from engines.protocol import Answer, Engine, Job

CONCURRENCIES = (1, 8, 32)


@dataclass(frozen=True)
class Load:
    """One row of the latency table. failed: {kind of error: requests}. ms of requests that were answered."""

    kind: str
    concurrency: int
    answered: int
    failed: dict[str, int]
    p50_ms: float
    p95_ms: float
    per_s: float


def closed_loop(engine: Engine, kind: str, jobs: Sequence[Job], *, concurrency: int, seconds: float) -> Load:
    """`jobs` in turn, over and over, by `concurrency` callers for `seconds`, and at least as many requests."""
    numbers = count()
    until = time.monotonic() + seconds
    times: list[float] = []
    failed: list[str] = []

    def caller(_: int) -> None:
        while (number := next(numbers)) < concurrency or time.monotonic() < until:
            began = time.perf_counter()
            error = _ask(engine.run, jobs[number % len(jobs)])
            if error is None:
                times.append((time.perf_counter() - began) * 1e3)
            else:
                failed.append(error)

    began = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(caller, range(concurrency)))
    wall = time.perf_counter() - began
    load = Load(
        kind,
        concurrency,
        len(times),
        {name: failed.count(name) for name in sorted(set(failed))},
        float(np.percentile(times, 50)) if times else math.nan,
        float(np.percentile(times, 95)) if times else math.nan,
        len(times) / wall,
    )
    print(f"  {kind}, {concurrency} at once: {load.per_s:.1f}/s", file=sys.stderr, flush=True)
    return load


def _ask(run: Callable[[Sequence[Job]], list[Answer | GuardError]], job: Job) -> str | None:
    """None: answered; else the kind of error."""
    try:
        (answer,) = run([job])
    except Exception as error:  # an engine that breaks is a row of failures, not the end of the table
        return type(error).__name__
    return answer.kind if isinstance(answer, GuardError) else None
