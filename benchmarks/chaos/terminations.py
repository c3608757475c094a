"""One of two servers is told to end while callers wait for their answers: none of them is lost."""

from __future__ import annotations

import time

from tritonguard import Guard

from benchmarks.chaos.load import Load, not_allowed
from benchmarks.chaos.report import Part, say
from benchmarks.chaos.server import Run, served, wired

CONCURRENCY = 4
_DEADLINE_S = 20.0


def run_terminations(run: Run) -> Part:
    """The part `term`: SIGTERM under load, with another server that the client knows."""
    part = Part("term")
    seconds = 3.0 if run.short else 8.0
    with served(run, "term-staying") as staying, served(run, "term-leaving") as leaving, wired(staying) as wire:
        known = run.judge_at_rest(wire.send)
        with Guard((leaving.endpoints.grpc, staying.endpoints.grpc)) as guard:
            load = Load(guard, known, run.marks, deadline_s=_DEADLINE_S)
            with load.running(CONCURRENCY):
                time.sleep(seconds)
                run.take_down(leaving.endpoints)
                say("term: one of two servers is told to end")
                began = time.monotonic()
                status = leaving.stop()
                after = time.monotonic()
                time.sleep(seconds)
            words = load.words()
            part.require(load.words(after=after)["right"] > 0, "no right verdict after one server ended")
    part.figures["the server ended"] = f"status {status} after {after - began:.1f} s"
    part.counts += words
    part.require(status == 0, f"the server ended with status {status} instead of 0")
    part.short += [f"lost: {line}" for line in not_allowed(words, {"right"})]
    return part
