"""The order of the day: one engine after another, each in a process of its own, and what all of them found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.gpu_day_one import parity, served, starts
from benchmarks.gpu_day_one.apart import Broken
from benchmarks.gpu_day_one.findings import Finding
from build_scripts.progress import Steps

STEPS = 7
START_S = 1800.0
"""Of a process: a first start that compiles its kernels, and all its probes. What takes longer hangs."""
GPUS = {"h100": ("H100",), "l40s": ("L40S",), "l4": ("L4",), "a10": ("A10", "A10G")}
"""Those that `docs/gpu_statements.json` has rows for, by a word of nvidia-smi's name."""


class Run(Protocol):
    """`apart.apart`; in a test the call itself."""

    def __call__(self, function: Callable[..., Any], *arguments: Any, seconds: float) -> Any: ...


@dataclass(frozen=True)
class Day:
    """start: the first one. served: our engine's part; None: it could not be asked."""

    start: starts.Start
    findings: list[Finding]
    served: served.Served | None


def run_day(
    bundle: Path,
    reference: Path | None,
    *,
    gpu: str | None,
    precision: str,
    seconds: float,
    steps: Steps,
    run: Run,
) -> Day:
    """gpu: nvidia-smi's name. seconds: of each row of the latency table. Raises Broken where the first start fails.

    A later process that breaks off is a finding that could not be told, and the day goes on.
    """
    found: list[Finding] = []

    def tried(name: str, function: Callable[..., Any], *arguments: Any, seconds: float = START_S) -> Any:
        try:
            return run(function, *arguments, seconds=seconds)
        except Broken as error:
            fix = "read what it printed above; the other answers stand"
            found.append(Finding(name, f"(the process of {name})", None, f"it gave no answer: {error}", fix))
            return None

    steps.next("the package as it is served: ids, images, log-probabilities, requests, errors")
    start: starts.Start = run(starts.first, bundle, seconds=START_S)
    found += start.findings
    steps.next("a second start, with the overlap scheduler the other way")
    other = tried("second_start", starts.second, bundle)
    if other is not None:
        found += starts.started(start, other)
    steps.next("with CUDA graphs")
    found += tried("cuda_graphs", starts.with_cuda_graphs, bundle, start.drafts) or []
    steps.next("with guided decoding")
    found += tried("guided_decoding", starts.guided, bundle, start.plain) or []
    steps.next("the shipped prompts on the reference" if reference else "no --reference: parity is left out")
    side = None if reference is None else tried("reference", parity.kept, reference)
    steps.next("our engine: the shipped prompts, and the latency table")
    ours: served.Served | None = tried(
        "served", served.served, bundle, side, seconds, seconds=START_S + len(served.ROWS) * (seconds + 60)
    )
    if ours is not None:
        found.append(served.load_finding(ours, gpu_row(gpu), precision))
        found += served.latency_findings(ours.loads, precision)
        found += [] if ours.report is None else parity.findings(ours.report, precision)
    steps.next("last, since it may end the executor: log-probabilities for a part of a batch")
    found += tried("mixed_logprobs", starts.mixed, bundle) or []
    return Day(start, found, ours)


def gpu_row(name: str | None) -> str | None:
    """The GPU's part of a statement's id; None: no row is about it."""
    words = set((name or "").replace("-", " ").split())
    return next((row for row, marks in GPUS.items() if words & set(marks)), None)
