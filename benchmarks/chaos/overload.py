"""Four times more requests than the server can judge: what it judges stays as much, the rest is refused and typed."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from benchmarks.chaos.report import Part, say
from benchmarks.chaos.server import Run
from benchmarks.chaos.texts import Known, good, judged, new_id
from benchmarks.chaos.wire import CHANNEL_OPTIONS, INFER, TIMEOUT_S, Outcome, refusal, verdict

TIMES_CAPACITY = 4.0
LEAST_GOODPUT = 0.90
"""Of the capacity."""

REFUSALS = frozenset({"overloaded", "deadline_exceeded"})
DEADLINE_S = 10.0
CONCURRENCY = 8
CAPACITY_S, OVERLOAD_S, OVERLOAD_SHORT_S = 15.0, 60.0, 15.0


@dataclass(frozen=True)
class Answered:
    """word: the answer's. at_s: when it came, from the first arrival on. seconds: how long it took."""

    word: str
    at_s: float
    seconds: float

    @property
    def is_good(self) -> bool:
        """A right verdict within its deadline."""
        return self.word == "right" and self.seconds <= DEADLINE_S


def goodput(answers: Sequence[Answered], window_s: float) -> float:
    """Right verdicts in time, per second from the first arrival until the last of them came.

    At least the window in which requests arrived is divided by. What was taken in within it and judged right behind
    it counts with its time: verdicts come in batches, and cutting one off at the window's end would be an error of a
    batch in some.
    """
    came = [one.at_s for one in answers if one.is_good]
    return len(came) / max([window_s, *came])


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


def arrivals(generator: random.Random, rate: float, window_s: float) -> list[float]:
    """The moments of a Poisson stream, seconds from its start."""
    moments, at_s = [], generator.expovariate(rate)
    while at_s < window_s:
        moments.append(at_s)
        at_s += generator.expovariate(rate)
    return moments


class Caller:
    """Asks without waiting. texts: of errors, all that came."""

    def __init__(self, call: Any, known: Sequence[Known]) -> None:
        self._call = call
        self._known = known
        self.texts: list[str] = []

    async def ask(self, number: int, request_id: str, epoch: float) -> Answered:
        one = self._known[number % len(self._known)]
        sent = good(one.prompt, request_id=request_id, deadline_s=DEADLINE_S)
        began = time.monotonic()
        outcome = await self._outcome(sent.body, began)
        now = time.monotonic()
        self.texts.append(outcome.text)
        return Answered(judged(outcome, one, request_id), now - epoch, now - began)

    async def _outcome(self, body: bytes, began: float) -> Outcome:
        try:
            reply = await self._call(body, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return refusal(error, time.monotonic() - began)
        return verdict(reply, time.monotonic() - began)


async def measure_capacity(caller: Caller, seconds: float) -> tuple[float, Counter[str]]:
    """Right verdicts per second with `CONCURRENCY` callers that each wait for their answer, and all answers."""
    began = time.monotonic()
    answers: list[Answered] = []

    async def ask_on(first: int) -> None:
        number = first
        while time.monotonic() - began < seconds:
            answers.append(await caller.ask(number, new_id(), began))
            number += CONCURRENCY

    await asyncio.gather(*(ask_on(first) for first in range(CONCURRENCY)))
    return goodput(answers, seconds), Counter(one.word for one in answers)


async def flood(caller: Caller, moments: Sequence[float]) -> tuple[list[str], dict[str, list[Answered]]]:
    """Send a request at each moment, whatever became of those before; the ids, and what came for each."""
    sent: list[str] = []
    answers: dict[str, list[Answered]] = {}
    epoch = time.monotonic()

    async def ask(number: int, request_id: str) -> None:
        answers.setdefault(request_id, []).append(await caller.ask(number, request_id, epoch))

    tasks, said = [], epoch
    for number, moment in enumerate(moments):
        await asyncio.sleep(max(0.0, epoch + moment - time.monotonic()))
        sent.append(new_id())
        tasks.append(asyncio.create_task(ask(number, sent[-1])))
        if time.monotonic() - said > 10:
            said = time.monotonic()
            say(f"overload: {number + 1} of {len(moments)} sent, {len(answers)} answered")
    # A task that failed leaves its request without an outcome, which is counted.
    await asyncio.gather(*tasks, return_exceptions=True)
    return sent, answers


async def _run(run: Run, url: str, known: Sequence[Known]) -> Part:
    part, window_s = Part("overload"), OVERLOAD_SHORT_S if run.short else OVERLOAD_S
    async with grpc.aio.insecure_channel(url, options=CHANNEL_OPTIONS) as channel:
        caller = Caller(channel.unary_unary(INFER), known)
        capacity, words = await measure_capacity(caller, CAPACITY_S)
        say(f"overload: capacity {capacity:.2f} right verdicts/s at concurrency {CONCURRENCY}")
        part.short += [f"capacity: {n} requests: {word}" for word, n in sorted(words.items()) if word != "right"]
        moments = arrivals(run.random("overload"), TIMES_CAPACITY * capacity, window_s) if capacity else []
        cpu, wall = time.process_time(), time.monotonic()
        sent, answers = await flood(caller, moments)
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
