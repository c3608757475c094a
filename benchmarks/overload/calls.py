"""Callers of a server that wait for nobody, and what came for them. `benchmarks.chaos` overloads with them too."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from benchmarks.chaos.texts import Known, good, judged, new_id
from benchmarks.chaos.wire import TIMEOUT_S, Outcome, refusal, verdict

REFUSALS = frozenset({"overloaded", "deadline_exceeded"})
DEADLINE_S = 10.0
CONCURRENCY = 8
_SAY_EVERY_S = 10.0


@dataclass(frozen=True)
class Answered:
    """word: the answer's. at_s: when it came, from the epoch on. seconds: how long it took, from the intended moment of
    sending. intended_s: that moment, from the epoch on. late_s: how long after it the request was sent. deadline_s: its
    deadline."""

    word: str
    at_s: float
    seconds: float
    intended_s: float = 0.0
    late_s: float = 0.0
    deadline_s: float = DEADLINE_S

    @property
    def is_good(self) -> bool:
        """A right verdict within its deadline."""
        return self.word == "right" and self.seconds <= self.deadline_s


def goodput(answers: Sequence[Answered], window_s: float) -> float:
    """Right verdicts in time, per second from the first arrival until the last of them came.

    At least the window in which requests arrived is divided by. What was taken in within it and judged right behind
    it counts with its time: verdicts come in batches, and cutting one off at the window's end would be an error of a
    batch in some.
    """
    came = [one.at_s for one in answers if one.is_good]
    return len(came) / max([window_s, *came])


class Caller:
    """Asks without waiting. deadline_s: of what is asked from now on. texts: of errors, all that came."""

    def __init__(self, call: Any, known: Sequence[Known], *, deadline_s: float = DEADLINE_S) -> None:
        self._call = call
        self._known = known
        self.deadline_s = deadline_s
        self.texts: list[str] = []

    async def ask(self, number: int, request_id: str, epoch: float, intended_s: float | None = None) -> Answered:
        """intended_s: from the epoch (monotonic seconds) on; None: now."""
        one = self._known[number % len(self._known)]
        deadline_s = self.deadline_s
        sent = good(one.prompt, request_id=request_id, deadline_s=deadline_s)
        began = time.monotonic()
        intended = began - epoch if intended_s is None else intended_s
        outcome = await self._outcome(sent.body, began)
        at_s = time.monotonic() - epoch
        self.texts.append(outcome.text)
        word = judged(outcome, one, request_id)
        return Answered(word, at_s, at_s - intended, intended, began - epoch - intended, deadline_s)

    async def _outcome(self, body: bytes, began: float) -> Outcome:
        try:
            reply = await self._call(body, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return refusal(error, time.monotonic() - began)
        return verdict(reply, time.monotonic() - began)


async def measure_capacity(
    caller: Caller, seconds: float, *, concurrency: int = CONCURRENCY
) -> tuple[float, Counter[str]]:
    """Right verdicts per second with so many callers that each wait for their answer, and all answers."""
    began = time.monotonic()
    answers: list[Answered] = []

    async def ask_on(first: int) -> None:
        number = first
        while time.monotonic() - began < seconds:
            answers.append(await caller.ask(number, new_id(), began))
            number += concurrency

    await asyncio.gather(*(ask_on(first) for first in range(concurrency)))
    return goodput(answers, seconds), Counter(one.word for one in answers)


async def flood(
    caller: Caller, moments: Sequence[float], *, epoch: float | None = None, say: Callable[[str], None] = print
) -> tuple[list[str], dict[str, list[Answered]]]:
    """Send a request at each moment, whatever became of those before; the ids, and what came for each.

    moments: seconds from the epoch on, in order. epoch: monotonic seconds; None: now.
    """
    sent: list[str] = []
    answers: dict[str, list[Answered]] = {}
    epoch = time.monotonic() if epoch is None else epoch

    async def ask(number: int, request_id: str, moment: float) -> None:
        answers.setdefault(request_id, []).append(await caller.ask(number, request_id, epoch, moment))

    tasks, said = [], time.monotonic()
    for number, moment in enumerate(moments):
        await asyncio.sleep(max(0.0, epoch + moment - time.monotonic()))
        sent.append(new_id())
        tasks.append(asyncio.create_task(ask(number, sent[-1], moment)))
        if time.monotonic() - said > _SAY_EVERY_S:
            said = time.monotonic()
            say(f"overload: {number + 1} of {len(moments)} sent, {len(answers)} answered")
    # A task that failed leaves its request without an outcome, which is counted.
    await asyncio.gather(*tasks, return_exceptions=True)
    return sent, answers
