"""Four times more requests than the server can judge: what it judges stays as much, the rest is refused and typed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

import grpc.aio

from benchmarks.chaos.report import Part, say
from benchmarks.chaos.server import Run
from benchmarks.chaos.texts import Known
from benchmarks.chaos.wire import CHANNEL_OPTIONS, INFER
from benchmarks.latency.schedule import poisson
from benchmarks.overload.calls import CONCURRENCY, REFUSALS, Answered, Caller, flood, goodput, measure_capacity

TIMES_CAPACITY = 4.0
LEAST_GOODPUT = 0.90
"""Of the capacity."""

CAPACITY_S, OVERLOAD_S, OVERLOAD_SHORT_S = 15.0, 60.0, 15.0


def overload_problems(
    answers: dict[str, list[Answered]], *, sent: Sequence[str], capacity: float, window_s: float
) -> list[str]:
    """What fell short. answers: by request id, all that came for it. sent: the ids in the order of arrival."""
    found = []
    lost = sum(not answers.get(request_id) for request_id in sent)
    twice = sum(len(answers.get(request_id, ())) > 1 for request_id in sent)
    if lost or twice:
        found.append(f"{lost} requests without an outcome, {twice} with more than one")
    if strange := set(answers) - set(sent):
        found.append(f"{len(strange)} outcomes for requests that were never sent")
    every = [one for came in answers.values() for one in came]
    late = sum(one.word == "right" and not one.is_good for one in every)
    if late:
        found.append(f"{late} verdicts after their deadline")
    words = Counter(one.word for one in every if one.word != "right")
    found += [f"{count} requests: {word}" for word, count in sorted(words.items()) if word not in REFUSALS]
    reached = goodput(every, window_s)
    if capacity <= 0:
        found.append("no capacity was measured")
    elif reached < LEAST_GOODPUT * capacity:
        found.append(f"goodput {reached:.2f}/s is {reached / capacity:.0%} of capacity, at least {LEAST_GOODPUT:.0%}")
    return found


async def _run(run: Run, url: str, known: Sequence[Known]) -> Part:
    part, window_s = Part("overload"), OVERLOAD_SHORT_S if run.short else OVERLOAD_S
    async with grpc.aio.insecure_channel(url, options=CHANNEL_OPTIONS) as channel:
        caller = Caller(channel.unary_unary(INFER), known)
        capacity, words = await measure_capacity(caller, CAPACITY_S)
        say(f"overload: capacity {capacity:.2f} right verdicts/s at concurrency {CONCURRENCY}")
        part.short += [f"capacity: {n} requests: {word}" for word, n in sorted(words.items()) if word != "right"]
        moments = poisson(TIMES_CAPACITY * capacity, window_s, seed=f"{run.seed} overload") if capacity else []
        cpu, wall = time.process_time(), time.monotonic()
        sent, answers = await flood(caller, moments, say=say)
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    for text in caller.texts:
        run.marks.look("error messages", text)
    every = [one for came in answers.values() for one in came]
    part.counts += Counter(one.word for one in every)
    part.counts["sent"] = len(sent)
    reached = goodput(every, window_s)
    part.figures["capacity"] = f"{capacity:.2f}/s"
    part.figures["goodput"] = f"{reached:.2f}/s" + (f", {reached / capacity:.0%} of capacity" if capacity else "")
    refused = sorted(one.seconds for one in every if one.word in REFUSALS)
    if refused:
        part.figures["a refusal came after"] = f"median {refused[len(refused) // 2] * 1e3:.0f} ms"
    part.figures["CPU of the callers"] = f"{cpu / wall:.0%} of a core"
    part.short += overload_problems(answers, sent=sent, capacity=capacity, window_s=window_s)
    return part


def run_overload(run: Run, url: str, known: Sequence[Known]) -> Part:
    """The part `overload` against the server at `url` (host:port)."""
    return asyncio.run(_run(run, url, known))
